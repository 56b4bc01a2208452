//! Ports, UDP, whether others reach this machine, and its clock.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{StreamExt, stream};
use http::Uri;
use paceline_mesh::{
    args::{DEFAULT_DATA, DEFAULT_HTTP, DEFAULT_MESH},
    trust::KnownPeer,
};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use super::{Check, Process, quic};
use crate::{
    cli::table::span,
    client,
    detect::listeners::{self, Protocol},
};

/// For a datagram to ourselves.
const ECHO_TIMEOUT: Duration = Duration::from_millis(500);
/// For a TCP connection to a member, and for a gateway's answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Most addresses of members that are tried.
const ADDRESSES_MAX: usize = 32;
/// Most addresses that are tried at once.
const AT_ONCE_MAX: usize = 8;
/// A clock that is further off than this needs attention: claims and tokens carry times.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(5);
/// Most bytes of a gateway's answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of the list of known members.
const MEMBERS_BYTES_MAX: u64 = 1024 * 1024;

/// The ports that Paceline wants by default: free, ours, or whose.
pub(super) fn ports(processes: &[Process]) -> Vec<Check> {
    let (mut free, mut taken) = (Vec::new(), Vec::new());
    let wanted = [
        ("mesh", "--mesh", Protocol::Udp, DEFAULT_MESH),
        ("mesh", "--mesh", Protocol::Tcp, DEFAULT_MESH),
        ("data", "--data", Protocol::Udp, DEFAULT_DATA),
        ("gateway", "--http", Protocol::Tcp, DEFAULT_HTTP),
    ];
    for (what, flag, protocol, address) in wanted {
        let Ok(address) = address.parse::<SocketAddr>() else { continue };
        let named = format!("{} {} ({what})", address.port(), protocol.as_str());
        let error = match bind(protocol, address) {
            Ok(()) => {
                free.push(named);
                continue;
            }
            Err(error) => error,
        };
        let holder = holder(protocol, address.port());
        let ours = holder.as_ref().and_then(|h| processes.iter().find(|p| p.runtime.pid == h.pid));
        taken.push(match (ours, holder) {
            (Some(process), _) => Check::fine("ports", format!("{named} is used by {}", process.called())),
            (None, holder) => {
                let by = match (&holder, error.kind()) {
                    (Some(holder), _) => format!("taken by {} (pid {})", holder.name, holder.pid),
                    (None, io::ErrorKind::AddrInUse) => "taken by a process of another user".to_owned(),
                    (None, _) => format!("not to be had: {error}"),
                };
                let todo = format!("a free port is taken in its place; to choose one, say {flag} IP:PORT");
                Check::note("ports", format!("{named} is {by}"), todo)
            }
        });
    }
    let free = (!free.is_empty()).then(|| {
        let are = if free.len() == 1 { "is" } else { "are" };
        Check::fine("ports", format!("{} {are} free", free.join(", ")))
    });
    free.into_iter().chain(taken).collect()
}

fn bind(protocol: Protocol, address: SocketAddr) -> io::Result<()> {
    match protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    }
}

fn holder(protocol: Protocol, port: u16) -> Option<listeners::Owner> {
    let all = listeners::listeners(protocol);
    all.iter().filter(|l| l.address.port() == port).find_map(|l| listeners::owner(l.inode))
}

/// UDP to ourselves, and to the members that are known.
pub(super) async fn udp(processes: &[Process], directories: &[PathBuf]) -> Vec<Check> {
    let mut checks = vec![match echo().await {
        Ok(()) => Check::fine("udp", "datagrams pass on this machine"),
        Err(words) => Check::attention(
            "udp",
            format!("a datagram to this machine itself does not arrive: {words}"),
            "a firewall drops UDP even on loopback: allow it (iptables, nftables, security software)",
        ),
    }];
    let known = addresses(processes, directories);
    if known.is_empty() {
        return checks;
    }
    let try_all = |protocol: Protocol| {
        let wanted: Vec<SocketAddr> = known.iter().filter(|(p, _)| *p == protocol).map(|(_, a)| *a).collect();
        stream::iter(wanted.into_iter().take(ADDRESSES_MAX))
            .map(move |address| async move {
                match protocol {
                    Protocol::Udp => quic::answers(address).await,
                    Protocol::Tcp => matches!(timeout(TIMEOUT, TcpStream::connect(address)).await, Ok(Ok(_))),
                }
            })
            .buffer_unordered(AT_ONCE_MAX)
            .collect::<Vec<bool>>()
    };
    let count = |answers: &[bool]| answers.iter().filter(|a| **a).count();
    let udp = try_all(Protocol::Udp).await;
    if count(&udp) > 0 {
        let found = format!("other members answer over UDP, at {} of {} addresses", count(&udp), udp.len());
        checks.push(Check::fine("udp", found));
    } else if count(&try_all(Protocol::Tcp).await) > 0 {
        checks.push(Check::attention(
            "udp",
            "other members answer over TCP, but not over UDP: it is blocked between here and there",
            "requests travel over UDP: let UDP ports 4900 and 4901 through (or those of --mesh and --data), both ways",
        ));
    } else {
        checks.push(Check::note(
            "udp",
            format!("none of the {} known addresses of other members answers", known.len()),
            "they may be down, or behind NAT: see `paceline status` on another machine",
        ));
    }
    checks
}

