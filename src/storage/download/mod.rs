//! Templates straight from where users keep them into a pool, without secondary storage. Mirrors
//! `org.apache.cloudstack.direct.download` of the agent.
//!
//! ```text
//!   fetch ──┐ same template, pool, source: one flight
//!   fetch ──┴─▶ Flight ── thread ──▶ http / nfs / metalink ──▶ unfinished file ──▶ place ──▶ volume
//!                 │ dropped by the last who waits                (checksum)     (unpack, check, rename)
//!                 └──────▶ the work ends, its files and mounts go
//! ```
//!
//! Each flight has a thread of its own, which may block on disks and programs of the file system
//! without holding up others; only the network side of it runs on the runtime. At most
//! [`AT_ONCE`] work at a time.

mod checksum;
mod error;
pub mod http;
mod metalink;
mod nfs;
mod place;
mod transfer;
mod unpack;
mod url;
mod work;
mod workplace;
mod xz;

#[cfg(test)]
mod tests;

pub use error::DownloadError;
pub use http::Settings as HttpSettings;

use nfs::Mounts;
use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use work::Job;
use workplace::{Interest, Life};

const AT_ONCE: usize = 8;
/// How long a thread that hangs in a dead file system is waited for beyond the deadline.
const GRACE: Duration = Duration::from_secs(2);

/// How a template is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// And HTTPS, as the URL says.
    Http,
    Nfs,
    /// A list of mirrors behind an HTTP or HTTPS URL.
    Metalink,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    Qcow2,
    Raw,
    Iso,
}

/// A template to fetch.
#[derive(Clone)]
pub struct Request {
    pub source: Source,
    /// May hold credentials.
    pub url: String,
    /// `{ALGORITHM}hex`, bare hex for MD5, or blank.
    pub checksum: String,
    pub http: HttpSettings,
    pub format: Format,
    pub template_id: u64,
    /// Directory for unfinished files.
    pub temporary: PathBuf,
    /// Directory of the pool.
    pub pool: PathBuf,
    pub deadline: Duration,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("template_id", &self.template_id)
            .field("source", &self.source)
            .field("format", &self.format)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

/// A URL to look at.
#[derive(Clone)]
pub struct UrlCheck {
    pub source: Source,
    pub url: String,
    pub http: HttpSettings,
    pub format: Format,
    /// Shares are mounted here.
    pub temporary: PathBuf,
    pub deadline: Duration,
}

impl std::fmt::Debug for UrlCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UrlCheck")
            .field("source", &self.source)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// A template in its pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Of the file in the pool's directory.
    pub name: String,
    /// What a guest sees of it; for all but qcow2, the length of the file.
    pub virtual_size: u64,
    /// What it takes on disk.
    pub physical_size: u64,
}

type Outcome<T> = Result<T, Arc<DownloadError>>;

/// Work in progress, shared by those who wait for it. Dropping it tells the thread to end.
#[derive(Debug)]
struct Flight<T> {
    outcome: watch::Receiver<Option<Outcome<T>>>,
    _waiting: watch::Sender<()>,
}

/// What makes two requests the same.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    template_id: u64,
    pool: PathBuf,
    source: Source,
    url: String,
    checksum: String,
    format: Format,
}

/// Handle to all downloads of this agent.
#[derive(Debug, Clone)]
pub struct Downloads(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: PathBuf,
    life: Arc<Life>,
    flights: Mutex<HashMap<Key, Weak<Flight<Fetched>>>>,
    places: Arc<Semaphore>,
}

