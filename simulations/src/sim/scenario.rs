//! What is to happen, as TOML: how many hosts of which kind, the network between them, and faults, each at its time.
//!
//! Every run has the same shape: hosts start, faults come and end, then all is healed and agreement is demanded within
//! `converge_s`. Times are seconds since the start of the run; what is not known is refused with the line that it is in.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;

/// Most hosts of a run.
pub const NODES_MAX: usize = 20_000;
/// Most faults of a scenario.
pub const FAULTS_MAX: usize = 1_000;
/// The longest run, in seconds.
pub const RUN_S_MAX: f64 = 7.0 * 86_400.0;
/// Loss up to this, in percent, is no excuse for anything but more time.
pub const HONEST_LOSS_PERCENT: f64 = 20.0;

/// A whole scenario.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// What it shows, for the report.
    pub about: String,
    /// Hosts; `--nodes` says otherwise.
    pub nodes: usize,
    /// How many of them are gateways, and entries for all; 0 is one for every 25, at least one.
    pub gateways: usize,
    /// Not 0: all start at once and know of each other, and so many have the whole table; the others know only those that
    /// they deal with, and are no observers.
    pub whole: usize,
    /// Percent of the workers that nobody can dial.
    pub nat_percent: f64,
    /// Hosts that hold the credential of the sink.
    pub sinks: usize,
    /// Connections that a gateway accepts, as the driver bounds them.
    pub hub_links: usize,
    /// The hosts start within so many seconds, the founder first.
    pub join_s: f64,
    /// When the faults end at the latest, and the network heals.
    pub heal_s: f64,
    /// Within how many seconds all must agree afterwards.
    pub converge_s: f64,
    /// The network, when nothing is wrong with it.
    pub network: Network,
    /// The nodes' own times.
    pub timing: Timing,
    /// What goes wrong.
    pub fault: Vec<Fault>,
}

/// The network between any two hosts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// One way.
    pub delay_ms: f64,
    /// Up to so much more.
    pub jitter_ms: f64,
    /// Of each transmission; streams send again after 0.2, 0.6, 1.4 s ...
    pub loss_percent: f64,
    /// Gossip messages that come twice, past the neighbour's own memory of duplicates.
    pub duplicate_percent: f64,
    /// Gossip messages that are overtaken by later ones.
    pub reorder_percent: f64,
}

/// The nodes' own times, in seconds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// `--heartbeat`.
    pub heartbeat_s: f64,
    /// `--term`.
    pub term_s: f64,
}

/// One thing that goes wrong (or merely happens).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When.
    pub at_s: f64,
    /// What.
    pub kind: Kind,
    /// Whom it meets; left out, everybody.
    #[serde(default)]
    pub hosts: Hosts,
    /// The other side of a one-way fault; left out, everybody else.
    #[serde(default)]
    pub to: Hosts,
    /// How long; left out, until the end (of a killed process: it stays dead).
    #[serde(default)]
    pub for_s: Option<f64>,
    /// Of loss, duplicates and reordering.
    #[serde(default)]
    pub percent: Option<f64>,
    /// Of delay: so much more, and up to so much again.
    #[serde(default)]
    pub delay_ms: Option<f64>,
    /// Of a clock jump: forwards, or backwards where it is negative.
    #[serde(default)]
    pub by_s: Option<i64>,
    /// Of churn: how many come or go in a minute.
    #[serde(default)]
    pub per_minute: Option<f64>,
    /// Of a restart: whether the data directory is still there.
    #[serde(default = "kept")]
    pub disk: bool,
    /// Of a join: how many.
    #[serde(default)]
    pub count: Option<usize>,
}

fn kept() -> bool {
    true
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// SIGKILL; started again after `for_s`, without its data directory where `disk = false`.
    Kill,
    /// A goodbye; started again after `for_s`.
    Leave,
    /// SIGSTOP, and SIGCONT after `for_s`: then it handles all that has piled up.
    Hang,
    /// Nothing goes in or out of the machine.
    Dark,
    /// These hosts on one side, all others on the other.
    Partition,
    /// What `hosts` send to `to` does not arrive.
    OneWay,
    /// `percent` of what `hosts` send or get is lost.
    Loss,
    /// `delay_ms` more, and up to as much again.
    Delay,
    /// `percent` of the gossip messages come twice.
    Duplicate,
    /// `percent` of the gossip messages come late.
    Reorder,
    /// The wall clock jumps `by_s`.
    ClockJump,
    /// Hosts are killed, leave and come back, `per_minute` of them.
    Churn,
    /// The host offers another service.
    Change,
    /// `count` new hosts.
    Join,
    /// The store of the summary answers nothing.
    StoreDown,
}

