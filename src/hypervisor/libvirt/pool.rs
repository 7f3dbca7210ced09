//! The threads that libvirt calls run on: few, started when needed, replaced when stuck.
//!
//! ```text
//!            queue has room               thread free              returns
//!   submit -----------------> Queued ------------------> Running ----------> Done
//!                               |                           |
//!                               | deadline, caller gone     | deadline, caller gone
//!                               v                           v
//!                            dropped                    Abandoned --returns--> result dropped
//! ```
//!
//! An abandoned call still occupies its thread, since nothing can interrupt it. Up to `surplus`
//! threads are added in the place of such threads; when a stuck call returns after all, a thread
//! above `slots` ends. With all threads stuck, calls fail at once instead of waiting in line.
//!
//! Kinds of calls that may hang for reasons of their own have a pool each, so that dead storage or
//! a slow migration never takes the threads of quick questions. libvirtd has 20 workers by default
//! for all its clients: the pools together may exceed that only if everything hangs at once.
//!
//! The mutex guards the queue and the counters only. It is never held while a job runs.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::histogram::Histogram;

/// How many threads a pool may have, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Begins the names of its threads, which the kernel cuts after 15 characters.
    pub name: &'static str,
    /// Calls that run at once in normal operation.
    pub slots: usize,
    /// Threads beyond that, in the place of stuck ones.
    pub surplus: usize,
    /// How long a thread waits for its next call before it ends; `None` keeps it.
    pub idle: Option<Duration>,
}

/// Questions that libvirt answers from memory or by asking QEMU.
pub const QUERIES: Limits = Limits { name: "libvirt", slots: 3, surplus: 3, idle: None };
/// What changes a guest: start, stop, devices, snapshots.
pub const CHANGES: Limits =
    Limits { name: "libvirt-chg", slots: 12, surplus: 3, idle: Some(Duration::from_secs(30)) };
/// What touches storage pools, whose server may be dead.
pub const STORAGE: Limits =
    Limits { name: "libvirt-sto", slots: 4, surplus: 2, idle: Some(Duration::from_secs(90)) };
/// Migrations, each of which lasts for as long as the guest's memory takes.
pub const MIGRATIONS: Limits =
    Limits { name: "libvirt-mig", slots: 8, surplus: 0, idle: Some(Duration::from_secs(5)) };

/// Calls that may wait for a slot.
pub const QUEUE: usize = 256;

#[derive(Debug, PartialEq, Eq)]
pub enum CallError {
    Deadline { after: Duration },
    Overloaded { waiting: usize },
    AllStuck { stuck: usize },
    Panicked,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounters {
    pub calls: u64,
    pub deadline_misses: u64,
    /// Threads alive, idle or not.
    pub threads: usize,
    /// Threads in a call that nobody waits for any more.
    pub stuck: usize,
}

/// Handle; the threads end when the last one is dropped and their calls have returned.
#[derive(Debug, Clone)]
pub struct CallPool {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closing = true;
        state.queue.clear();
        drop(state);
        self.0.work.notify_all();
    }
}

struct Shared {
    limits: Limits,
    state: Mutex<State>,
    work: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("counters", &self.lock().counters).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Ids of the calls that run and are waited for.
    running: Vec<u64>,
    next_id: u64,
    next_thread: u64,
    idle: usize,
    closing: bool,
    counters: PoolCounters,
    /// Of calls that were waited for, up to their answer or deadline.
    latency: Histogram,
}

struct Job {
    id: u64,
    run: Box<dyn FnOnce() + Send>,
}

impl Shared {
    // A panic cannot leave the counters half changed: nothing between lock and unlock panics.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work; the second value tells that the thread has waited long enough.
    fn rest<'a>(&self, state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, bool) {
        match self.limits.idle {
            None => (self.work.wait(state).unwrap_or_else(PoisonError::into_inner), false),
            Some(longest) => {
                let (state, waited) =
                    self.work.wait_timeout(state, longest).unwrap_or_else(PoisonError::into_inner);
                (state, waited.timed_out())
            }
        }
    }
}

impl CallPool {
    pub fn new(limits: Limits) -> Self {
        let shared = Shared { limits, state: Mutex::default(), work: Condvar::new() };
        Self { owner: Arc::new(Owner(Arc::new(shared))) }
    }

    pub fn counters(&self) -> PoolCounters {
        self.owner.0.lock().counters
    }

    /// How long calls took, waiting in line included, up to their answer or deadline.
    pub fn latency(&self) -> Histogram {
        self.owner.0.lock().latency.clone()
    }

