//! Lanes: one current-thread tokio runtime per core, each on its own thread. HTTP listeners, QUIC connections and
//! requests live on a lane and stay there.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Most lanes of a process.
pub const LANES_MAX: usize = 16;

/// Threads of a lane for blocking work: files of `--serve`, host names.
const BLOCKING_THREADS_MAX: usize = 32;

/// The lanes of this process. They stop, and whatever still runs on them is dropped, when this is dropped.
pub struct Lanes {
    handles: Vec<Handle>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop: CancellationToken,
}

impl Lanes {
    /// Starts `count` lanes (at least one, at most [`LANES_MAX`]).
    ///
    /// # Errors
    /// A thread or a runtime that cannot be made.
    pub fn start(count: usize) -> io::Result<Arc<Self>> {
        let stop = CancellationToken::new();
        let mut lanes = Self { handles: Vec::new(), threads: Mutex::default(), stop: stop.clone() };
        for lane in 0..count.clamp(1, LANES_MAX) {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS_MAX)
                .thread_name(format!("lane-{lane}-blocking"))
                .build()?;
            lanes.handles.push(runtime.handle().clone());
            let stop = stop.clone();
            let thread = std::thread::Builder::new().name(format!("lane-{lane}")).spawn(move || {
                runtime.block_on(stop.cancelled());
                // A file that is being read must not hold up the end of the process.
                runtime.shutdown_background();
            })?;
            lanes.threads().push(thread);
        }
        Ok(Arc::new(lanes))
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One for each core that this process may use, at most [`LANES_MAX`].
    pub fn default_count() -> usize {
        std::thread::available_parallelism().map_or(1, |n| n.get().min(LANES_MAX))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// The runtime of a lane; spawn on it, and whatever the task awaits runs there. Lanes are counted round.
    pub fn handle(&self, lane: usize) -> &Handle {
        &self.handles[lane % self.handles.len()]
    }

    /// Ends every lane and waits for its thread, the caller's own apart. Tasks that still run are dropped.
    pub fn stop(&self) {
        self.stop.cancel();
        let own = std::thread::current().id();
        for thread in self.threads().drain(..) {
            if thread.thread().id() != own && thread.join().is_err() {
                tracing::error!("a lane ended by a panic");
            }
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_is_a_thread_and_ends_with_its_tasks() {
        let lanes = Lanes::start(2).expect("lanes");
        assert_eq!(lanes.count(), 2);
        let (tx, rx) = std::sync::mpsc::channel();
        let (dropped, gone) = tokio::sync::oneshot::channel::<()>();
        for lane in 0..2 {
            let tx = tx.clone();
            lanes.handle(lane).spawn(async move {
                let name = std::thread::current().name().unwrap_or_default().to_owned();
                tx.send(name).expect("received");
            });
        }
        lanes.handle(0).spawn(async move {
            let _dropped = dropped;
            std::future::pending::<()>().await;
        });
        let mut names = [rx.recv().expect("a name"), rx.recv().expect("a name")];
        names.sort();
        assert_eq!(names, ["lane-0", "lane-1"]);
        drop(lanes);
        assert!(gone.blocking_recv().is_err(), "the task was dropped with its lane");
    }
}
