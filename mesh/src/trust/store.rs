//! The data directory: one process at a time, files that are whole or not there, secrets that only their owner reads.
//!
//! A directory that this process made is taken away again unless [`Store::keep`] was called: a node that was never
//! admitted leaves nothing behind.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use zeroize::Zeroizing;

use crate::mesh::StartError;

/// Most bytes of a file here; the ledger of tokens is the largest.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Tries to lock a directory that another process is just taking away.
const LOCK_TRIES_MAX: usize = 8;
const LOCK: &str = "lock";
const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o700;

/// An open and locked data directory.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    /// Held for as long as the store lives; the system gives it back when the process ends in any way.
    lock: File,
    /// The directories that this process made, outermost first.
    made: Vec<PathBuf>,
    made_lock: bool,
    keep: AtomicBool,
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Its owner alone.
    Secret,
    /// Everyone whom the directory lets in.
    Public,
}

/// Why a directory is not ours.
enum Refused {
    /// Another process has its lock.
    Used(String),
    Other(String),
}

impl Store {
    /// Makes the directory where it is missing, and locks it.
    ///
    /// # Errors
    /// It cannot be made or written to, or another process uses it; nothing is left behind.
    pub(crate) fn open(dir: &Path) -> Result<Self, StartError> {
        Self::open_or(dir).map_err(|e| match e {
            Refused::Used(reason) | Refused::Other(reason) => StartError::DataDir { path: dir.to_owned(), reason },
        })
    }

    /// The same; `None` where another process uses it.
    ///
    /// # Errors
    /// It cannot be made or written to.
    pub(crate) fn open_unless_used(dir: &Path) -> Result<Option<Self>, StartError> {
        match Self::open_or(dir) {
            Ok(store) => Ok(Some(store)),
            Err(Refused::Used(_)) => Ok(None),
            Err(Refused::Other(reason)) => Err(StartError::DataDir { path: dir.to_owned(), reason }),
        }
    }

    fn open_or(dir: &Path) -> Result<Self, Refused> {
        let refused = Refused::Other;
        let mut outcome = Err(refused("another process keeps taking it away".to_owned()));
        for _ in 0..LOCK_TRIES_MAX {
            let made = make_directory(dir).map_err(|e| refused(format!("cannot be made: {e}")))?;
            match lock(dir) {
                Ok(Some((lock, made_lock))) => {
                    let keep = AtomicBool::new(false);
                    outcome = Ok(Self { dir: dir.to_owned(), lock, made, made_lock, keep });
                    break;
                }
                Ok(None) => {}
                Err(reason) => {
                    remove_directories(&made);
                    return Err(reason);
                }
            }
        }
        let mut store = outcome?;
        store.write_pid().map_err(|e| refused(format!("cannot be written to: {e}")))?;
        Ok(store)
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory stays when this process ends.
    pub(crate) fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// An error about the directory, in words for the user.
    pub(crate) fn error(&self, reason: impl Into<String>) -> StartError {
        StartError::DataDir { path: self.dir.clone(), reason: reason.into() }
    }

    /// A file's bytes, wiped when dropped; `None` when there is no such file.
    ///
    /// # Errors
    /// It cannot be read or is too long.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StartError> {
        let refused = |e: io::Error| self.error(format!("{name} cannot be read: {e}"));
        let file = match File::open(self.dir.join(name)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(refused(e)),
        };
        // One allocation of the right size: a vector that grows would leave copies of a secret behind.
        let length = file.metadata().map_err(refused)?.len();
        if length > FILE_BYTES_MAX {
            return Err(self.error(format!("{name} is corrupt: it has {length} bytes")));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1));
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(refused)?;
        Ok(Some(bytes))
    }

    /// Replaces a file: after a crash there is the old one or the new one, never half of it.
    ///
    /// # Errors
    /// The disk's; the old file is still there.
    pub(crate) fn write(&self, name: &str, bytes: &[u8], access: Access) -> Result<(), StartError> {
        let temporary = self.temporary(name);
        let result = (|| {
            remove_file(&temporary)?;
            let mode = if access == Access::Secret { SECRET_MODE } else { PUBLIC_MODE };
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, self.dir.join(name))?;
            File::open(&self.dir)?.sync_all()
        })();
        result.map_err(|e| {
            // What is left of it is in nobody's way: the next write begins by removing it.
            let _ = remove_file(&temporary);
            self.error(format!("{name} cannot be written: {e}"))
        })
    }

    /// Takes away what a killed process had half written of these files: it may be a copy of a secret.
    pub(crate) fn sweep(&self, names: &[&str]) {
        for name in names {
            let _ = remove_file(&self.temporary(name));
        }
    }

    fn temporary(&self, name: &str) -> PathBuf {
        self.dir.join(format!(".{name}.new"))
    }

    /// Removes a file; no matter when there is none.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn remove(&self, name: &str) -> Result<(), StartError> {
        remove_file(&self.dir.join(name)).map_err(|e| self.error(format!("{name} cannot be removed: {e}")))
    }

    /// Renames a file.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), StartError> {
        fs::rename(self.dir.join(from), self.dir.join(to))
            .map_err(|e| self.error(format!("{from} cannot be renamed: {e}")))
    }

    /// Says in the log when others could have read a secret.
    pub(crate) fn warn_if_readable(&self, name: &str) {
        if let Ok(meta) = fs::metadata(self.dir.join(name)) {
            let mode = meta.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                tracing::warn!(file = %self.dir.join(name).display(), "others may read this secret: mode {mode:o}, not 600");
            }
        }
    }

    fn write_pid(&mut self) -> io::Result<()> {
        self.lock.set_len(0)?;
        writeln!(self.lock, "{}", std::process::id())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed) {
            if self.made_lock {
                // Still locked: whoever waits for it sees that its file is gone, and makes another.
                let _ = remove_file(&self.dir.join(LOCK));
            }
            remove_directories(&self.made);
        }
    }
}

