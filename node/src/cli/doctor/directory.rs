//! Data directories: who may read them, room, lock; and the ages of what is in them.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use paceline_mesh::{
    args::ProcessRole,
    process::{ADMIN_KEY, API_KEYS, JOIN_TOKEN},
};
use paceline_proto::{
    credential::{Chain, CredentialError, Root},
    id::UnixSeconds,
    token::Token,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::{Check, Process};
use crate::{
    cli::table::span,
    hardware::{bytes, disk, nearest},
};

/// Less room than this, and files may soon not be written.
const FREE_BYTES_MIN: u64 = 100 * 1024 * 1024;
/// Less room than this is worth a word.
const FREE_BYTES_LOW: u64 = 1024 * 1024 * 1024;
/// Bits of a mode that let others in.
const OTHERS: u32 = 0o077;
/// A certificate that ends sooner than this was not renewed in time: members renew from half its life on.
const ENDS_SOON: Duration = Duration::from_secs(24 * 3600);

/// Each directory; where there is none, the one that `up` would make.
pub(super) fn all(directories: &[PathBuf], given: bool, processes: &[Process]) -> Vec<Check> {
    let there: Vec<&PathBuf> = directories.iter().filter(|d| d.exists()).collect();
    if there.is_empty() {
        let new = if given { directories.first().cloned() } else { ProcessRole::Up.default_data_dir() };
        return vec![match new {
            Some(new) => fresh(&new),
            None => Check::attention("data", "no home directory is known", "say --data-dir DIR"),
        }];
    }
    let of = |directory: &PathBuf| processes.iter().find(|p| p.directory == *directory && p.runs());
    there.into_iter().flat_map(|d| existing(d, of(d))).collect()
}

/// A directory that is not there yet.
fn fresh(directory: &Path) -> Check {
    let parent = nearest(directory);
    let at = directory.display();
    if rustix::fs::access(&parent, rustix::fs::Access::WRITE_OK).is_err() {
        let found = format!("{at} cannot be made: {} is not writable", parent.display());
        return Check::attention("data", found, "say --data-dir DIR, or run as a user who may write there");
    }
    room(directory).unwrap_or_else(|| Check::fine("data", format!("{at} would be made by `paceline up`")))
}

fn existing(directory: &Path, process: Option<&Process>) -> Vec<Check> {
    let at = directory.display();
    let meta = match fs::read_dir(directory).and_then(|_| fs::metadata(directory)) {
        Ok(meta) => meta,
        Err(error) => {
            return vec![Check::attention(
                "data",
                format!("{at} cannot be read: {error}"),
                "run as the user who owns it",
            )];
        }
    };
    let mut checks = Vec::new();
    if rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_err() {
        checks.push(Check::attention("data", format!("{at} is not writable"), "run as the user who owns it"));
    }
    let owner = rustix::process::geteuid().as_raw();
    if meta.uid() != owner {
        let found = format!("{at} belongs to user {}, and you are user {owner}", meta.uid());
        checks.push(Check::note("data", found, "run `paceline` as the user who owns it"));
    }
    if meta.mode() & OTHERS & 0o022 != 0 {
        checks.push(Check::attention("data", format!("others may write to {at}"), format!("chmod 700 {at}")));
    }
    for secret in ["identity.key", "root.key", "issuer.key", ADMIN_KEY, JOIN_TOKEN, API_KEYS] {
        let file = directory.join(secret);
        if fs::metadata(&file).is_ok_and(|meta| meta.mode() & OTHERS != 0) {
            let file = file.display();
            checks.push(Check::attention("data", format!("others may read {file}"), format!("chmod 600 {file}")));
        }
    }
    checks.extend(room(directory));
    checks.extend(lock(directory, process));
    if checks.is_empty() {
        let free = disk(directory).map_or_else(String::new, |d| format!(", {} free", bytes(d.free_bytes)));
        checks.push(Check::fine("data", format!("{at} is as it should be{free}")));
    }
    let now = UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    checks.extend(certificate(directory, process, now));
    checks.extend(token(directory, process, now));
    checks
}

fn room(directory: &Path) -> Option<Check> {
    let free = disk(&nearest(directory))?.free_bytes;
    let found = format!("{} are free for {}", bytes(free), directory.display());
    match free {
        ..FREE_BYTES_MIN => Some(Check::attention("disk", found, "make room, or move it: --data-dir DIR")),
        FREE_BYTES_MIN..FREE_BYTES_LOW => Some(Check::note("disk", found, "make room before long")),
        _ => None,
    }
}

/// A lock that is held by a process that does not answer.
fn lock(directory: &Path, process: Option<&Process>) -> Option<Check> {
    let inode = fs::metadata(directory.join("lock")).ok()?.ino();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let pid = holder(&locks, inode)?;
    if process.is_some_and(|p| p.runtime.pid == pid) {
        return None;
    }
    let found = format!("{} is in use by pid {pid}, which has not said that it is ready", directory.display());
    Some(Check::attention("data", found, "it starts, waits to be admitted, or hangs: see its log"))
}

/// Who holds a lock on a file, in the words of `/proc/locks`: `1: FLOCK  ADVISORY  WRITE 1234 08:01:42 0 EOF`.
fn holder(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = fields.as_slice() else { return None };
        (file.rsplit(':').next()?.parse::<u64>().ok()? == inode).then(|| pid.parse().ok())?
    })
}

