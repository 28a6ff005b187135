//! Object stores by URL: local folders, memory, and S3 or what speaks like it.

use std::sync::{Arc, Once};

use deltalake::{
    DeltaResult,
    logstore::{
        LogStore, LogStoreFactory, ObjectStoreFactory, ObjectStoreRef, StorageConfig, default_logstore,
        logstore_factories, object_store_factories,
    },
};
use object_store::{ObjectStore, aws::AmazonS3Builder, path::Path};
use url::Url;

use crate::LakeError;

/// How an S3 is reached. What is not given comes from the environment (`AWS_…`), or is as with Amazon's.
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    /// Of another one than Amazon's; `http://` means without TLS.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Key id and key.
    pub access_key: Option<(String, String)>,
}

/// The store that a URL's host is in.
///
/// # Errors
/// If no store serves the URL's scheme, or it lacks a setting.
pub(crate) fn open(url: &Url, s3: &S3Options) -> Result<Arc<dyn ObjectStore>, LakeError> {
    let refuse = |source: Option<Box<dyn std::error::Error + Send + Sync>>| LakeError::Root {
        root: url.to_string(),
        source,
    };
    if url.scheme() == "s3" {
        let bucket = url.host_str().ok_or_else(|| refuse(None))?;
        return open_s3(bucket, s3).map_err(|error| refuse(Some(error.into())));
    }
    let scheme = Url::parse(&format!("{}://", url.scheme())).map_err(|error| refuse(Some(error.into())))?;
    let factory = object_store_factories().get(&scheme).map(|entry| Arc::clone(entry.value()));
    let opened = factory.ok_or_else(|| refuse(None))?.parse_url_opts(url, &StorageConfig::default());
    opened.map(|(store, _)| store).map_err(|error| refuse(Some(error.into())))
}

fn open_s3(bucket: &str, options: &S3Options) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some((id, key)) = &options.access_key {
        builder = builder.with_access_key_id(id).with_secret_access_key(key);
    }
    Ok(Arc::new(builder.build()?))
}

/// Tells the Delta library of S3, once a process: a log lies there as it does elsewhere, and conditional puts decide whose
/// commit it is.
pub(crate) fn know_s3() {
    static KNOWN: Once = Once::new();
    KNOWN.call_once(|| {
        if let Ok(scheme) = Url::parse("s3://") {
            object_store_factories().insert(scheme.clone(), Arc::new(S3));
            logstore_factories().insert(scheme, Arc::new(S3));
        }
    });
}

struct S3;

impl ObjectStoreFactory for S3 {
    fn parse_url_opts(&self, url: &Url, _: &StorageConfig) -> DeltaResult<(ObjectStoreRef, Path)> {
        let store = open_s3(url.host_str().unwrap_or_default(), &S3Options::default())?;
        Ok((store, Path::from_url_path(url.path())?))
    }
}

impl LogStoreFactory for S3 {
    fn with_options(
        &self,
        prefixed_store: ObjectStoreRef,
        root_store: ObjectStoreRef,
        location: &Url,
        options: &StorageConfig,
    ) -> DeltaResult<Arc<dyn LogStore>> {
        Ok(default_logstore(prefixed_store, root_store, location, options))
    }
}
