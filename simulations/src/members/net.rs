//! The network between nodes, where this process has a network namespace of its own: what it counts, loses and cuts.
//!
//! Needs `nft` and the right to use it, which root has, and within `unshare` anybody where the system allows that.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::fleet::{GROUPS, address};

/// Set in the process that runs within the namespace.
const INSIDE: &str = "PACELINE_SIMULATIONS_NAMESPACE";
/// As on Ethernet: loopback's 64 KiB packets would hide what packets cost.
const MTU: &str = "1500";

/// What all nodes have sent together, IP headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Sent {
    /// Bytes in UDP.
    pub(super) udp_bytes: u64,
    /// UDP packets.
    pub(super) udp_packets: u64,
    /// Bytes in TCP, acknowledgements too.
    pub(super) tcp_bytes: u64,
    /// TCP packets.
    pub(super) tcp_packets: u64,
}

impl Sent {
    /// From `earlier` to `self`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            udp_bytes: self.udp_bytes - earlier.udp_bytes,
            udp_packets: self.udp_packets - earlier.udp_packets,
            tcp_bytes: self.tcp_bytes - earlier.tcp_bytes,
            tcp_packets: self.tcp_packets - earlier.tcp_packets,
        }
    }
}

/// Runs this program again, with the same arguments, within a network namespace of its own; its exit code. `None`
/// where this is already that process, or the system allows no namespace.
///
/// # Errors
/// The program cannot be started.
pub(super) fn enter() -> anyhow::Result<Option<i32>> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(None);
    }
    let unshare = |arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(arguments);
        command
    };
    // Root stays itself, so that it can give nodes users and groups; anybody else becomes root within.
    for arguments in [&["--net"][..], &["--net", "--map-root-user"]] {
        let mut probe = unshare(arguments);
        probe.args(["nft", "list", "ruleset"]).stdout(Stdio::null()).stderr(Stdio::null());
        let allowed = probe.status().is_ok_and(|status| status.success());
        if allowed {
            let status = unshare(arguments)
                .arg(std::env::current_exe()?)
                .args(std::env::args_os().skip(1))
                .env(INSIDE, "1")
                .status()
                .context("unshare")?;
            return Ok(Some(status.code().unwrap_or(1)));
        }
    }
    Ok(None)
}

fn nft(rules: &str) -> anyhow::Result<()> {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("nft")?;
    child.stdin.take().context("nft takes no input")?.write_all(rules.as_bytes())?;
    ensure!(child.wait()?.success(), "nft refused its rules");
    Ok(())
}

/// Gives each node's TCP connections the node's own address as their source, by the group that it runs in: Linux sends
/// from 127.0.0.1 otherwise, and no cut by address would concern them.
///
/// # Errors
/// `nft` refuses.
pub(super) fn give_sources(nodes: usize) -> anyhow::Result<()> {
    let of = |node: usize| format!("{} : {}", GROUPS as usize + node, address(node));
    let map: Vec<String> = (0..nodes).map(of).collect();
    nft(&format!(
        "table ip paceline_sources {{\n chain post {{\n  type nat hook postrouting priority 100; policy accept;\n  \
         ip protocol tcp ip saddr 127.0.0.1 ip daddr 127.10.0.0/16 snat to meta skgid map {{ {} }}\n }}\n}}\n",
        map.join(", ")
    ))
}

/// The namespace's network.
pub(super) struct Network {
    /// Whether a node can be cut off, which takes addresses of its own.
    pub(super) cuts: bool,
}

impl Network {
    /// Sets it up; `None` outside of a namespace.
    ///
    /// # Errors
    /// `ip` or `nft` refuse.
    pub(super) fn new(nodes: usize) -> anyhow::Result<Option<Self>> {
        if std::env::var_os(INSIDE).is_none() {
            return Ok(None);
        }
        let up = Command::new("ip").args(["link", "set", "lo", "mtu", MTU, "up"]).status().context("ip")?;
        ensure!(up.success(), "the loopback interface cannot be set up");
        // Before the rules of give_sources, packets still have the kernel's address; in `prerouting` the node's own.
        nft(
            "table ip paceline {\n counter sent_udp { }\n counter sent_tcp { }\n chain cut { }\n chain loss { }\n chain peer {\n  \
             ip protocol udp counter name \"sent_udp\"\n  ip protocol tcp counter name \"sent_tcp\"\n  jump cut\n  jump loss\n }\n \
             chain pre {\n  type filter hook prerouting priority -300; policy accept;\n  \
             ip saddr 127.10.0.0/16 goto peer\n  ip daddr 127.10.0.0/16 goto peer\n }\n}\n",
        )?;
        let cuts = is_root_outside();
        if cuts {
            give_sources(nodes)?;
        }
        Ok(Some(Self { cuts }))
    }

    /// What was sent so far.
    ///
    /// # Errors
    /// `nft` refuses.
    pub(super) fn sent(&self) -> anyhow::Result<Sent> {
        let output = Command::new("nft").args(["-j", "list", "counters"]).output().context("nft")?;
        let all: serde_json::Value = serde_json::from_slice(&output.stdout).context("nft list counters")?;
        let mut sent = Sent::default();
        for counter in all["nftables"].as_array().into_iter().flatten().map(|object| &object["counter"]) {
            let of = |key: &str| counter[key].as_u64().unwrap_or(0);
            match counter["name"].as_str() {
                Some("sent_udp") => (sent.udp_bytes, sent.udp_packets) = (of("bytes"), of("packets")),
                Some("sent_tcp") => (sent.tcp_bytes, sent.tcp_packets) = (of("bytes"), of("packets")),
                _ => {}
            }
        }
        Ok(sent)
    }

    /// Nothing goes to this node or comes from it any more, not even the news of its end.
    ///
    /// # Errors
    /// `nft` refuses.
    pub(super) fn cut(&self, node: usize) -> anyhow::Result<()> {
        let ip = address(node);
        nft(&format!("add rule ip paceline cut ip saddr {ip} drop\nadd rule ip paceline cut ip daddr {ip} drop\n"))
    }

    /// So many packets of a hundred are lost from now on, in each direction.
    ///
    /// # Errors
    /// `nft` refuses.
    pub(super) fn lose(&self, percent: u8) -> anyhow::Result<()> {
        let rule = format!("add rule ip paceline loss numgen random mod 100 < {percent} drop\n");
        nft(&format!("flush chain ip paceline loss\n{}", if percent == 0 { "" } else { &rule }))
    }
}

/// Whether this process may take any user and group: in a user namespace of one mapped user it may not.
fn is_root_outside() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = map.split_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok()).is_some_and(|n| n > 1 << 31);
    whole && std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0)
}