/// Which hosts.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Hosts {
    /// `"leader"`, `"random"`, `"gateways"`, `"half"`, `"all"`, `"25%"`.
    Named(String),
    /// By number, from 0; beyond the last one it begins again.
    Numbers(Vec<usize>),
    /// Not said.
    #[default]
    Default,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            about: String::new(),
            nodes: 10,
            gateways: 0,
            whole: 0,
            nat_percent: 0.0,
            sinks: 1,
            hub_links: paceline_proto::carrier::CONNECTIONS_OF_HUBS as usize,
            join_s: 2.0,
            heal_s: 60.0,
            converge_s: 40.0,
            network: Network::default(),
            timing: Timing::default(),
            fault: Vec::new(),
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self { delay_ms: 2.0, jitter_ms: 3.0, loss_percent: 0.0, duplicate_percent: 0.0, reorder_percent: 0.0 }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat_s: 10.0, term_s: 600.0 }
    }
}

impl Kind {
    /// As it stands in a scenario.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Leave => "leave",
            Self::Hang => "hang",
            Self::Dark => "dark",
            Self::Partition => "partition",
            Self::OneWay => "one-way",
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::ClockJump => "clock-jump",
            Self::Churn => "churn",
            Self::Change => "change",
            Self::Join => "join",
            Self::StoreDown => "store-down",
        }
    }

    /// Needs `hosts`: to do it to everybody is hardly ever meant.
    fn needs_hosts(self) -> bool {
        matches!(
            self,
            Self::Kill
                | Self::Leave
                | Self::Hang
                | Self::Dark
                | Self::Partition
                | Self::OneWay
                | Self::Change
                | Self::ClockJump
        )
    }
}

/// Seconds of a scenario as a time.
pub fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s.clamp(0.0, RUN_S_MAX))
}