async fn echo() -> Result<(), String> {
    let words = |e: io::Error| e.to_string();
    let receiver = tokio::net::UdpSocket::bind("127.0.0.1:0").await.map_err(words)?;
    let sender = tokio::net::UdpSocket::bind("127.0.0.1:0").await.map_err(words)?;
    let said: [u8; 8] = rand::random();
    sender.send_to(&said, receiver.local_addr().map_err(words)?).await.map_err(words)?;
    let mut heard = [0; 16];
    match timeout(ECHO_TIMEOUT, receiver.recv_from(&mut heard)).await {
        Ok(Ok((length, _))) if heard[..length] == said => Ok(()),
        Ok(Ok(_)) => Err("something else arrived".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("nothing within {} ms", ECHO_TIMEOUT.as_millis())),
    }
}

/// Where other members may be: as the running processes know, else as the data directories remember.
fn addresses(processes: &[Process], directories: &[PathBuf]) -> Vec<(Protocol, SocketAddr)> {
    let running: Vec<&Value> = processes.iter().filter_map(|p| p.doctor.as_ref().ok()).collect();
    let texts: Vec<String> = if running.is_empty() {
        directories.iter().flat_map(|d| remembered(&d.join("members.json"))).collect()
    } else {
        let members = running.iter().flat_map(|d| d["members"].as_array().into_iter().flatten());
        let all = members.flat_map(|m| m["addresses"].as_array().into_iter().flatten());
        all.filter_map(|a| a.as_str().map(str::to_owned)).collect()
    };
    let mut all: Vec<_> = texts.iter().filter_map(|text| parse(text)).collect();
    all.sort_by_key(|(protocol, address)| (protocol.as_str(), *address));
    all.dedup();
    all
}

fn remembered(path: &std::path::Path) -> Vec<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MEMBERS_BYTES_MAX).read_to_end(&mut bytes));
    let peers = read.ok().and_then(|_| serde_json::from_slice::<Vec<KnownPeer>>(&bytes).ok());
    peers.unwrap_or_default().into_iter().flat_map(|peer| peer.addresses).collect()
}

/// `/ip4/192.0.2.7/udp/4900/quic-v1/...` or `/ip4/192.0.2.7/tcp/4900/...`; `None` for relayed and named ones.
fn parse(multiaddr: &str) -> Option<(Protocol, SocketAddr)> {
    let parts: Vec<&str> = multiaddr.split('/').collect();
    let ["", "ip4" | "ip6", ip, protocol, port, rest @ ..] = parts.as_slice() else { return None };
    let protocol = match *protocol {
        "udp" => Protocol::Udp,
        "tcp" => Protocol::Tcp,
        _ => return None,
    };
    let address = SocketAddr::new(ip.parse::<IpAddr>().ok()?, port.parse().ok()?);
    (!rest.contains(&"p2p-circuit")).then_some((protocol, address))
}

/// Whether others have reached this machine by dialling it.
pub(super) fn reachable(processes: &[Process]) -> Vec<Check> {
    let running = processes.iter().filter_map(|p| Some((p, p.doctor.as_ref().ok()?)));
    let check = |(process, said): (&Process, &Value)| {
        let called = process.called();
        if said["dialable"] == true {
            return Check::fine("reachable", format!("other members have reached {called} by dialling it"));
        }
        if said["alive"].as_u64().unwrap_or(0) == 0 {
            return Check::note(
                "reachable",
                format!("nobody else is there to tell whether {called} can be reached"),
                "",
            );
        }
        let found = format!("no other member has reached {called} by dialling it since it started");
        let port = process.runtime.mesh.first().and_then(|m| parse(m)).map_or(4900, |(_, a)| a.port());
        let todo = format!(
            "let UDP and TCP {port} and UDP {} through to this machine, and name its outer address: --advertise IP",
            process.runtime.data.port()
        );
        match process.runtime.role.as_str() {
            "bootstrap" => Check::attention("reachable", found, format!("an entry point must be reached: {todo}")),
            _ => {
                Check::note("reachable", found, format!("it serves over connections that it opens itself; else {todo}"))
            }
        }
    };
    running.map(check).collect()
}

