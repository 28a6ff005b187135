//! An object store that fails when told to, or as a seed has it.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory,
    path::Path,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::Notify;

/// Of a hundred requests in a storm, so many go wrong.
const STORM: u32 = 4;
const SLOW: Duration = Duration::from_millis(5);

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
    /// It is written, after a while.
    Slow,
}

/// What goes wrong with a read.
#[derive(Debug, Clone, Copy)]
enum ReadFault {
    Refused,
    /// The body ends too early.
    Torn,
    Slow,
}

impl Fault {
    /// Those that answer.
    pub const ALL: [Self; 3] = [Self::Refused, Self::AnswerLost, Self::RetryFindsItself];
    const EVERY: [Self; 5] =
        [Self::RetryFindsItself, Self::Refused, Self::AnswerLost, Self::Hangs, Self::Slow];
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
    /// While there is one, requests go wrong at random.
    storm: Mutex<Option<StdRng>>,
    struck: Mutex<usize>,
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

    /// What was planned does not happen any more.
    pub fn calm_plan(&self) {
        *self.plan.lock().unwrap() = None;
    }

    /// The next `times` lists fail.
    pub fn blind(&self, times: usize) {
        *self.blind.lock().unwrap() = times;
    }

    /// From now on requests go wrong at random: writes in every way, reads are refused or cut short, all may be slow.
    pub fn storm(&self, seed: u64) {
        *self.storm.lock().unwrap() = Some(StdRng::seed_from_u64(seed));
    }

    /// The storm is over; how many requests it struck.
    pub fn calm(&self) -> usize {
        *self.storm.lock().unwrap() = None;
        std::mem::take(&mut *self.struck.lock().unwrap())
    }

    /// One of `kinds` if the storm strikes this request.
    fn gust<T: Copy>(&self, kinds: &[T]) -> Option<T> {
        let mut storm = self.storm.lock().unwrap();
        let random = storm.as_mut()?;
        if random.random_range(0..100) >= STORM {
            return None;
        }
        *self.struck.lock().unwrap() += 1;
        Some(kinds[random.random_range(0..kinds.len())])
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
        let Some(active) = plan.as_mut().filter(|plan| location.as_ref().contains(&plan.path)) else {
            // Data files have names of their own: nobody else's can be found there.
            let log = location.as_ref().contains("_delta_log");
            return self.gust(if log { &Fault::EVERY } else { &Fault::EVERY[1..] });
        };
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

/// Half of the body, then an error.
fn torn(whole: GetResult) -> GetResult {
    let (meta, range, attributes) = (whole.meta.clone(), whole.range.clone(), whole.attributes.clone());
    let body = futures::stream::once(whole.bytes()).flat_map(|bytes| {
        let parts = match bytes {
            Ok(bytes) => {
                let half = bytes.slice(..bytes.len() / 2);
                vec![Ok(half), Err(FaultyStore::failed("the body was cut short"))]
            }
            Err(error) => vec![Err(error)],
        };
        futures::stream::iter(parts)
    });
    GetResult { payload: GetResultPayload::Stream(body.boxed()), meta, range, attributes }
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
        if fault == Some(Fault::Slow) {
            tokio::time::sleep(SLOW).await;
        }
        let result = self.inner.put_opts(location, payload, options).await?;
        match fault {
            None | Some(Fault::Slow) => Ok(result),
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
        match self.gust(&[ReadFault::Refused, ReadFault::Torn, ReadFault::Slow]) {
            None => self.inner.get_opts(location, options).await,
            Some(ReadFault::Refused) => Err(Self::failed("the read was refused")),
            Some(ReadFault::Torn) => self.inner.get_opts(location, options).await.map(torn),
            Some(ReadFault::Slow) => {
                tokio::time::sleep(SLOW).await;
                self.inner.get_opts(location, options).await
            }
        }
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
        if self.gust(&[()]).is_some() {
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
