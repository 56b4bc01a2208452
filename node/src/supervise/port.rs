//! Whose port it is: a health check that is answered by another process says nothing of the service.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::TcpListener,
};

/// Processes that listen for a container which the command started through a daemon, and which is not below it.
const FORWARDERS: [&str; 8] =
    ["conmon", "containerd-shim", "docker-proxy", "gvproxy", "pasta", "rootlessport", "rootlessport-c", "slirp4netns"];

/// A port on loopback that nobody listens on now.
///
/// # Errors
/// There is none.
pub(crate) fn free() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Inodes of the sockets that listen on a port, on loopback or on every address (proc(5), `/proc/net/tcp`).
fn listeners(port: u16) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(|line| listens(line, port)));
    }
    found
}

/// The inode of a line, where it listens on the port.
fn listens(line: &str, port: u16) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, hex) = fields.get(1)?.rsplit_once(':')?;
    let here = match address {
        "00000000" | "00000000000000000000000000000000" => true,
        // 127.0.0.0/8, by itself and in IPv6, and ::1, as a little-endian machine writes them.
        a if a.len() == 8 || a.starts_with("0000000000000000FFFF0000") => a.ends_with("7F"),
        a => a == "00000000000000000000000001000000",
    };
    // State 0A is LISTEN.
    let listens = here && u16::from_str_radix(hex, 16).ok()? == port && *fields.get(3)? == "0A";
    listens.then(|| fields.get(9)?.parse().ok())?
}

/// The sockets that a process has open; `None` where that may not be seen.
fn sockets(pid: u32) -> Option<BTreeSet<u64>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let inode = |entry: io::Result<fs::DirEntry>| {
        let target = fs::read_link(entry.ok()?.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    Some(entries.filter_map(inode).collect())
}

fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).map(|name| name.trim().to_owned()).unwrap_or_default()
}

/// Who else listens on a port, in words; `None` where nobody does, one of `group` does, or nothing can be said: `/proc`
/// may be closed, and a container's port is held by its runtime.
pub(crate) fn taken(port: u16, group: &[u32]) -> Option<String> {
    let listening = listeners(port);
    if listening.is_empty() {
        return None;
    }
    for pid in group {
        // A process of another user, whose sockets may not be seen, may be the one.
        if sockets(*pid).is_none_or(|open| !open.is_disjoint(&listening)) {
            return None;
        }
    }
    let owners: BTreeMap<u32, String> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| sockets(*pid).is_some_and(|open| !open.is_disjoint(&listening)))
        .map(|pid| (pid, name(pid)))
        .collect();
    if owners.values().any(|name| FORWARDERS.contains(&name.as_str())) {
        return None;
    }
    Some(match owners.first_key_value() {
        Some((pid, name)) => format!("port {port} belongs to process {pid} ({name})"),
        None => format!("port {port} belongs to another process"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_and_told_from_a_stranger() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        assert_eq!(taken(port, &[std::process::id()]), None, "ours");
        let mut other = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let words = taken(port, &[other.id()]).expect("another's");
        let _ = (other.kill(), other.wait());
        assert!(words.contains(&format!("process {}", std::process::id())), "{words}");
        assert!(taken(port, &[]).is_some());
        drop(listener);
        assert_eq!(taken(port, &[]), None, "nobody's");
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line = |address: &str, state: &str| {
            format!(
                "   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 4711 1 0 100 0 0 10 0"
            )
        };
        for (address, found) in [
            ("0100007F:1FA4", true),
            ("00000000:1FA4", true),
            ("00000000000000000000000001000000:1FA4", true),
            ("00000000000000000000000000000000:1FA4", true),
            ("0000000000000000FFFF00000100007F:1FA4", true),
            ("0100000A:1FA4", false),
            ("0100007F:1FA5", false),
            ("rubbish", false),
        ] {
            assert_eq!(listens(&line(address, "0A"), 8100), found.then_some(4711), "{address}");
            assert_eq!(listens(&line(address, "01"), 8100), None, "{address} is connected");
        }
    }

    #[test]
    fn a_free_port_is_free() {
        let port = free().expect("a port");
        assert_eq!(taken(port, &[]), None);
    }
}
