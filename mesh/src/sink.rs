//! Where the heartbeat summary is stored for readers outside the cluster: a file, and an HTTP key-value store.
//!
//! The cores decide when to write and which member does (`paceline_proto::budget`). What is kept here, whatever they say:
//! - A store never goes back: what it holds is read first, and a summary of a lesser (term, takeovers, sequence) is not written.
//! - A budget is not spent twice by the two sides of a partition: writes that the store itself knows of count.
//! - Another cluster's summary is never overwritten.
//! - A store that is down, slow or unwilling costs a bounded time, and its `Retry-After` is honoured.

mod file;
mod http;

use std::{path::PathBuf, time::Duration};

use paceline_proto::summary::StoredSummary;
use serde::Deserialize;
use tokio::sync::mpsc;

pub use self::http::HttpSink;

/// Most bytes of a stored summary that are read back.
const STORED_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// One UTC day, in seconds.
const DAY_SECONDS: u64 = 86_400;

/// Where to store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkConfig {
    /// A file, replaced as a whole.
    pub file: Option<PathBuf>,
    /// The URL of the value in a key-value store.
    pub url: Option<String>,
    /// Holds the store's bearer token; read again at each write, so that it can be rotated.
    pub token_file: Option<PathBuf>,
}

impl SinkConfig {
    /// Whether there is anything to write to.
    pub fn is_some(&self) -> bool {
        self.file.is_some() || self.url.is_some()
    }
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Every sink has it.
    pub stored: bool,
    /// Writes of this UTC day that the stores know of, this one included; `None` where none could be read.
    pub writes_today: Option<u32>,
    /// Why it is not stored.
    pub reason: Option<String>,
}

/// The sinks of this process.
#[derive(Debug)]
pub struct Sinks {
    file: Option<file::FileSink>,
    http: Option<HttpSink>,
    /// Most writes of a UTC day, for the whole cluster.
    writes_per_day: u32,
}

/// What one sink made of a summary.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Stored {
        writes_today: u32,
    },
    /// Nothing was written.
    Kept {
        writes_today: Option<u32>,
        reason: String,
    },
}

impl Sinks {
    /// Checks what can be checked without writing.
    ///
    /// # Errors
    /// In words for the user: a bad URL, a token file that cannot be read, a file in no directory.
    pub fn open(config: &SinkConfig, writes_per_day: u32) -> Result<Self, String> {
        let file = config.file.clone().map(file::FileSink::open).transpose()?;
        let http = config.url.as_deref().map(|url| HttpSink::open(url, config.token_file.clone())).transpose()?;
        if http.is_none() && config.token_file.is_some() {
            return Err("--sink-token-file needs --sink-url".to_owned());
        }
        Ok(Self { file, http, writes_per_day })
    }

    /// Writes to every sink. Blocks, for at most about a minute.
    pub fn write(&mut self, summary: &StoredSummary) -> Written {
        let file = self.file.as_ref().map(|sink| sink.write(summary, self.writes_per_day));
        let http = self.http.as_mut().map(|sink| sink.write(summary, self.writes_per_day));
        let mut written = Written { stored: true, writes_today: None, reason: None };
        for outcome in [file, http].into_iter().flatten() {
            let writes = match outcome {
                Outcome::Stored { writes_today } => Some(writes_today),
                Outcome::Kept { writes_today, reason } => {
                    written.stored = false;
                    written.reason.get_or_insert(reason);
                    writes_today
                }
            };
            written.writes_today = written.writes_today.max(writes);
        }
        written
    }

    /// Writes what comes, one after the other, and tells how each ended; ends when nothing more can come.
    pub async fn run<T>(mut self, mut writes: mpsc::Receiver<StoredSummary>, mut tell: impl FnMut(Written) -> T)
    where
        T: Future<Output = ()>,
    {
        let mut ill = false;
        while let Some(summary) = writes.recv().await {
            let (reason, seq) = (summary.reason, summary.seq);
            let blocking = tokio::task::spawn_blocking(move || {
                let written = self.write(&summary);
                (self, written)
            });
            let Ok((sinks, written)) = blocking.await else {
                tracing::error!("the sinks failed: this is a bug");
                return;
            };
            self = sinks;
            match &written.reason {
                None => tracing::info!(reason, seq, writes_today = written.writes_today, "summary stored"),
                // The first failure is news; while it lasts, each further one is not.
                Some(why) if !ill => tracing::warn!(reason, seq, why, "summary not stored"),
                Some(why) => tracing::debug!(reason, seq, why, "summary not stored"),
            }
            ill = written.reason.is_some();
            tell(written).await;
        }
    }
}

/// The part of a stored summary that decides whether it may be replaced.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Head {
    cluster_id: String,
    term: u64,
    takeovers: u32,
    seq: u64,
    written_at_unix: u64,
    writes_today: u32,
}

/// Whether a summary may replace what is stored, and as which write of its day.
fn judge(stored: Option<&Head>, new: &StoredSummary, writes_per_day: u32) -> Result<u32, Outcome> {
    let kept = |writes_today, reason: String| Err(Outcome::Kept { writes_today, reason });
    let Some(stored) = stored else { return Ok(new.writes_today.max(1)) };
    if stored.cluster_id != new.cluster_id.to_string() {
        return kept(
            None,
            format!("it holds the summary of another cluster ({}): remove it, or store elsewhere", stored.cluster_id),
        );
    }
    let same_day = stored.written_at_unix / DAY_SECONDS == new.written_at_unix / DAY_SECONDS;
    let before = if same_day { stored.writes_today } else { 0 };
    if (stored.term, stored.takeovers, stored.seq) >= (new.term, new.takeovers, new.seq) {
        return kept(Some(before), "it holds a newer summary".to_owned());
    }
    if before >= writes_per_day {
        return kept(Some(before), format!("{before} writes today already, at most {writes_per_day}"));
    }
    Ok(before.saturating_add(1).max(new.writes_today))
}

/// The bytes to be stored.
fn encode(new: &StoredSummary, writes_today: u32) -> Result<Vec<u8>, Outcome> {
    let stored = StoredSummary { writes_today, ..new.clone() };
    let failed = |e: serde_json::Error| Outcome::Kept { writes_today: None, reason: format!("cannot be encoded: {e}") };
    let mut bytes = serde_json::to_vec(&stored).map_err(failed)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Bound of one exchange with a store.
const EXCHANGE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests;
