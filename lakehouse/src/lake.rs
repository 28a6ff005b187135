//! The lake: a folder on an object store, and the Delta tables in it.

use std::{collections::BTreeMap, sync::Arc};

use deltalake::{
    DeltaTableError,
    datafusion::{
        catalog::TableProvider,
        prelude::{SessionConfig, SessionContext},
    },
    ensure_table_uri,
    logstore::{LogStoreRef, StorageConfig, logstore_with},
};
use lakeward_change::TableId;
use object_store::{ObjectStore, path::Path};
use tokio::sync::Mutex;
use url::Url;

use crate::{
    LakeError, Layer, S3Options,
    layout::{slug, table_path},
    store,
    table::Table,
};

/// A lake; cheap to clone.
#[derive(Clone)]
pub struct Lake {
    root: Url,
    store: Arc<dyn ObjectStore>,
    names: Arc<BTreeMap<TableId, String>>,
    session: SessionContext,
    /// Held by whoever puts the files of watermarks together: one at a time in a process.
    watermark_files: Arc<Mutex<()>>,
    /// Held by whoever commits dead letters.
    letter_files: Arc<Mutex<()>>,
}

impl Lake {
    /// Opens the lake at a folder, which is created if missing, or at a URL; an S3 is reached as the environment says.
    /// `names` gives tables short names: what has one lies at `{layer}/{short name}`.
    ///
    /// # Errors
    /// If the URL has a scheme that no object store serves, or the folder cannot be made.
    pub fn open(root: &str, names: BTreeMap<TableId, String>) -> Result<Self, LakeError> {
        Self::open_with(root, names, &S3Options::default())
    }

    /// As [`Self::open`], an S3 with these options.
    ///
    /// # Errors
    /// As [`Self::open`], and if the options lack something.
    pub fn open_with(
        root: &str,
        names: BTreeMap<TableId, String>,
        s3: &S3Options,
    ) -> Result<Self, LakeError> {
        let refuse =
            |error: DeltaTableError| LakeError::Root { root: root.to_owned(), source: Some(error.into()) };
        store::know_s3();
        let url = ensure_table_uri(root).map_err(refuse)?;
        let store = store::open(&url, s3)?;
        Self::with_store(url, store, names)
    }

    /// Opens the lake at `root` on a given store, whose own root is the root of the URL's host (for `file:` URLs: of
    /// the file system).
    ///
    /// # Errors
    /// If the URL cannot be a base.
    pub fn with_store(
        mut root: Url,
        store: Arc<dyn ObjectStore>,
        names: BTreeMap<TableId, String>,
    ) -> Result<Self, LakeError> {
        if root.cannot_be_a_base() {
            return Err(LakeError::Root { root: root.into(), source: None });
        }
        if !root.path().ends_with('/') {
            root.set_path(&format!("{}/", root.path()));
        }
        let (watermark_files, letter_files) = Default::default();
        Ok(Self { root, store, names: Arc::new(names), session: session(), watermark_files, letter_files })
    }

    pub fn url(&self) -> &Url {
        &self.root
    }

    /// A table's path relative to the lake.
    pub fn table_path(&self, layer: Layer, source: &str, table: &TableId) -> String {
        table_path(layer, source, table, self.names.get(table))
    }

    /// A table's URL.
    ///
    /// # Errors
    /// Never for paths that [`Self::table_path`] gives.
    pub fn table_url(&self, path: &str) -> Result<Url, LakeError> {
        self.join(&format!("{path}/"))
    }

    /// A DataFusion session for the lake's tables. All sessions of a lake share one runtime.
    pub fn session(&self) -> SessionContext {
        self.session.clone()
    }

    /// A session that reads one file after the other: for little memory, and rows in the files' order.
    pub(crate) fn serial_session(&self) -> SessionContext {
        let config = self.session.copied_config().with_target_partitions(1);
        SessionContext::new_with_config_rt(config, self.session.runtime_env())
    }

    /// A table at a version (`None`: the newest), for DataFusion.
    ///
    /// # Errors
    /// If there is no such table or version, or the store fails.
    pub async fn read(&self, path: &str, version: Option<i64>) -> Result<Arc<dyn TableProvider>, LakeError> {
        let table = Table::open_at(self, path, version).await?;
        table.provider(&self.session).await
    }

    pub(crate) fn watermark_files(&self) -> &Mutex<()> {
        &self.watermark_files
    }

    pub(crate) fn letter_files(&self) -> &Mutex<()> {
        &self.letter_files
    }

    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Where an object lies in [`Self::store`], given its path in the lake.
    pub(crate) fn object_path(&self, relative: &str) -> Result<Path, LakeError> {
        let url = self.join(relative)?;
        Path::from_url_path(url.path())
            .map_err(|error| LakeError::Root { root: url.into(), source: Some(error.into()) })
    }

    pub(crate) fn feature_path(name: &str) -> String {
        format!("{}/{}", Layer::Features, slug(name))
    }

    pub(crate) fn log_store(&self, path: &str) -> Result<LogStoreRef, LakeError> {
        logstore_with(Arc::clone(&self.store), &self.table_url(path)?, StorageConfig::default())
            .map_err(LakeError::delta(path, "opened"))
    }

    fn join(&self, relative: &str) -> Result<Url, LakeError> {
        self.root
            .join(relative)
            .map_err(|error| LakeError::Root { root: relative.to_owned(), source: Some(error.into()) })
    }
}

/// Bytes of file footers that are kept. Most files are read once or twice, then others take their places.
const FOOTERS: usize = 8 << 20;

/// Names as they are written; plain string arrays instead of views, which the row images are made of.
fn session() -> SessionContext {
    let config = SessionConfig::new()
        .set_bool("datafusion.sql_parser.enable_ident_normalization", false)
        .set_bool("datafusion.execution.parquet.schema_force_view_types", false);
    let session = SessionContext::new_with_config(config);
    session.runtime_env().cache_manager.get_file_metadata_cache().update_cache_limit(FOOTERS);
    session
}

impl std::fmt::Debug for Lake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lake").field("root", &self.root.as_str()).finish_non_exhaustive()
    }
}
