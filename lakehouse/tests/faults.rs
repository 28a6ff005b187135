//! An object store that fails when told to.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use tokio::sync::Notify;

/// What goes wrong with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is written.
    Refused,
    /// It is written, but the answer is lost.
    AnswerLost,
    /// It is written, the answer is a server error, and the client's own retry finds the object there.
    RetryFindsItself,
    /// Nothing is written, and no answer comes: whoever waits is dropped, as by a crash.
    Hangs,
}

impl Fault {
    /// Those that answer.
    pub const ALL: [Self; 3] = [Self::Refused, Self::AnswerLost, Self::RetryFindsItself];
}

#[derive(Debug)]
struct Plan {
    fault: Fault,
    /// Part of the paths it strikes.
    path: String,
    times: usize,
}

#[derive(Debug, Default)]
pub struct FaultyStore {
    inner: InMemory,
    plan: Mutex<Option<Plan>>,
    /// This many lists fail.
    blind: Mutex<usize>,
    hung: Notify,
}

impl FaultyStore {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The next `times` writes whose path holds `path` go wrong.
    pub fn fail(&self, fault: Fault, path: &str, times: usize) {
        *self.plan.lock().unwrap() = Some(Plan { fault, path: path.to_owned(), times });
    }

    /// The next `times` lists fail.
    pub fn blind(&self, times: usize) {
        *self.blind.lock().unwrap() = times;
    }

    /// Waits until a write hangs.
    pub async fn hung(&self) {
        self.hung.notified().await;
    }

    /// Whether all that was planned has happened.
    pub fn struck(&self) -> bool {
        self.plan.lock().unwrap().is_none() && *self.blind.lock().unwrap() == 0
    }

    fn strike(&self, location: &Path) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap();
        let active = plan.as_mut().filter(|plan| location.as_ref().contains(&plan.path))?;
        let fault = active.fault;
        active.times -= 1;
        if active.times == 0 {
            *plan = None;
        }
        Some(fault)
    }

    fn failed(what: &'static str) -> Error {
        Error::Generic { store: "faulty", source: what.into() }
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty store")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.strike(location);
        if fault == Some(Fault::Refused) {
            return Err(Self::failed("the write was refused"));
        }
        if fault == Some(Fault::Hangs) {
            self.hung.notify_one();
            futures::future::pending::<()>().await;
        }
        let result = self.inner.put_opts(location, payload, options).await?;
        match fault {
            None => Ok(result),
            Some(Fault::RetryFindsItself) => Err(Error::AlreadyExists {
                path: location.to_string(),
                source: "a retry found the object".into(),
            }),
            Some(_) => Err(Self::failed("the answer was lost")),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let mut blind = self.blind.lock().unwrap();
        if *blind > 0 {
            *blind -= 1;
            return Box::pin(futures::stream::once(async { Err(Self::failed("the list was refused")) }));
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