/// The clock against what is known of the time.
pub(super) async fn clock(processes: &[Process], directories: &[PathBuf], gateway: Option<&Uri>) -> Vec<Check> {
    const SET: &str = "set it, and let it be kept: timedatectl set-ntp true, or chrony";
    let off = |found: String| Check::attention("clock", found, SET);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut checks = Vec::new();
    for directory in directories {
        let last = std::fs::read_to_string(directory.join("time")).ok().and_then(|t| t.trim().parse::<u64>().ok());
        if let Some(behind) = last.map(|last| last.saturating_sub(now)).filter(|s| *s > CLOCK_OFF_MAX.as_secs()) {
            let at = directory.display();
            checks.push(off(format!("the clock is at least {} behind: {at} was used at a later time", span(behind))));
        }
    }
    for said in processes.iter().filter_map(|p| p.doctor.as_ref().ok()) {
        let member = &said["clock_behind_member"];
        let ms = member["ms"].as_u64().unwrap_or(0);
        if ms > u64::try_from(CLOCK_OFF_MAX.as_millis()).unwrap_or(u64::MAX) {
            let name = member["name"].as_str().unwrap_or("?");
            let behind = span(ms / 1000);
            checks.push(off(format!(
                "the clock here is behind that of `{name}`, or that one is ahead, by at least {behind}"
            )));
        }
    }
    let against = match gateway {
        Some(url) => match offset(url).await {
            Ok(seconds) if seconds.unsigned_abs() > CLOCK_OFF_MAX.as_secs() => {
                let word = if seconds > 0 { "behind" } else { "ahead of" };
                checks.push(off(format!("the clock is {} {word} that of {url}", span(seconds.unsigned_abs()))));
                None
            }
            Ok(_) => Some(format!("within {} s of that of {url}", CLOCK_OFF_MAX.as_secs())),
            Err(words) => {
                checks.push(Check::note("clock", format!("{url} does not tell its time: {words}"), ""));
                None
            }
        },
        None => None,
    };
    if checks.is_empty() {
        let found = against.unwrap_or_else(|| "not behind anything that is known here".to_owned());
        let todo = "to compare it with another machine's, give that machine's --gateway URL";
        checks.push(Check {
            todo: gateway.is_none().then(|| todo.to_owned()),
            ..Check::fine("clock", format!("the clock is {found}"))
        });
    }
    checks
}

/// By how many seconds a gateway's clock is ahead of ours, from the date of its answer: good to a second.
async fn offset(gateway: &Uri) -> Result<i64, String> {
    let answer = timeout(TIMEOUT, client::get(gateway, "/livez", ANSWER_BYTES_MAX)).await;
    let answer = answer.map_err(|_| format!("no answer within {} s", TIMEOUT.as_secs()))??;
    let date = answer.headers.get(http::header::DATE).and_then(|d| d.to_str().ok()).ok_or("its answer has no date")?;
    let theirs = http_date(date).ok_or("its answer has no date that can be read")?;
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?.as_secs();
    Ok(i64::try_from(theirs).unwrap_or(i64::MAX).saturating_sub(i64::try_from(ours).unwrap_or(i64::MAX)))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7) in seconds since 1970.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut fields = text.split_once(", ")?.1.split(' ');
    let (day, month, year) = (fields.next()?, fields.next()?, fields.next()?);
    let month = MONTHS.iter().position(|m| *m == month)?;
    let time = fields.next()?;
    // humantime reads RFC 3339.
    let text = format!("{year}-{:02}-{day}T{time}Z", month + 1);
    Some(humantime::parse_rfc3339(&text).ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_dates_are_read() {
        let udp = parse("/ip4/192.0.2.7/udp/4900/quic-v1/p2p/12D3KooW").unwrap();
        assert_eq!(udp, (Protocol::Udp, "192.0.2.7:4900".parse().unwrap()));
        let tcp = parse("/ip6/2001:db8::1/tcp/4900").unwrap();
        assert_eq!(tcp, (Protocol::Tcp, "[2001:db8::1]:4900".parse().unwrap()));
        for other in
            ["/dns4/a/udp/1/quic-v1", "/ip4/192.0.2.7/udp/1/quic-v1/p2p/x/p2p-circuit", "/ip4/x/udp/1", "", "/"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Sunday"), None);
        assert_eq!(http_date("Sun, 06 Nov"), None);
    }

    #[tokio::test]
    async fn a_taken_port_names_who_has_it() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(bind(Protocol::Tcp, socket.local_addr().unwrap()).is_err());
        assert_eq!(holder(Protocol::Tcp, port).map(|h| h.pid), Some(std::process::id()));
        assert_eq!(echo().await, Ok(()));
    }
}