/// Milliseconds of a scenario as a time.
pub fn millis(ms: f64) -> Duration {
    seconds(ms / 1_000.0)
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// One line: the file, the line, and what is wrong with it.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).map_err(|e| anyhow::anyhow!("{}:{e}", path.display()))
    }

    /// Reads a scenario.
    ///
    /// # Errors
    /// `line: what is wrong`.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |at| 1 + text[..at.start.min(text.len())].matches('\n').count());
            anyhow::anyhow!("{line}: {}", e.message().replace('\n', " "))
        })?;
        if let Err(error) = scenario.validate() {
            bail!(" {error:#}");
        }
        Ok(scenario)
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first one that is broken.
    pub fn validate(&self) -> anyhow::Result<()> {
        within("nodes", self.nodes as f64, 1.0, NODES_MAX as f64)?;
        within("gateways", self.gateways as f64, 0.0, self.nodes as f64)?;
        within("whole", self.whole as f64, 0.0, NODES_MAX as f64)?;
        within("nat_percent", self.nat_percent, 0.0, 100.0)?;
        within("hub_links", self.hub_links as f64, 1.0, NODES_MAX as f64)?;
        within("join_s", self.join_s, 0.0, RUN_S_MAX)?;
        within("heal_s", self.heal_s, 0.0, RUN_S_MAX)?;
        within("converge_s", self.converge_s, 0.0, RUN_S_MAX)?;
        within("delay_ms", self.network.delay_ms, 0.0, 10_000.0)?;
        within("jitter_ms", self.network.jitter_ms, 0.0, 10_000.0)?;
        within("loss_percent", self.network.loss_percent, 0.0, 100.0)?;
        within("duplicate_percent", self.network.duplicate_percent, 0.0, 100.0)?;
        within("reorder_percent", self.network.reorder_percent, 0.0, 100.0)?;
        within("heartbeat_s", self.timing.heartbeat_s, 0.1, 3_600.0)?;
        within("term_s", self.timing.term_s, 1.0, 86_400.0)?;
        within("number of faults", self.fault.len() as f64, 0.0, FAULTS_MAX as f64)?;
        for (at, fault) in self.fault.iter().enumerate() {
            fault.validate(self.heal_s).with_context(|| format!("fault {} ({})", at + 1, fault.kind.name()))?;
        }
        Ok(())
    }

    /// How many gateways a run of so many hosts has.
    pub fn gateway_count(&self) -> usize {
        if self.gateways > 0 { self.gateways.min(self.nodes) } else { (self.nodes / 25).max(1) }
    }

    /// The same as a file that [`Scenario::parse`] reads.
    pub fn to_toml(&self) -> String {
        let (d, mut t) = (Self::default(), String::new());
        let mut put = |key: &str, value: String, default: String| {
            if value != default {
                _ = writeln!(t, "{key} = {value}");
            }
        };
        put("about", format!("{:?}", self.about), format!("{:?}", d.about));
        put("nodes", self.nodes.to_string(), String::new());
        put("gateways", self.gateways.to_string(), d.gateways.to_string());
        put("whole", self.whole.to_string(), d.whole.to_string());
        put("nat_percent", float(self.nat_percent), float(d.nat_percent));
        put("sinks", self.sinks.to_string(), d.sinks.to_string());
        put("hub_links", self.hub_links.to_string(), d.hub_links.to_string());
        put("join_s", float(self.join_s), float(d.join_s));
        put("heal_s", float(self.heal_s), String::new());
        put("converge_s", float(self.converge_s), String::new());
        let (n, m) = (&self.network, &d.network);
        put("network.delay_ms", float(n.delay_ms), float(m.delay_ms));
        put("network.jitter_ms", float(n.jitter_ms), float(m.jitter_ms));
        put("network.loss_percent", float(n.loss_percent), float(m.loss_percent));
        put("network.duplicate_percent", float(n.duplicate_percent), float(m.duplicate_percent));
        put("network.reorder_percent", float(n.reorder_percent), float(m.reorder_percent));
        put("timing.heartbeat_s", float(self.timing.heartbeat_s), float(d.timing.heartbeat_s));
        put("timing.term_s", float(self.timing.term_s), float(d.timing.term_s));
        for fault in &self.fault {
            fault.to_toml(&mut t);
        }
        t
    }
}

impl Fault {
    /// A fault of that kind, as if nothing else had been said of it.
    pub fn new(at_s: f64, kind: Kind) -> Self {
        Self {
            at_s,
            kind,
            hosts: Hosts::Default,
            to: Hosts::Default,
            for_s: None,
            percent: None,
            delay_ms: None,
            by_s: None,
            per_minute: None,
            disk: true,
            count: None,
        }
    }

    /// When it is over.
    pub fn end_s(&self) -> Option<f64> {
        self.for_s.map(|s| self.at_s + s)
    }

    fn validate(&self, heal_s: f64) -> anyhow::Result<()> {
        within("at_s", self.at_s, 0.0, heal_s)?;
        within("for_s", self.for_s.unwrap_or(0.0), 0.0, heal_s - self.at_s).context("it must end before `heal_s`")?;
        if self.kind.needs_hosts() && self.hosts == Hosts::Default {
            bail!("`hosts` is missing");
        }
        for hosts in [&self.hosts, &self.to] {
            hosts.validate()?;
        }
        let needs = |what: &str, value: Option<f64>, kinds: &[Kind], from: f64, to: f64| match value {
            Some(value) if kinds.contains(&self.kind) => within(what, value, from, to),
            Some(_) => bail!("`{what}` means nothing here"),
            None if kinds.contains(&self.kind) => bail!("`{what}` is missing"),
            None => Ok(()),
        };
        needs("percent", self.percent, &[Kind::Loss, Kind::Duplicate, Kind::Reorder], 0.0, 100.0)?;
        needs("delay_ms", self.delay_ms, &[Kind::Delay], 0.0, 60_000.0)?;
        needs("by_s", self.by_s.map(|s| s as f64), &[Kind::ClockJump], -1e9, 1e9)?;
        needs("per_minute", self.per_minute, &[Kind::Churn], 0.1, 6_000.0)?;
        needs("count", self.count.map(|n| n as f64), &[Kind::Join], 1.0, NODES_MAX as f64)?;
        if !self.disk && self.kind != Kind::Kill {
            bail!("only of a killed process can the disk be lost");
        }
        Ok(())
    }

