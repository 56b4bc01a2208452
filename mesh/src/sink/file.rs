//! The summary as a file, replaced as a whole: a reader sees the old one or the new one.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    path::PathBuf,
};

use paceline_proto::summary::StoredSummary;

use super::{Head, Outcome, STORED_BYTES_MAX, encode, judge};
use crate::process::write_atomically;

/// A file that holds the summary.
#[derive(Debug)]
pub(super) struct FileSink(PathBuf);

impl FileSink {
    pub(super) fn open(path: PathBuf) -> Result<Self, String> {
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).map_or(".".into(), PathBuf::from);
        if path.file_name().is_none() || path.is_dir() {
            return Err(format!("--sink-file {}: is no file's name", path.display()));
        }
        match directory.metadata() {
            Ok(m) if m.is_dir() => Ok(Self(path)),
            Ok(_) => Err(format!("--sink-file {}: {} is no directory", path.display(), directory.display())),
            Err(e) => Err(format!("--sink-file {}: {e}", path.display())),
        }
    }

    pub(super) fn write(&self, new: &StoredSummary, writes_per_day: u32) -> Outcome {
        let failed =
            |e: std::io::Error| Outcome::Kept { writes_today: None, reason: format!("{}: {e}", self.0.display()) };
        let mut text = Vec::new();
        let read = File::open(&self.0).and_then(|f| f.take(STORED_BYTES_MAX).read_to_end(&mut text));
        let stored: Option<Head> = match read {
            // A file that is no summary, cut off for instance, is replaced.
            Ok(_) => serde_json::from_slice(&text).ok(),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return failed(e),
        };
        let named = |outcome| match outcome {
            Outcome::Kept { writes_today, reason } => {
                Outcome::Kept { writes_today, reason: format!("{}: {reason}", self.0.display()) }
            }
            stored => stored,
        };
        let written = judge(stored.as_ref(), new, writes_per_day)
            .and_then(|writes| encode(new, writes).map(|bytes| (writes, bytes)))
            .map_err(named);
        match written {
            Ok((writes_today, bytes)) => {
                write_atomically(&self.0, &bytes, false).map_or_else(failed, |()| Outcome::Stored { writes_today })
            }
            Err(outcome) => outcome,
        }
    }
}