/// The certificates on disk; of a running process, those that it uses.
fn certificate(directory: &Path, process: Option<&Process>, now: UnixSeconds) -> Option<Check> {
    let read = |name: &str| -> Option<Vec<Vec<u8>>> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(directory.join(name)).ok()?.collect();
        Some(all.ok()?.into_iter().map(|der| der.to_vec()).collect())
    };
    if let Some(used) = process.and_then(|p| p.doctor.as_ref().ok()).map(|said| &said["certificate"])
        && let (Some(since), Some(until)) = (used["not_before"].as_u64(), used["not_after"].as_u64())
    {
        return Some(lasts(UnixSeconds(since), UnixSeconds(until), now));
    }
    let at = directory.display();
    let root = read("root.pem")?.into_iter().next();
    let join = "join again: paceline leave, then start with --join TOKEN";
    let Some(root) = root.and_then(|der| Root::new(der).ok()) else {
        return Some(Check::attention("certificate", format!("{at}/root.pem is corrupt"), join));
    };
    let chain = read("chain.pem").and_then(|chain| {
        let [leaf, intermediate] = <[Vec<u8>; 2]>::try_from(chain).ok()?;
        Some(Chain { leaf, intermediate })
    });
    let Some(chain) = chain else {
        return Some(Check::attention("certificate", format!("{at}/chain.pem is missing or corrupt"), join));
    };
    Some(match root.judge(&chain, now) {
        Ok(credential) => lasts(credential.not_before, credential.not_after, now),
        Err(CredentialError::Expired) => {
            Check::attention("certificate", format!("the certificate in {at} has expired"), join)
        }
        Err(error) => Check::attention("certificate", format!("the certificate in {at}: {error}"), join),
    })
}

fn lasts(since: UnixSeconds, until: UnixSeconds, now: UnixSeconds) -> Check {
    let (age, left) = (now.0.saturating_sub(since.0), until.0.saturating_sub(now.0));
    let found = format!("the certificate is {} old and good for {} more", span(age), span(left));
    let life = until.0.saturating_sub(since.0);
    // One with a short life is renewed late in it.
    if left < ENDS_SOON.as_secs().min(life / 4) {
        let todo = "it should have been renewed: an issuer (the first gateway) must run and be connected";
        return Check::attention("certificate", found, todo);
    }
    Check::fine("certificate", found)
}

/// The token that a founder keeps for newcomers.
fn token(directory: &Path, process: Option<&Process>, now: UnixSeconds) -> Option<Check> {
    let text = fs::read_to_string(directory.join(JOIN_TOKEN)).ok()?;
    let file = directory.join(JOIN_TOKEN);
    let file = file.display();
    let Ok(token) = Token::parse(text.trim()) else {
        return Some(Check::attention(
            "token",
            format!("{file} holds no join token"),
            "remove it: the process makes another",
        ));
    };
    let left = token.grant.not_after.0.saturating_sub(now.0);
    Some(match (left, process) {
        (0, Some(_)) => Check::attention(
            "token",
            format!("the join token in {file} has expired"),
            "see the log of the process: it should have made another",
        ),
        (0, None) => Check::note(
            "token",
            format!("the join token in {file} has expired"),
            "the process makes another when it runs",
        ),
        (left, _) => Check::fine("token", format!("the join token in {file} is good for {} more", span(left))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::State;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn locks_are_read() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 08:01:42 0 EOF\n2: FLOCK  ADVISORY  WRITE 12 08:01:42 0 EOF\n\
                     3: FLOCK  ADVISORY  READ 13 08:01:43 0 EOF\nnonsense\n";
        assert_eq!(holder(locks, 42), Some(12));
        assert_eq!(holder(locks, 44), None);
    }

    #[test]
    fn a_certificate_that_was_not_renewed_needs_attention() {
        const DAY: u64 = 86_400;
        let state =
            |since: u64, until: u64, now: u64| lasts(UnixSeconds(since), UnixSeconds(until), UnixSeconds(now)).state;
        assert_eq!(state(0, 30 * DAY, DAY), State::Fine);
        assert_eq!(state(0, 30 * DAY, 30 * DAY - 3600), State::Attention);
        assert_eq!(state(0, 600, 300), State::Fine, "a short life");
        assert_eq!(state(0, 600, 599), State::Attention);
        assert_eq!(state(0, 600, 700), State::Attention);
    }

    #[test]
    fn open_secrets_and_corrupt_files_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let states = || existing(path, None).into_iter().map(|c| (c.check, c.state)).collect::<Vec<_>>();
        assert_eq!(states(), [("data", State::Fine)]);
        fs::write(path.join(ADMIN_KEY), "x").unwrap();
        fs::set_permissions(path.join(ADMIN_KEY), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(states(), [("data", State::Attention)]);
        fs::set_permissions(path.join(ADMIN_KEY), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(path.join(JOIN_TOKEN), "rubbish").unwrap();
        fs::set_permissions(path.join(JOIN_TOKEN), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(path.join("root.pem"), "").unwrap();
        assert_eq!(states()[1..], [("certificate", State::Attention), ("token", State::Attention)]);
        let none = path.join("a/b");
        assert_eq!(all(std::slice::from_ref(&none), true, &[])[0].state, State::Fine);
        assert!(!none.exists(), "the doctor makes nothing");
    }
}
