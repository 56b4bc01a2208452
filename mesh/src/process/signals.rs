//! SIGTERM and Ctrl-C, counted: the first asks for a graceful end, the second for an end at once.

use std::time::{Duration, Instant};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

/// A signal that follows another this soon is the same one, told twice: to the process, then to its group.
const SAME: Duration = Duration::from_millis(500);

/// Counts signals. Cheap to clone.
#[derive(Clone)]
pub(super) struct Signals {
    seen: watch::Receiver<u32>,
    raised: mpsc::Sender<()>,
}

impl Signals {
    /// Listens from now on, in a task of the current runtime that ends with it.
    pub(super) fn listen() -> std::io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (count, seen) = watch::channel(0);
        let (raised, mut raises) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut last = None::<Instant>;
            loop {
                tokio::select! {
                    Some(()) = terminate.recv() => {}
                    Some(()) = interrupt.recv() => {}
                    Some(()) = raises.recv() => {}
                    () = count.closed() => return,
                }
                let again = last.replace(Instant::now()).is_some_and(|before| before.elapsed() < SAME);
                if !again {
                    count.send_modify(|n| *n += 1);
                }
            }
        });
        Ok(Self { seen, raised })
    }

    /// Counts as a signal.
    pub(super) fn raise(&self) {
        // One that waits already says the same.
        let _ = self.raised.try_send(());
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
        if self.seen.clone().wait_for(|n| *n >= count).await.is_err() {
            // The counting task is gone, so no signal will be told any more.
            std::future::pending::<()>().await;
        }
    }
}
