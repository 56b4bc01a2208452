//! SIGTERM and Ctrl-C, counted: the first asks for a graceful end, the second for an end at once.

use std::time::{Duration, Instant};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// A signal that follows another this soon is the same one, told twice: to the process, then to its group.
const SAME: Duration = Duration::from_millis(500);

/// Counts signals. Cheap to clone.
#[derive(Clone)]
pub(super) struct Signals(watch::Receiver<u32>);

impl Signals {
    /// Listens from now on, in a task of the current runtime that ends with it.
    pub(super) fn listen() -> std::io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (count, seen) = watch::channel(0);
        tokio::spawn(async move {
            let mut last = None::<Instant>;
            loop {
                tokio::select! {
                    Some(()) = terminate.recv() => {}
                    Some(()) = interrupt.recv() => {}
                    () = count.closed() => return,
                }
                let again = last.replace(Instant::now()).is_some_and(|before| before.elapsed() < SAME);
                if !again {
                    count.send_modify(|n| *n += 1);
                }
            }
        });
        Ok(Self(seen))
    }

    /// Resolves once there was a signal.
    pub(super) async fn first(&self) {
        self.at_least(1).await;
    }

    /// Resolves once there were two.
    pub(super) async fn second(&self) {
        self.at_least(2).await;
    }

    async fn at_least(&self, count: u32) {
        if self.0.clone().wait_for(|n| *n >= count).await.is_err() {
            // The counting task is gone, so no signal will be told any more.
            std::future::pending::<()>().await;
        }
    }
}