    /// Runs `job` on a thread of the pool and waits for it until `deadline`, waiting in line
    /// included. Dropping the future abandons the job like a passed deadline does.
    pub async fn call<T: Send + 'static>(
        &self,
        deadline: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let started = Instant::now();
        let (sender, mut receiver) = oneshot::channel();
        let run = Box::new(move || {
            // A closed receiver means that nobody waits: the result is dropped here.
            let _ = sender.send(job());
        });
        let abandon = Abandon { id: self.submit(run)?, shared: &self.owner.0 };
        let result = match tokio::time::timeout(deadline, &mut receiver).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(CallError::Panicked),
            // The result may have arrived together with the deadline.
            Err(_) => receiver.try_recv().map_err(|_| CallError::Deadline { after: deadline }),
        };
        self.owner.0.lock().latency.add(started.elapsed());
        match result {
            Err(CallError::Deadline { .. }) => abandon.shared.lock().counters.deadline_misses += 1,
            // The thread is done with the call and settles it by itself.
            _ => std::mem::forget(abandon),
        }
        result
    }

    fn submit(&self, run: Box<dyn FnOnce() + Send>) -> Result<u64, CallError> {
        let shared = &self.owner.0;
        let mut state = shared.lock();
        if state.counters.stuck >= shared.limits.slots + shared.limits.surplus {
            return Err(CallError::AllStuck { stuck: state.counters.stuck });
        }
        if state.queue.len() >= QUEUE {
            return Err(CallError::Overloaded { waiting: state.queue.len() });
        }
        state.counters.calls += 1;
        state.next_id += 1;
        let id = state.next_id;
        state.queue.push_back(Job { id, run });
        start_thread_if_needed(shared, &mut state);
        drop(state);
        shared.work.notify_one();
        Ok(id)
    }
}

/// Starts a thread when work waits, no thread is free, and the limits allow it.
fn start_thread_if_needed(shared: &Arc<Shared>, state: &mut State) {
    let (counters, limits) = (state.counters, shared.limits);
    let usable = counters.threads - counters.stuck;
    let most = limits.slots + limits.surplus;
    if state.queue.len() <= state.idle || usable >= limits.slots || counters.threads >= most {
        return;
    }
    state.next_thread += 1;
    let name = format!("{}-{}", limits.name, state.next_thread);
    let shared = Arc::clone(shared);
    match std::thread::Builder::new().name(name).spawn(move || work(&shared)) {
        Ok(_) => state.counters.threads += 1,
        // The job stays in line for the threads that there are; its deadline ends the wait.
        Err(error) => tracing::warn!(%error, "Cannot start a thread for libvirt calls"),
    }
}

fn work(shared: &Arc<Shared>) {
    let mut state = shared.lock();
    loop {
        let Some(job) = state.queue.pop_front() else {
            if state.closing {
                break;
            }
            state.idle += 1;
            let rested;
            (state, rested) = shared.rest(state);
            state.idle -= 1;
            if rested && state.queue.is_empty() {
                break;
            }
            continue;
        };
        state.running.push(job.id);
        drop(state);
        // The panic hook has logged it; dropping the sender tells the caller.
        let _ = catch_unwind(AssertUnwindSafe(job.run));
        state = shared.lock();
        match state.running.iter().position(|id| *id == job.id) {
            Some(at) => {
                state.running.swap_remove(at);
            }
            None => state.counters.stuck -= 1,
        }
        if state.counters.threads - state.counters.stuck > shared.limits.slots {
            break;
        }
    }
    state.counters.threads -= 1;
}

