//! Takes over a configuration file that has changed, without a restart: when it is seen to differ, and on SIGHUP.
//!
//! It is looked at, not watched: whatever an editor, a container's volume or a network file system does to replace it, its
//! identity, times or length differ afterwards. A file that is still being written is waited for, one that is wrong is
//! told of once and leaves the old one in force.

use std::{
    io::IsTerminal as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::Signal,
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{Fault, logging::LogLevel, signals::Signals};
use crate::args::{Invocation, Loaded, MeshArgs};

/// Between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A changed file is read once it has kept still for this long.
const SETTLED: Duration = Duration::from_millis(200);
/// Looks at a file that does not keep still, before it is read as it is.
const SETTLE_LOOKS_MAX: u32 = 25;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    bytes: u64,
}

impl Stamp {
    /// `None` where there is no such file, or it cannot be looked at.
    async fn of(path: &Path) -> Option<Self> {
        let m = tokio::fs::metadata(path).await.ok()?;
        Some(Self {
            device: m.dev(),
            inode: m.ino(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
            bytes: m.len(),
        })
    }
}

/// Owns what is in force.
pub(super) struct Reloader {
    pub(super) invocation: Invocation,
    pub(super) settings: watch::Sender<Arc<Loaded>>,
    pub(super) level: LogLevel,
    pub(super) hangups: Signal,
    pub(super) signals: Signals,
}

impl Reloader {
    /// Until the process ends.
    pub(super) async fn run(mut self) {
        let path: Option<PathBuf> = self.settings.borrow().document().map(|d| d.path().to_owned());
        let had_terminal = std::io::stderr().is_terminal();
        let mut stamp = None;
        if let Some(path) = &path {
            stamp = Stamp::of(path).await;
            // Between the start and this look it may have changed.
            self.reload(false).await;
        }
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(()) = self.hangups.recv() => {
                    if had_terminal && !std::io::stderr().is_terminal() {
                        self.signals.raise();
                        tracing::info!("the terminal has closed");
                        return;
                    }
                    match &path {
                        Some(path) => {
                            stamp = settled(path).await;
                            self.reload(true).await;
                        }
                        None => tracing::info!("SIGHUP: there is no configuration file to read again"),
                    }
                }
                _ = looks.tick(), if path.is_some() => {
                    let Some(path) = &path else { continue };
                    let now = Stamp::of(path).await;
                    if now == stamp {
                        continue;
                    }
                    stamp = match now {
                        Some(_) => settled(path).await,
                        None => None,
                    };
                    if stamp.is_some() {
                        self.reload(false).await;
                    } else {
                        let file = path.display();
                        tracing::warn!(%file, "the configuration file is gone: what it said stays in force");
                    }
                }
            }
        }
    }

    async fn reload(&mut self, asked: bool) {
        let invocation = self.invocation.clone();
        let loaded = tokio::task::spawn_blocking(move || invocation.load()).await;
        let before = self.settings.borrow().clone();
        match loaded.unwrap_or_else(|e| Err(Fault::failed(e))) {
            Ok(new) if new.document() == before.document() => {
                if asked {
                    tracing::info!("the configuration file is as it was");
                }
                // What it refers to may have changed.
                self.settings.send_replace(Arc::new(new));
            }
            Ok(new) => self.take(new, &before),
            Err(reason) => {
                tracing::error!(%reason, "the configuration file is not taken: the one before stays in force");
            }
        }
    }

    fn take(&mut self, new: Loaded, before: &Loaded) {
        let (live, restart) = new.changes(before);
        let level = new.args::<MeshArgs>().map(|args| args.log_level);
        if let Ok(level) = level
            && let Err(error) = self.level.set(&level)
        {
            tracing::warn!(error, "the log level stays");
        }
        let file = new.document().map(|d| d.path().display().to_string()).unwrap_or_default();
        tracing::info!(file, changed = live.join(", "), "configuration taken");
        if !restart.is_empty() {
            tracing::warn!(keys = restart.join(", "), "these changes take effect at the next start");
        }
        self.settings.send_replace(Arc::new(new));
    }
}

/// The file's state once it has kept still, or has not for too long.
async fn settled(path: &Path) -> Option<Stamp> {
    let mut last = Stamp::of(path).await;
    for _ in 0..SETTLE_LOOKS_MAX {
        sleep(SETTLED).await;
        let now = Stamp::of(path).await;
        if now == last {
            break;
        }
        last = now;
    }
    last
}
