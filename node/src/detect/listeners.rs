//! Who listens on this machine, as `/proc/net` and `/proc/PID/fd` tell (proc(5)): which ports are this process's own,
//! and which program has a port that we wanted.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

/// Most processes that are looked through for the owner of a port.
const PROCESSES_MAX: usize = 100_000;

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Listening sockets.
    Tcp,
    /// Bound, unconnected sockets.
    Udp,
}

impl Protocol {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        }
    }
}

/// A socket that takes what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// The kernel's number for it, by which its owner is found.
    pub inode: u64,
}

/// A process, as far as we may know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// Name of its program, at most 15 bytes.
    pub name: String,
}

/// All sockets of this network namespace that take what comes; empty where `/proc` does not tell.
pub fn listeners(protocol: Protocol) -> Vec<Listener> {
    let files = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).flat_map(|text| parse(&text, protocol)).collect()
}

/// The TCP ports on which this process listens itself.
pub fn own_ports() -> BTreeSet<u16> {
    let own: BTreeSet<u64> = sockets(Path::new("/proc/self")).collect();
    let listens = listeners(Protocol::Tcp).into_iter().filter(|l| own.contains(&l.inode));
    listens.map(|l| l.address.port()).collect()
}

/// Whose socket it is; `None` for another user's, unless we are root.
pub fn owner(inode: u64) -> Option<Owner> {
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok).take(PROCESSES_MAX);
    for process in processes {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if sockets(&process.path()).any(|socket| socket == inode) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(Owner { pid, name: name.trim().to_owned() });
        }
    }
    None
}

/// The sockets that a process has open.
fn sockets(process: &Path) -> impl Iterator<Item = u64> {
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().filter_map(Result::ok);
    open.filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

fn parse(text: &str, protocol: Protocol) -> Vec<Listener> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let (_slot, local, remote, state) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let takes = match protocol {
            Protocol::Tcp => state == "0A",
            Protocol::Udp => remote.ends_with(":0000"),
        };
        // Queues, timer, retransmissions, user and timeout stand between.
        let inode = fields.nth(5)?.parse().ok()?;
        takes.then_some(Listener { address: address(local)?, inode })
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// `0100007F:1F90`: each 32-bit word of the address in the machine's byte order, the port in plain hex.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<[u8; 4]>> = (0..ip.len() / 8)
        .map(|at| ip.get(at * 8..at * 8 + 8).and_then(|w| u32::from_str_radix(w, 16).ok()).map(u32::to_ne_bytes))
        .collect();
    let ip = match words?.as_slice() {
        [word] => IpAddr::V4(Ipv4Addr::from(*word)),
        [a, b, c, d] => {
            let bytes: [u8; 16] = [a, b, c, d].map(|w| *w).concat().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn our_own_sockets_are_seen_with_their_owner() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind("[::1]:0").ok();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = own_ports();
        assert!(own.contains(&tcp.local_addr().unwrap().port()));
        if let Some(six) = &six {
            assert!(own.contains(&six.local_addr().unwrap().port()));
        }
        assert!(!own.contains(&1));
        for (protocol, address) in
            [(Protocol::Tcp, tcp.local_addr().unwrap()), (Protocol::Udp, udp.local_addr().unwrap())]
        {
            let found = listeners(protocol).into_iter().find(|l| l.address == address);
            let found = found.unwrap_or_else(|| panic!("{} {address} is not listed", protocol.as_str()));
            assert_eq!(owner(found.inode).map(|o| o.pid), Some(std::process::id()));
        }
    }

    #[test]
    fn lines_of_the_kernel() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0 100 0 0 10 0\n\
            \x20  1: 0100007F:1F91 0100007F:A000 01 00000000:00000000 00:00000000 00000000  1000        0 4243 1 0 20 4 30 10 -1\n\
            \x20  2: nonsense\n";
        let expected = Listener { address: "127.0.0.1:8080".parse().unwrap(), inode: 4242 };
        if cfg!(target_endian = "little") {
            assert_eq!(parse(text, Protocol::Tcp), [expected]);
        }
        assert_eq!(address("0000000000000000FFFF00000100007F:0050").map(|a| a.port()), Some(80));
        assert_eq!(address("x:1"), None);
        assert_eq!(address("é00000000:1"), None);
    }
}
