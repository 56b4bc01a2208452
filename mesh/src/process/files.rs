//! The files of a running process in its data directory: `runtime.json`, `admin.key`, `join-token`.
//!
//! Each is written beside itself and renamed, so that a reader never sees half of one. Secrets have mode 0600.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Fault;
use crate::trust::Store;

/// Name of the file that tells how to reach the running process.
pub const RUNTIME: &str = "runtime.json";
/// Name of the file that holds the key of administrators.
pub const ADMIN_KEY: &str = "admin.key";
/// Name of the file that holds a fresh join token.
pub const JOIN_TOKEN: &str = "join-token";

/// Name of the file that holds what a gateway knows of its API keys.
pub const API_KEYS: &str = "api-keys.json";

/// Random bytes of an admin key.
const ADMIN_KEY_BYTES: usize = 32;
/// Fewest characters of a key that a person put there.
const ADMIN_KEY_CHARS_MIN: usize = 16;
/// Most bytes of any of these files that are read.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What `<data-dir>/runtime.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// Process id.
    pub pid: u32,
    /// `up`, `node`, `gateway` or `bootstrap`.
    pub role: String,
    /// The name in the cluster.
    pub worker_id: String,
    /// libp2p's PeerId.
    pub peer_id: String,
    /// The cluster.
    pub cluster_id: String,
    /// The gateway's port; null without a gateway.
    pub http: Option<SocketAddr>,
    /// The local API.
    pub local_http: SocketAddr,
    /// Multiaddrs, QUIC first.
    pub mesh: Vec<String>,
    /// The data port.
    pub data: SocketAddr,
    /// Where the admin key is.
    pub admin_key_file: PathBuf,
    /// Where a join token is; null where this process keeps none.
    pub join_token_file: Option<PathBuf>,
}

impl Runtime {
    /// Reads the file of a data directory; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is not what a process writes.
    pub fn read(data_dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(data_dir.join(RUNTIME)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// `runtime.json` while the process lives: removed when dropped.
pub(super) struct RuntimeFile(PathBuf);

impl RuntimeFile {
    pub(super) fn write(data_dir: &Path, runtime: &Runtime) -> Result<Self, Fault> {
        let path = data_dir.join(RUNTIME);
        let failed = |e: io::Error| Fault::user(format!("cannot write {}: {e}", path.display()));
        let mut bytes = serde_json::to_vec_pretty(runtime).map_err(|e| failed(io::Error::other(e)))?;
        bytes.push(b'\n');
        write_atomically(&path, &bytes, false).map_err(failed)?;
        Ok(Self(path))
    }
}

impl Drop for RuntimeFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Takes away what a killed process left, half-written files too. Only under the data directory's lock.
pub(super) fn remove_stale(data_dir: &Path) {
    let _ = fs::remove_file(data_dir.join(RUNTIME));
    for name in [RUNTIME, ADMIN_KEY, JOIN_TOKEN, API_KEYS] {
        let _ = fs::remove_file(beside(&data_dir.join(name)));
    }
}

/// Takes away the secrets of a membership that is given up.
pub(super) fn forget(data_dir: &Path) {
    for name in [ADMIN_KEY, JOIN_TOKEN, API_KEYS] {
        let _ = fs::remove_file(data_dir.join(name));
    }
}

/// A data directory that no process uses, for as long as this is held.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] Store);

/// Takes the lock that a process holds while it runs; `None` where one does. Makes the directory where it is missing.
///
/// # Errors
/// It cannot be made or written to.
pub fn lock(data_dir: &Path) -> Result<Option<Lock>, Fault> {
    match Store::open_unless_used(data_dir)? {
        Some(store) => {
            store.keep();
            Ok(Some(Lock(store)))
        }
        None => Ok(None),
    }
}

/// The admin key on disk, made where there is none.
pub(super) fn admin_key(data_dir: &Path) -> Result<String, Fault> {
    let path = data_dir.join(ADMIN_KEY);
    let failed = |e: io::Error| Fault::user(format!("{}: {e}", path.display()));
    match OpenOptions::new().read(true).open(&path) {
        Ok(file) => {
            let mode = file.metadata().map_err(failed)?.permissions().mode();
            if mode & 0o077 != 0 {
                tracing::warn!(file = %path.display(), "others could read the admin key; it is readable by its owner alone now");
                file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
            }
            let mut text = String::new();
            io::Read::read_to_string(&mut io::Read::take(file, FILE_BYTES_MAX), &mut text).map_err(failed)?;
            let key = text.trim();
            if key.len() < ADMIN_KEY_CHARS_MIN || !key.bytes().all(|b| b.is_ascii_graphic()) {
                let form = format!("must hold at least {ADMIN_KEY_CHARS_MIN} printable characters on one line");
                return Err(Fault::user(format!("{}: {form}; remove it for a new one", path.display())));
            }
            Ok(key.to_owned())
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let bytes = Zeroizing::new(rand::random::<[u8; ADMIN_KEY_BYTES]>());
            let key = data_encoding::BASE64URL_NOPAD.encode(&*bytes);
            write_atomically(&path, format!("{key}\n").as_bytes(), true).map_err(failed)?;
            Ok(key)
        }
        Err(e) => Err(failed(e)),
    }
}

/// Where a file is written before it takes its place: one name for each file, so that a killed process leaves one at
/// most, and the next write begins by removing it.
fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

/// Writes a file beside `path` and renames it; with `secret`, only its owner may read it, from the first moment on.
///
/// # Errors
/// The disk's; the old file is still there.
pub fn write_atomically(path: &Path, bytes: &[u8], secret: bool) -> io::Result<()> {
    let beside = beside(path);
    // The leftover of a killed process would keep its own mode.
    let _ = fs::remove_file(&beside);
    let mode = if secret { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}
