//! The root key away from the machine: whoever holds it can make issuers and overrule them, and day by day nobody needs it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use ed25519_dalek::SigningKey;
use paceline_proto::{credential::Root, id::ClusterId};
use zeroize::Zeroizing;

use super::{
    authority::holds_root,
    disk::{self, Stored},
    store::Store,
};
use crate::mesh::StartError;

/// Most bytes of a file with a root key.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// Moves the root key of a cluster from a data directory into a file of its own, mode 0600. The directory's process must
/// not run. The key is in the file, and on disk there, before it leaves the directory.
///
/// # Errors
/// In words for the user; the key is then still where it was.
pub fn export(data_dir: &Path, file: &Path) -> Result<ClusterId, StartError> {
    let (store, stored) = open(data_dir)?;
    let Some(root_key) = &stored.root_key else {
        return Err(store.error("it has no root key: it was exported already, or another node has founded the cluster"));
    };
    if stored.issuer.is_none() {
        return Err(store.error("it has no issuer's certificate: without the root key nobody could join any more"));
    }
    let refused = |e: io::Error| StartError::Config(format!("{}: {e}", file.display()));
    let text = disk::root_text(&stored.root, root_key);
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(refused)?;
    let written = (|| {
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        if let Some(directory) = file.parent() {
            let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    })();
    if let Err(e) = written {
        let _ = fs::remove_file(file);
        return Err(refused(e));
    }
    // Read again, as it will be at the import.
    holds_root(&stored.root, &read(file, &stored.root)?).map_err(|e| StartError::Config(e.to_string()))?;
    disk::remove_root_key(&store)?;
    Ok(stored.root.cluster())
}

/// Puts the root key back into the data directory of an issuer. The file stays.
///
/// # Errors
/// In words for the user; nothing was changed.
pub fn import(data_dir: &Path, file: &Path) -> Result<ClusterId, StartError> {
    let (store, stored) = open(data_dir)?;
    if stored.issuer.is_none() {
        return Err(store.error("it is no issuer's: the root key would be of no use there"));
    }
    let key = read(file, &stored.root)?;
    disk::save_root_key(&store, &key)?;
    Ok(stored.root.cluster())
}

fn open(data_dir: &Path) -> Result<(Store, Stored), StartError> {
    let nothing = |reason: &str| StartError::DataDir { path: data_dir.to_owned(), reason: reason.to_owned() };
    if !data_dir.is_dir() {
        return Err(nothing("there is no such directory"));
    }
    let store = Store::open(data_dir)?;
    match disk::load(&store)? {
        Some(stored) => {
            store.keep();
            Ok((store, stored))
        }
        None => Err(nothing("it belongs to no cluster")),
    }
}

fn read(file: &Path, root: &Root) -> Result<SigningKey, StartError> {
    let refused = |why: String| StartError::Config(format!("{}: {why}", file.display()));
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES_MAX as usize + 1));
    let opened = File::open(file).map_err(|e| refused(e.to_string()))?;
    opened.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|e| refused(e.to_string()))?;
    let key = disk::key_of_text(text.as_bytes()).ok_or_else(|| refused("it holds no root key".to_owned()))?;
    holds_root(root, &key).map_err(|_| refused("it is the root key of another cluster".to_owned()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::trust::tests::{Time, found};

    #[test]
    fn the_root_key_goes_and_comes_back() {
        let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
        let (dir, file) = (home.path().join("d"), home.path().join("root"));
        let running = found(&dir, &time);
        running.commit().expect("on disk");
        let said = export(&dir, &file).expect_err("it runs").to_string();
        assert!(said.contains("in use") && !file.exists(), "{said}");
        let cluster = running.cluster();
        drop(running);
        assert_eq!(export(&dir, &file).expect("exported"), cluster);
        assert!(!dir.join("root.key").exists());
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(export(&dir, &home.path().join("again")).expect_err("gone").to_string().contains("no root key"));
        // It goes on as an issuer, but makes no others.
        let running = found(&dir, &time);
        assert!(running.is_issuer() && running.authority().is_some_and(|a| a.root_key().is_none()));
        drop(running);

        let other = home.path().join("e");
        drop(found(&other, &time).commit());
        let said = import(&other, &file).expect_err("of another").to_string();
        assert!(said.contains("another cluster"), "{said}");
        assert!(export(&other, &file).expect_err("it is there").to_string().contains("exists"));
        assert!(other.join("root.key").exists());
        assert_eq!(import(&dir, &file).expect("back"), cluster);
        assert!(found(&dir, &time).authority().is_some_and(|a| a.root_key().is_some()));
        assert!(import(&dir, &home.path().join("none")).is_err());
        assert!(export(&home.path().join("nowhere"), &file).expect_err("no").to_string().contains("no such"));
    }
}