    fn to_toml(&self, t: &mut String) {
        _ = write!(t, "\n[[fault]]\nat_s = {}\nkind = \"{}\"\n", float(self.at_s), self.kind.name());
        for (key, hosts) in [("hosts", &self.hosts), ("to", &self.to)] {
            match hosts {
                Hosts::Named(name) => _ = writeln!(t, "{key} = {name:?}"),
                Hosts::Numbers(numbers) => _ = writeln!(t, "{key} = {numbers:?}"),
                Hosts::Default => {}
            }
        }
        let floats = [
            ("for_s", self.for_s),
            ("percent", self.percent),
            ("delay_ms", self.delay_ms),
            ("per_minute", self.per_minute),
        ];
        for (key, value) in floats {
            if let Some(value) = value {
                _ = writeln!(t, "{key} = {}", float(value));
            }
        }
        if let Some(by) = self.by_s {
            _ = writeln!(t, "by_s = {by}");
        }
        if let Some(count) = self.count {
            _ = writeln!(t, "count = {count}");
        }
        if !self.disk {
            t.push_str("disk = false\n");
        }
    }
}

impl Hosts {
    fn validate(&self) -> anyhow::Result<()> {
        match self {
            Self::Named(name) => {
                let percent = name.strip_suffix('%').and_then(|n| n.parse::<f64>().ok());
                let known = ["leader", "random", "gateways", "half", "all"].contains(&name.as_str());
                if !known && !percent.is_some_and(|p| (0.0..=100.0).contains(&p)) {
                    bail!(
                        "hosts are numbers, \"leader\", \"random\", \"gateways\", \"half\", \"all\" or \"25%\", not {name:?}"
                    );
                }
                Ok(())
            }
            Self::Numbers(numbers) if numbers.is_empty() => bail!("an empty list of hosts"),
            Self::Numbers(_) | Self::Default => Ok(()),
        }
    }
}

fn within(what: &str, value: f64, from: f64, to: f64) -> anyhow::Result<()> {
    if !(from..=to).contains(&value) {
        bail!("`{what}` is {value}, not from {from} to {to}");
    }
    Ok(())
}

/// As TOML wants it: with a point.
fn float(value: f64) -> String {
    format!("{value:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_told_in_one_line_with_its_place() {
        for (text, error) in [
            ("nodes = 3\nnods = 4\n", "2: unknown field `nods`"),
            ("nodes = 0", "`nodes` is 0, not from 1"),
            ("[[fault]]\nat_s = 1\nkind = \"kil\"\n", "3: unknown variant `kil`"),
            ("[[fault]]\nat_s = 1.0\nkind = \"kill\"\n", "fault 1 (kill): `hosts` is missing"),
            ("[[fault]]\nat_s = 1.0\nkind = \"loss\"\n", "`percent` is missing"),
            ("[[fault]]\nat_s = 1.0\nkind = \"hang\"\nhosts = [1]\npercent = 3.0\n", "`percent` means nothing here"),
            ("[[fault]]\nat_s = 1.0\nkind = \"hang\"\nhosts = [1]\nfor_s = 100.0\n", "it must end before `heal_s`"),
            ("[[fault]]\nat_s = 1.0\nkind = \"kill\"\nhosts = \"boss\"\n", "not \"boss\""),
        ] {
            let told = format!("{:#}", Scenario::parse(text).expect_err(text));
            assert!(told.contains(error) && !told.contains('\n'), "{told}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut scenario = Scenario { nodes: 7, nat_percent: 30.0, ..Scenario::default() };
        scenario.network.loss_percent = 5.5;
        scenario.timing.term_s = 12.0;
        let mut kill = Fault::new(3.0, Kind::Kill);
        (kill.hosts, kill.for_s, kill.disk) = (Hosts::Numbers(vec![1, 2]), Some(4.25), false);
        let mut jump = Fault::new(5.0, Kind::ClockJump);
        (jump.hosts, jump.by_s) = (Hosts::Named("leader".to_owned()), Some(-3_600));
        scenario.fault = vec![kill, jump];
        assert_eq!(Scenario::parse(&scenario.to_toml()).expect("its own text"), scenario);
    }
}