fn make_directory(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let missing: Vec<_> = dir.ancestors().filter(|a| !a.as_os_str().is_empty()).take_while(|a| !a.exists()).collect();
    let mut made = Vec::new();
    for directory in missing.into_iter().rev() {
        let mut builder = DirBuilder::new();
        if directory == dir {
            builder.mode(DIRECTORY_MODE);
        }
        match builder.create(directory) {
            Ok(()) => made.push(directory.to_owned()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            Err(e) => {
                remove_directories(&made);
                return Err(e);
            }
        }
    }
    Ok(made)
}

fn remove_directories(made: &[PathBuf]) {
    for directory in made.iter().rev() {
        // One in which another process has put something meanwhile stays.
        let _ = fs::remove_dir(directory);
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Locks; `None` when the lock's file was taken away meanwhile. Also says whether this call made the file.
fn lock(dir: &Path) -> Result<Option<(File, bool)>, Refused> {
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(SECRET_MODE);
    let (file, made) = match options.clone().create_new(true).open(&path) {
        Ok(file) => (file, true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match options.open(&path) {
            Ok(file) => (file, false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Refused::Other(format!("cannot be written to: {e}"))),
        },
        Err(e) => return Err(Refused::Other(format!("cannot be written to: {e}"))),
    };
    match file.try_lock() {
        Ok(()) => match file.metadata() {
            Ok(meta) if meta.nlink() > 0 => Ok(Some((file, made))),
            _ => Ok(None),
        },
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let known = file.take(20).read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
            let who = if known { format!(" (pid {})", pid.trim()) } else { String::new() };
            Err(Refused::Used(format!("in use by another paceline process{who}")))
        }
        Err(TryLockError::Error(e)) => Err(Refused::Other(format!("cannot be locked: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    fn reason(result: Result<Store, StartError>) -> String {
        result.map(|_| ()).expect_err("refused").to_string()
    }

    #[test]
    fn files_are_replaced_as_a_whole_and_secrets_are_closed() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("a/b");
        let store = Store::open(&dir).expect("fresh");
        store.keep();
        assert_eq!(mode(&dir), 0o700);
        store.write("secret", b"one", Access::Secret).expect("written");
        store.write("secret", b"two", Access::Secret).expect("written");
        store.write("public", b"x", Access::Public).expect("written");
        assert_eq!(mode(&dir.join("secret")), 0o600);
        assert_eq!(store.read("secret").expect("readable").as_deref().map(Vec::as_slice), Some(b"two".as_slice()));
        assert_eq!(store.read("nothing").expect("readable"), None);
        // A temporary file of a crash, open to everyone, is no obstacle and lends its mode to nobody.
        fs::write(dir.join(".secret.new"), b"half").expect("written");
        fs::set_permissions(dir.join(".secret.new"), fs::Permissions::from_mode(0o666)).expect("set");
        store.write("secret", b"three", Access::Secret).expect("written");
        assert_eq!(mode(&dir.join("secret")), 0o600);
        let names: Vec<_> = fs::read_dir(&dir).expect("there").map(|e| e.expect("an entry").file_name()).collect();
        assert_eq!(names.len(), 3, "lock, secret and public: {names:?}");
        store.remove("public").expect("removed");
        store.remove("public").expect("no matter");
    }

    #[test]
    fn a_second_process_is_told_who_holds_it() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("d");
        let store = Store::open(&dir).expect("fresh");
        let said = reason(Store::open(&dir));
        assert!(said.contains("in use by another paceline process (pid "), "{said}");
        assert!(said.contains(&std::process::id().to_string()) && said.contains("/d: "), "{said}");
        store.keep();
        drop(store);
        drop(Store::open(&dir).expect("free again"));
        assert!(dir.join(LOCK).exists(), "a lock that was there stays");
    }

    #[test]
    fn what_was_made_for_nothing_is_taken_away() {
        let home = tempfile::tempdir().expect("a directory");
        drop(Store::open(&home.path().join("a/b/c")).expect("fresh"));
        assert_eq!(fs::read_dir(home.path()).expect("there").count(), 0);
        drop(Store::open(home.path()).expect("there already"));
        assert!(home.path().is_dir(), "not made by us");
        assert_eq!(fs::read_dir(home.path()).expect("there").count(), 0);
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_named() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("file");
        fs::write(&file, b"").expect("written");
        let said = reason(Store::open(&file.join("x/y")));
        assert!(said.contains("file/x/y") && said.contains("cannot be made"), "{said}");
        let said = reason(Store::open(&file));
        assert!(said.contains("cannot be"), "{said}");
        let store = Store::open(home.path()).expect("fresh");
        fs::write(home.path().join("long"), b"").expect("written");
        OpenOptions::new()
            .write(true)
            .open(home.path().join("long"))
            .expect("open")
            .set_len(FILE_BYTES_MAX + 1)
            .expect("set");
        let said = store.read("long").expect_err("too long").to_string();
        assert!(said.contains("long is corrupt"), "{said}");
    }
}
