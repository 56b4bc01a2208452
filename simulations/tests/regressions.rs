//! Seeds that failed once, with the scenario that `search` made of them: each was a bug, and must not come back.

use paceline_simulations::sim::scenario::Scenario;
use paceline_simulations::sim::search::judge;

/// What was wrong, the seed, and the scenario.
const KEPT: &[(&str, u64, &str)] = &[
    (
        "a rival's claim was shown with the number of the summary before it",
        14,
        r#"
nodes = 3
gateways = 2
sinks = 2
join_s = 4.0
heal_s = 73.0
converge_s = 75.0
network.delay_ms = 5.0
network.jitter_ms = 16.5
network.loss_percent = 5.0
timing.term_s = 10.0
[[fault]]
at_s = 13.0
kind = "reorder"
for_s = 9.0
percent = 50.0
[[fault]]
at_s = 69.0
kind = "delay"
for_s = 3.0
delay_ms = 556.0
[[fault]]
at_s = 51.0
kind = "churn"
for_s = 17.0
per_minute = 3.0
[[fault]]
at_s = 40.0
kind = "partition"
hosts = [0]
for_s = 21.0
"#,
    ),
    (
        "the same, while the leader was dark",
        29,
        r#"
nodes = 4
gateways = 1
sinks = 0
join_s = 0.0
heal_s = 21.0
converge_s = 75.0
timing.term_s = 20.0
[[fault]]
at_s = 13.0
kind = "change"
hosts = [4]
[[fault]]
at_s = 12.0
kind = "dark"
hosts = [0]
for_s = 8.0
"#,
    ),
    (
        "the same, with delays that are longer than a probe waits",
        32,
        r#"
nodes = 4
gateways = 1
sinks = 0
join_s = 0.0
heal_s = 58.0
converge_s = 75.0
timing.heartbeat_s = 2.0
timing.term_s = 45.0
[[fault]]
at_s = 15.0
kind = "delay"
for_s = 42.0
delay_ms = 1416.0
"#,
    ),
    (
        "a leader that was stopped for long led on beside its successor",
        1041,
        r#"
nodes = 2
gateways = 1
sinks = 0
join_s = 0.0
heal_s = 81.0
converge_s = 75.0
timing.heartbeat_s = 1.0
timing.term_s = 10.0
[[fault]]
at_s = 35.0
kind = "hang"
hosts = "leader"
for_s = 45.0
"#,
    ),
    (
        "hosts that came back alone all led",
        1191,
        r#"
nodes = 3
gateways = 1
sinks = 0
join_s = 0.0
heal_s = 67.0
converge_s = 75.0
[[fault]]
at_s = 38.0
kind = "churn"
for_s = 28.0
per_minute = 19.0
[[fault]]
at_s = 54.0
kind = "leave"
hosts = "leader"
"#,
    ),
    (
        "who was cut off buried all others, and told so when it came back",
        4,
        r#"
nodes = 20
join_s = 5.0
heal_s = 80.0
converge_s = 8.0
[[fault]]
at_s = 60.0
kind = "dark"
hosts = [5]
for_s = 20.0
"#,
    ),
    (
        "two hosts behind NAT missed each other while their only gateway was dark",
        11_646,
        r#"
nodes = 3
gateways = 1
nat_percent = 30.0
sinks = 0
join_s = 0.0
heal_s = 61.0
converge_s = 75.0
[[fault]]
at_s = 57.0
kind = "dark"
hosts = [0]
for_s = 3.0
"#,
    ),
    (
        "who slept never trusted itself again where the only other one had gone meanwhile",
        5_687,
        r#"
nodes = 2
gateways = 1
sinks = 0
join_s = 0.0
heal_s = 43.0
converge_s = 75.0
timing.heartbeat_s = 2.0
[[fault]]
at_s = 37.0
kind = "hang"
hosts = "leader"
for_s = 5.0
[[fault]]
at_s = 42.0
kind = "leave"
hosts = "leader"
"#,
    ),
    (
        "the same, where it was killed",
        20_238,
        r#"
nodes = 2
gateways = 1
sinks = 0
join_s = 0.0
heal_s = 45.0
converge_s = 75.0
timing.heartbeat_s = 5.0
[[fault]]
at_s = 44.0
kind = "kill"
hosts = "leader"
[[fault]]
at_s = 26.0
kind = "hang"
hosts = "leader"
for_s = 18.0
"#,
    ),
    (
        "gateways that had taken a host behind NAT for dead did not see it again for two minutes",
        21_914,
        r#"
nodes = 8
gateways = 3
nat_percent = 30.0
sinks = 0
join_s = 0.0
heal_s = 55.0
converge_s = 75.0
[[fault]]
at_s = 20.0
kind = "partition"
hosts = [1, 3, 5, 0]
for_s = 3.0
[[fault]]
at_s = 52.0
kind = "partition"
hosts = [5]
for_s = 2.0
"#,
    ),
    (
        "newcomers whose only entry had left stayed among themselves",
        11_649,
        r#"
nodes = 2
gateways = 1
sinks = 0
join_s = 0.0
heal_s = 55.0
converge_s = 75.0
timing.heartbeat_s = 1.0
[[fault]]
at_s = 48.0
kind = "leave"
hosts = "leader"
[[fault]]
at_s = 54.0
kind = "join"
count = 3
"#,
    ),
];

#[test]
fn what_failed_once_holds() {
    for (what, seed, text) in KEPT {
        let scenario = Scenario::parse(text).unwrap_or_else(|e| panic!("{what}: {e:#}"));
        let violation = judge(&scenario, *seed).expect("within bounds");
        assert!(violation.is_none(), "{what}: seed {seed}: {violation:?}");
    }
}
