//! Capabilities: detected where they can be, declared by the user otherwise; what is declared wins.

use std::{collections::BTreeMap, fs, os::unix::net::UnixStream};

use paceline_proto::manifest::LABELS_MAX;

use super::Hardware;
use crate::detect::container_sockets;

/// A container engine's socket takes our connection.
pub const DOCKER: &str = "docker";
/// A GPU is there and its driver answers.
pub const GPU: &str = "gpu";
/// There is a route to other networks.
pub const NETWORK_ACCESS: &str = "network_access";
/// Root, or the right to administer the system.
pub const PRIVILEGED: &str = "privileged";
/// Bit of CAP_SYS_ADMIN (capabilities(7)).
const CAP_SYS_ADMIN: u32 = 21;
/// Flag of a route that is in use (route(8)).
const RTF_UP: u32 = 1;
/// Flag of a route that leads nowhere.
const RTF_REJECT: u32 = 0x200;

/// What can be detected on this machine.
pub(super) fn detect(hardware: &Hardware) -> BTreeMap<String, bool> {
    let docker = container_sockets().iter().any(|socket| UnixStream::connect(socket).is_ok());
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let network = routes_out(&read("/proc/net/route"), &read("/proc/net/ipv6_route"));
    let privileged = rustix::process::geteuid().is_root() || may_administer(&read("/proc/self/status"));
    let all = [(DOCKER, docker), (GPU, !hardware.gpus.is_empty()), (NETWORK_ACCESS, network), (PRIVILEGED, privileged)];
    all.map(|(key, value)| (key.to_owned(), value)).into()
}

/// What this machine tells of itself: all that is declared, and what was detected beside it, as far as a manifest holds
/// it.
pub fn merge(declared: &BTreeMap<String, bool>, detected: &BTreeMap<String, bool>) -> BTreeMap<String, bool> {
    let mut all = declared.clone();
    for (key, value) in detected {
        if all.len() < LABELS_MAX {
            all.entry(key.clone()).or_insert(*value);
        }
    }
    all
}

/// Whether a default route is up, in the words of `/proc/net/route` and `/proc/net/ipv6_route`.
fn routes_out(four: &str, six: &str) -> bool {
    let flags = |text: &str| u32::from_str_radix(text, 16).unwrap_or_default();
    let four = four.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields.as_slice(), [_interface, "00000000", _gateway, up, _, _, _, "00000000", ..] if flags(up) & RTF_UP != 0)
    });
    let six = six.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields.as_slice(), [to, "00", _, _, _, _, _, _, up, interface]
            if to.bytes().all(|b| b == b'0') && *interface != "lo" && flags(up) & (RTF_UP | RTF_REJECT) == RTF_UP)
    });
    four || six
}

/// Whether the effective set in `/proc/self/status` holds CAP_SYS_ADMIN.
fn may_administer(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set & (1 << CAP_SYS_ADMIN) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_wins_and_a_manifest_holds_the_rest() {
        let map = |list: &[(&str, bool)]| list.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect::<BTreeMap<_, _>>();
        let detected = map(&[(DOCKER, true), (GPU, false)]);
        let declared = map(&[(DOCKER, false), ("robot", true)]);
        assert_eq!(merge(&declared, &detected), map(&[(DOCKER, false), (GPU, false), ("robot", true)]));
        let many: BTreeMap<String, bool> = (0..LABELS_MAX).map(|i| (format!("c{i}"), true)).collect();
        assert_eq!(merge(&many, &detected), many);
    }

    #[test]
    fn a_way_out_is_a_default_route_that_is_up() {
        let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        let default = "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        let local = "eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        assert!(routes_out(&format!("{head}{local}{default}"), ""));
        assert!(!routes_out(&format!("{head}{local}"), ""));
        let zero = "0".repeat(32);
        let six = |flags: &str, interface: &str| {
            format!(
                "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 {flags} {interface}\n"
            )
        };
        assert!(routes_out(head, &six("00000003", "eth0")));
        assert!(!routes_out(head, &six("00200200", "lo")), "the kernel's way to say: none");
        assert!(!routes_out("", ""));
    }

    #[test]
    fn the_right_to_administer_is_bit_21() {
        assert!(may_administer("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_administer("CapEff:\t00000000a80425fb\n"), "a container's usual set");
        assert!(!may_administer("CapEff:\t0000000000000000\n"));
        assert!(!may_administer(""));
    }
}
