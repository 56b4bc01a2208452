//! Files that are read again when they change: secrets, key sets and certificates, as orchestrators replace them.

use std::{
    fs::{File, Metadata},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use zeroize::Zeroizing;

use crate::lane::lock;

/// How often they are looked at: no event of the file system tells of every way to replace a file (NFS, bind mounts).
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Most bytes of one.
const BYTES_MAX: u64 = 256 * 1024;

/// Tells one state of a file from another.
type Stamp = (u64, u64, i64, i64, u64);

/// A file and its last state.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    seen: Mutex<Option<Stamp>>,
}

impl Watched {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, seen: Mutex::new(None) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All of it.
    ///
    /// # Errors
    /// In words, with the path.
    pub(crate) fn read(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        let failed = |e: &dyn std::fmt::Display| format!("cannot read {}: {e}", self.path.display());
        let file = File::open(&self.path).map_err(|e| failed(&e))?;
        let meta = file.metadata().map_err(|e| failed(&e))?;
        *lock(&self.seen) = Some(stamp(&meta));
        if meta.is_dir() || meta.len() > BYTES_MAX {
            return Err(failed(&format!("expected a file of at most {BYTES_MAX} bytes")));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(meta.len()).unwrap_or_default() + 1));
        file.take(BYTES_MAX).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
        Ok(bytes)
    }

    /// Whether it is another than the one that was read last.
    pub(crate) fn is_changed(&self) -> bool {
        let now = std::fs::metadata(&self.path).ok().map(|meta| stamp(&meta));
        now.is_some() && now != *lock(&self.seen)
    }

    /// Reads it where it has changed; what `take` refuses is told in the log, once for each change.
    pub(crate) fn changed(&self, take: impl FnOnce(&[u8]) -> Result<(), String>) {
        if !self.is_changed() {
            return;
        }
        match self.read().and_then(|bytes| take(&bytes)) {
            Ok(()) => tracing::info!(file = %self.path.display(), "a changed file is in force"),
            Err(reason) => {
                tracing::warn!(file = %self.path.display(), %reason, "a changed file cannot be used: what was in force stays");
            }
        }
    }
}

fn stamp(meta: &Metadata) -> Stamp {
    (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len())
}