/// Settles what becomes of a call that its caller stops waiting for.
struct Abandon<'a> {
    id: u64,
    shared: &'a Arc<Shared>,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(at) = state.queue.iter().position(|job| job.id == self.id) {
            state.queue.remove(at);
        } else if let Some(at) = state.running.iter().position(|id| *id == self.id) {
            state.running.swap_remove(at);
            state.counters.stuck += 1;
            start_thread_if_needed(self.shared, &mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);
    const SLOTS: usize = QUERIES.slots;
    const SURPLUS: usize = QUERIES.surplus;

    /// Waits for a condition that another thread brings about.
    async fn until(mut condition: impl FnMut() -> bool) {
        tokio::time::timeout(LONG, async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the condition never came true");
    }

    /// Occupies a slot past its deadline; dropping the sender lets the call return.
    async fn stick(pool: &CallPool) -> mpsc::Sender<()> {
        let (release, wait) = mpsc::channel::<()>();
        let error = pool.call(SHORT, move || wait.recv().unwrap_or(())).await.unwrap_err();
        assert_eq!(error, CallError::Deadline { after: SHORT });
        release
    }

    #[tokio::test]
    async fn threads_start_only_when_needed() {
        let pool = CallPool::new(QUERIES);
        assert_eq!(pool.counters().threads, 0);
        assert_eq!(pool.call(LONG, || 6 * 7).await, Ok(42));
        until(|| pool.owner.0.lock().idle == 1).await;
        assert_eq!(
            pool.call(LONG, || std::thread::current().name().map(str::to_owned)).await,
            Ok(Some("libvirt-1".to_owned()))
        );
        assert_eq!(pool.counters(), PoolCounters { calls: 2, deadline_misses: 0, threads: 1, stuck: 0 });
    }

    #[tokio::test]
    async fn a_stuck_call_is_replaced_and_its_surplus_thread_ends() {
        let pool = CallPool::new(QUERIES);
        let mut stuck = Vec::new();
        for _ in 0..SLOTS + SURPLUS - 1 {
            stuck.push(stick(&pool).await);
        }
        assert_eq!(pool.counters().stuck, SLOTS + SURPLUS - 1);
        assert_eq!(pool.call(LONG, || "still served").await, Ok("still served"));

        stuck.push(stick(&pool).await);
        let refused = pool.call(LONG, || ()).await.unwrap_err();
        assert_eq!(refused, CallError::AllStuck { stuck: SLOTS + SURPLUS });
        assert_eq!(pool.counters().deadline_misses, (SLOTS + SURPLUS) as u64);

        stuck.clear();
        until(|| pool.counters().stuck == 0).await;
        until(|| pool.counters().threads <= SLOTS).await;
        assert_eq!(pool.call(LONG, || "recovered").await, Ok("recovered"));
    }

    #[tokio::test]
    async fn a_call_that_waits_in_line_past_its_deadline_never_runs() {
        let pool = CallPool::new(QUERIES);
        let gates: Vec<_> = (0..SLOTS).map(|_| mpsc::channel::<()>()).collect();
        let mut releases = Vec::new();
        let mut holders = Vec::new();
        for (release, wait) in gates {
            releases.push(release);
            let pool = pool.clone();
            holders
                .push(tokio::spawn(async move { pool.call(LONG, move || wait.recv().unwrap_or(())).await }));
        }
        until(|| pool.owner.0.lock().running.len() == SLOTS).await;
        let (ran, has_run) = mpsc::channel();
        let late = pool.call(SHORT, move || ran.send(())).await;
        assert_eq!(late.unwrap_err(), CallError::Deadline { after: SHORT });
        assert_eq!(pool.counters().stuck, 0);
        releases.clear();
        for holder in holders {
            holder.await.unwrap().unwrap();
        }
        assert!(has_run.recv().is_err(), "the job was dropped without running");
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let pool = CallPool::new(QUERIES);
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let mut waiting = Vec::new();
        for number in 0..SLOTS + QUEUE {
            if number == SLOTS {
                until(|| pool.owner.0.lock().running.len() == SLOTS).await;
            }
            let (pool, wait) = (pool.clone(), Arc::clone(&wait));
            waiting.push(tokio::spawn(async move {
                pool.call(LONG, move || drop(wait.lock().map(|w| w.recv()))).await
            }));
        }
        until(|| pool.owner.0.lock().queue.len() == QUEUE).await;
        assert_eq!(pool.call(LONG, || ()).await, Err(CallError::Overloaded { waiting: QUEUE }));
        drop(release);
        for call in waiting {
            assert_eq!(call.await.unwrap(), Ok(()));
        }
    }

    #[tokio::test]
    async fn a_cancelled_caller_frees_the_slot() {
        let pool = CallPool::new(QUERIES);
        let (release, wait) = mpsc::channel::<()>();
        let caller = tokio::spawn({
            let pool = pool.clone();
            async move { pool.call(LONG, move || wait.recv().unwrap_or(())).await }
        });
        until(|| pool.owner.0.lock().running.len() == 1).await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        assert_eq!(pool.counters().stuck, 1);
        drop(release);
        until(|| pool.counters().stuck == 0).await;
    }

    #[tokio::test]
    async fn a_panic_costs_one_call() {
        let pool = CallPool::new(QUERIES);
        let result = pool.call(LONG, || panic!("expected by this test")).await;
        assert_eq!(result, Err::<(), _>(CallError::Panicked));
        assert_eq!(pool.call(LONG, || 1).await, Ok(1));
    }

    #[tokio::test]
    async fn threads_end_with_the_last_handle() {
        let pool = CallPool::new(QUERIES);
        assert_eq!(pool.call(LONG, || 1).await, Ok(1));
        let shared = Arc::clone(&pool.owner.0);
        drop(pool);
        until(|| shared.lock().counters.threads == 0).await;
    }

    #[tokio::test]
    async fn idle_threads_end_where_they_may_and_come_back_when_needed() {
        let limits = Limits { idle: Some(SHORT), ..STORAGE };
        let pool = CallPool::new(limits);
        assert_eq!(pool.call(LONG, || 1).await, Ok(1));
        until(|| pool.counters().threads == 0).await;
        assert_eq!(pool.call(LONG, || 2).await, Ok(2));
    }
}