impl Downloads {
    /// `store` is the directory of certificates that servers gave for downloads.
    pub fn new(store: PathBuf) -> Downloads {
        Downloads(Arc::new(Shared {
            store,
            life: Arc::new(Life::new()),
            flights: Mutex::default(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }))
    }

    /// Where certificates for downloads are.
    pub fn store(&self) -> &std::path::Path {
        &self.0.store
    }

    /// Removes what downloads of earlier lives of the agent have left in the directory of a pool.
    /// Touches storage: not for threads of the runtime.
    pub fn clear(&self, pool: &std::path::Path) {
        self.0.life.clean_pool(pool);
    }

    /// Brings a template into its pool, or waits for the download of it that is under way.
    pub async fn fetch(&self, request: Request) -> Outcome<Fetched> {
        let deadline = request.deadline;
        let flight = self.join_or_start(request)?;
        wait(&flight, deadline).await
    }

    /// The size of what a URL names, read from as little of it as will do.
    pub async fn check_url(&self, check: UrlCheck) -> Outcome<u64> {
        let deadline = check.deadline;
        let (life, store) = (Arc::clone(&self.0.life), self.0.store.clone());
        let flight = self.start(deadline, move |_| {
            move |mounts: Arc<Mounts>| {
                let work = async move { work::check(&check, &life, store, &mounts).await };
                Box::pin(work) as Work<u64>
            }
        })?;
        wait(&flight, deadline).await
    }

    fn join_or_start(&self, request: Request) -> Outcome<Arc<Flight<Fetched>>> {
        let key = Key {
            template_id: request.template_id,
            pool: request.pool.clone(),
            source: request.source,
            url: request.url.clone(),
            checksum: request.checksum.clone(),
            format: request.format,
        };
        let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        let under_way = flights.get(&key).and_then(Weak::upgrade);
        // One that is over has its answer; whoever asks after it asks anew.
        if let Some(flight) = under_way.filter(|flight| flight.outcome.borrow().is_none()) {
            return Ok(flight);
        }
        let (life, store) = (Arc::clone(&self.0.life), self.0.store.clone());
        let deadline = request.deadline;
        let flight = self.start(deadline, move |interest| {
            let job = Job { request, life, store, interest };
            move |mounts: Arc<Mounts>| Box::pin(async move { job.run(&mounts).await }) as Work<Fetched>
        })?;
        flights.insert(key, Arc::downgrade(&flight));
        Ok(flight)
    }

    /// Starts the thread of a flight.
    fn start<T, F>(&self, deadline: Duration, prepare: impl FnOnce(Interest) -> F) -> Outcome<Arc<Flight<T>>>
    where
        T: Clone + Send + Sync + 'static,
        F: FnOnce(Arc<Mounts>) -> Work<T> + Send + 'static,
    {
        let (told, outcome) = watch::channel(None);
        let (waiting, watched) = watch::channel(());
        let interest = Interest { waiting: watched, until: Instant::now() + deadline, deadline };
        let work = prepare(interest.clone());
        let (runtime, places) = (Handle::current(), Arc::clone(&self.0.places));
        let thread = std::thread::Builder::new().name("download".into()).spawn(move || {
            let result = runtime.block_on(fly(work, &interest, &places));
            told.send_replace(Some(result.map_err(Arc::new)));
        });
        match thread {
            Ok(_) => Ok(Arc::new(Flight { outcome, _waiting: waiting })),
            Err(source) => Err(Arc::new(DownloadError::Thread(source))),
        }
    }
}

type Work<T> = Pin<Box<dyn Future<Output = Result<T, DownloadError>>>>;

/// On the thread: the work, until it is done or in vain. Files and mounts are gone when this ends.
async fn fly<T>(
    work: impl FnOnce(Arc<Mounts>) -> Work<T>,
    interest: &Interest,
    places: &Semaphore,
) -> Result<T, DownloadError> {
    let mounts = Arc::new(Mounts::default());
    tokio::select! {
        done = async {
            let _place = places.acquire().await;
            work(mounts).await
        } => done,
        lost = interest.lost() => Err(lost),
    }
}

async fn wait<T: Clone>(flight: &Flight<T>, deadline: Duration) -> Outcome<T> {
    let mut outcome = flight.outcome.clone();
    match tokio::time::timeout(deadline + GRACE, outcome.wait_for(Option::is_some)).await {
        Ok(Ok(told)) => told.clone().unwrap_or_else(|| Err(Arc::new(DownloadError::Ended))),
        // The thread panicked.
        Ok(Err(_)) => Err(Arc::new(DownloadError::Ended)),
        Err(_) => Err(Arc::new(DownloadError::Deadline(deadline))),
    }
}
