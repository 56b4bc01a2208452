//! SIGTERM and Ctrl-C, counted: the first asks for a graceful end, the second for an end at once.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Counts signals. Cheap to clone.
#[derive(Clone)]
pub(super) struct Signals(watch::Receiver<u32>);

impl Signals {
    /// Listens from now on, in a task of the current runtime that ends with it.
    pub(super) fn listen() -> std::io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (count, seen) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(()) = terminate.recv() => {}
                    Some(()) = interrupt.recv() => {}
                    () = count.closed() => return,
                }
                count.send_modify(|n| *n += 1);
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
