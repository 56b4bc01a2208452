//! A service that a node starts itself: its command, what it requires of a machine, and its limits.
//!
//! The same file may lie on every machine. [`CommandSpec::fits`] says without any IO whether one of them can run a
//! service, and if not, in words, what it lacks.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use paceline_mesh::http::{Protocol, ask::START_WAIT_MAX};
use paceline_proto::{
    id::ServiceName,
    manifest::{LABELS_MAX, MODELS_MAX, ServiceKind, WorkerType},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{Argv, Bytes, COMMAND_BYTES_MAX, Span};
use crate::{
    hardware::profile,
    services::{self, Allow, ProtocolWord, Terms},
};

/// How long an on-demand service stays up without a request, unless told otherwise.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Between SIGTERM and SIGKILL, unless told otherwise.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Most time between the two: the node ends after it.
pub const STOP_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// How long a start may take until the first healthy answer, unless told otherwise: models are loaded meanwhile.
pub const START_TIMEOUT: Duration = Duration::from_secs(600);
/// First pause before a restart, unless told otherwise.
pub const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest pause before a restart, unless told otherwise.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Exits in a row from which on it is called a crash loop, unless told otherwise.
pub const CRASH_LOOP: u32 = 5;
/// Least memory limit: below it, hardly a program starts.
pub const MEMORY_MIN: u64 = 1 << 20;
/// A machine sold as 16 GiB shows a part less: firmware, ECC and the kernel keep some. A demand is met from
/// `1 - 1/SOLD_AS` of it on.
const SOLD_AS: u64 = 16;

/// A service with a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandSpec {
    /// Its name in URLs.
    #[schemars(with = "String", regex(pattern = "^[a-z0-9][a-z0-9-]{0,62}$"))]
    pub name: ServiceName,
    /// What to run. `{port}` in it is replaced by the port, which stands in the variable PORT too.
    pub command: Argv,
    /// Where it answers once it runs, like http://127.0.0.1:8100; or give `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The port on 127.0.0.1 where it answers. Without `url` and `port`, a free one is chosen at each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Path of its health check, or `none` where a connection is enough.
    #[serde(default = "default_health")]
    pub health: String,
    /// The HTTP that it speaks: http/1.1, or h2 for HTTP/2 in clear, as gRPC servers do (which want health = "none").
    #[serde(default, skip_serializing_if = "is_usual")]
    #[schemars(with = "ProtocolWord")]
    pub protocol: Protocol,
    /// What it speaks: http or openai.
    #[serde(default)]
    #[schemars(with = "Kind")]
    pub kind: ServiceKind,
    /// Its models, for kind = "openai"; without them, they are asked for once it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Most requests at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_concurrency: Option<u32>,
    /// Which gateways may call it, like ["gateway:up", "site:rack7", "id:..."]; without it, all. Others get 403.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Allow>,
    /// Free labels of the service, told to the cluster.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// From the last byte of a request to its response's head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "60s"))]
    pub first_byte_timeout: Option<Span>,
    /// From the start of a request to the last byte of its response; without it, bodies may take what they take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_timeout: Option<Span>,
    /// How long a request waits at the gateway while every worker has enough to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "500ms"))]
    pub queue_timeout: Option<Span>,
    /// By what requests are kept on one worker: header:NAME, cookie:NAME or client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// Send a slow idempotent request to a second worker too.
    #[serde(default)]
    pub hedge: bool,
    /// What a machine must have to run it.
    #[serde(default)]
    pub requires: Requires,
    /// Machines of which type run it: gpu, cpu (no edge machine), edge, or any. Without it, and without `requires`,
    /// well-known names have one: vllm, ollama, ocr and embeddings are gpu; ner, spacy, doc-processor and notes are cpu.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Further environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Its working directory; without it, the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<PathBuf>,
    /// The user it runs as, by name or number, where the node runs as root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Most memory for it and all that it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<Bytes>,
    /// Most processor time, in cores: 1.5 is one and a half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01))]
    pub cpu_max: Option<f64>,
    /// Start it at the first request, and stop it after `idle_timeout` without one.
    #[serde(default)]
    pub on_demand: bool,
    /// How long an on-demand service stays up without a request.
    #[serde(default = "idle_timeout")]
    pub idle_timeout: Span,
    /// How long a start may take until it is healthy, at most an hour; after it, it is stopped and started again. A request
    /// waits for one on demand as long.
    #[serde(default = "start_timeout")]
    pub start_timeout: Span,
    /// Between SIGTERM and SIGKILL, at most 60 s.
    #[serde(default = "stop_timeout")]
    pub stop_timeout: Span,
    /// When it is started again after it has ended.
    #[serde(default)]
    pub restart: Restart,
}

fn default_health() -> String {
    "/health".to_owned()
}

fn idle_timeout() -> Span {
    Span(IDLE_TIMEOUT)
}

fn start_timeout() -> Span {
    Span(START_TIMEOUT)
}

fn is_usual(protocol: &Protocol) -> bool {
    *protocol == Protocol::default()
}

fn stop_timeout() -> Span {
    Span(STOP_TIMEOUT)
}

/// The words of [`ServiceKind`], for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
// Read by the derive alone.
#[allow(dead_code)]
enum Kind {
    Http,
    OpenAi,
}

/// What a machine must have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Requires {
    /// GPUs: true for one, or how many; false for a machine without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpus>,
    /// Memory of each of these GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram: Option<Bytes>,
    /// The machine's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram: Option<Bytes>,
    /// The machine's processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Labels of the node, with these values; `*` is any value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Capabilities of the node: a list of those it must have, like ["docker"].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
}

/// How many GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Gpus {
    /// One, or none at all.
    Any(bool),
    /// At least so many.
    Count(u32),
}

/// For machines of which type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// GPU machines.
    Gpu,
    /// CPU and GPU machines, not the edge.
    Cpu,
    /// Edge machines.
    Edge,
    /// All.
    Any,
}

impl Profile {
    const fn admits(self, worker_type: WorkerType) -> bool {
        match self {
            Profile::Any => true,
            Profile::Gpu => matches!(worker_type, WorkerType::Gpu),
            Profile::Cpu => matches!(worker_type, WorkerType::Gpu | WorkerType::Cpu),
            Profile::Edge => matches!(worker_type, WorkerType::Edge),
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Profile::Gpu => "gpu",
            Profile::Cpu => "cpu",
            Profile::Edge => "edge",
            Profile::Any => "any",
        }
    }

    /// Of a well-known name ([`profile::PROFILES`]). Names of edge services (upload, cache) run anywhere: on a cluster
    /// without edge machines they would run nowhere.
    pub fn of_name(name: &str) -> Self {
        match profile::home(name) {
            Some(WorkerType::Gpu) => Profile::Gpu,
            Some(WorkerType::Cpu) => Profile::Cpu,
            Some(WorkerType::Edge) | None => Profile::Any,
        }
    }
}

/// When a service that has ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Restart {
    /// The first pause; it doubles with each exit in a row.
    pub min: Span,
    /// The longest pause.
    pub max: Span,
    /// Exits in a row from which on it is called a crash loop; it is tried on at the longest pause.
    #[schemars(range(min = 1))]
    pub crash_loop: u32,
}

impl Default for Restart {
    fn default() -> Self {
        Self { min: Span(BACKOFF_MIN), max: Span(BACKOFF_MAX), crash_loop: CRASH_LOOP }
    }
}

/// What a machine has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// `--type`, or what was found.
    pub worker_type: WorkerType,
    /// Its GPUs.
    pub gpus: Vec<Gpu>,
    /// Its memory in bytes.
    pub ram_bytes: u64,
    /// Its processors.
    pub cpus: u32,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
    /// Capabilities of the node.
    pub capabilities: BTreeMap<String, bool>,
}

/// One GPU of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// What it calls itself.
    pub name: String,
    /// Its memory in bytes.
    pub memory_bytes: u64,
}

/// A demand that a machine does not meet, with words for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// Too few GPUs, or too small ones.
    #[error("needs {}; this machine has {}", gpus(*.count, *.vram), have_gpus(.have))]
    Gpu {
        /// How many.
        count: u32,
        /// Memory of each.
        vram: Option<Bytes>,
        /// Memory of those that there are.
        have: Vec<Bytes>,
    },
    /// It is for machines without a GPU.
    #[error("is for machines without a GPU; this machine has {}", have_gpus(.have))]
    NoGpu {
        /// Memory of those that there are.
        have: Vec<Bytes>,
    },
    /// Too little memory.
    #[error("needs {need} of memory; this machine has {have}")]
    Ram {
        /// How much.
        need: Bytes,
        /// What there is.
        have: Bytes,
    },
    /// Too few processors.
    #[error("needs {need} processors; this machine has {have}")]
    Cpus {
        /// How many.
        need: u32,
        /// What there are.
        have: u32,
    },
    /// A label is missing or different.
    #[error("needs the label {key}={need}; this machine has {}", .have.as_ref().map_or("none of that name".to_owned(), |v| format!("{key}={v}")))]
    Label {
        /// Which.
        key: String,
        /// Its value.
        need: String,
        /// The machine's.
        have: Option<String>,
    },
    /// A capability is missing.
    #[error("needs the capability {0}, which this machine does not have")]
    Capability(String),
    /// The machine is of another type.
    #[error("is for {} machines{}; this machine is of the type {}", .profile.words(), if *.by_name { " by its name (say profile = \"any\" to run it here)" } else { "" }, type_word(*.have))]
    Profile {
        /// Whose machines.
        profile: Profile,
        /// Whether only the service's name says so.
        by_name: bool,
        /// The machine's type.
        have: WorkerType,
    },
}

fn gpus(count: u32, vram: Option<Bytes>) -> String {
    let what = if count == 1 { "a GPU".to_owned() } else { format!("{count} GPUs") };
    match vram {
        Some(vram) => format!("{what} with {vram}"),
        None => what,
    }
}

fn have_gpus(have: &[Bytes]) -> String {
    match have {
        [] => "none".to_owned(),
        [one] => format!("one with {one}"),
        several => several.iter().map(Bytes::to_string).collect::<Vec<_>>().join(", "),
    }
}

const fn type_word(worker_type: WorkerType) -> &'static str {
    match worker_type {
        WorkerType::Gpu => "gpu",
        WorkerType::Cpu => "cpu",
        WorkerType::Edge => "edge",
    }
}

/// Whether a memory of `have` bytes is what is sold as `need`.
const fn enough(have: u64, need: u64) -> bool {
    have >= need - need / SOLD_AS
}

impl Requires {
    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn unmet(&self, machine: &Machine, out: &mut Vec<Unmet>) {
        let have = || machine.gpus.iter().map(|gpu| Bytes(gpu.memory_bytes)).collect();
        let count = match (self.gpu, self.vram) {
            (Some(Gpus::Any(false) | Gpus::Count(0)), _) => 0,
            (Some(Gpus::Count(count)), _) => count,
            (Some(Gpus::Any(true)), _) | (None, Some(_)) => 1,
            (None, None) => 0,
        };
        let vram = self.vram.map_or(0, |vram| vram.0);
        let fitting = machine.gpus.iter().filter(|gpu| enough(gpu.memory_bytes, vram)).count();
        // A GPU that nothing here can read (of another make) is there if somebody says so.
        let declared = count <= 1 && self.vram.is_none() && machine.capabilities.get("gpu") == Some(&true);
        if count as usize > fitting && !declared {
            out.push(Unmet::Gpu { count, vram: self.vram, have: have() });
        }
        if matches!(self.gpu, Some(Gpus::Any(false))) && !machine.gpus.is_empty() {
            out.push(Unmet::NoGpu { have: have() });
        }
        if let Some(need) = self.ram.filter(|need| !enough(machine.ram_bytes, need.0)) {
            out.push(Unmet::Ram { need, have: Bytes(machine.ram_bytes) });
        }
        if let Some(need) = self.cpus.filter(|need| machine.cpus < *need) {
            out.push(Unmet::Cpus { need, have: machine.cpus });
        }
        for (key, need) in &self.labels {
            let have = machine.labels.get(key);
            if have.is_none_or(|have| need != "*" && have != need) {
                out.push(Unmet::Label { key: key.clone(), need: need.clone(), have: have.cloned() });
            }
        }
        for capability in &self.capabilities {
            if machine.capabilities.get(capability) != Some(&true) {
                out.push(Unmet::Capability(capability.clone()));
            }
        }
    }
}

impl CommandSpec {
    /// Whether a machine can run it.
    ///
    /// # Errors
    /// All that it lacks.
    pub fn fits(&self, machine: &Machine) -> Result<(), Vec<Unmet>> {
        let mut unmet = Vec::new();
        let by_name = self.profile.is_none();
        let profile = match self.profile {
            Some(profile) => profile,
            None if self.requires.is_empty() => Profile::of_name(self.name.as_str()),
            None => Profile::Any,
        };
        if !profile.admits(machine.worker_type) {
            unmet.push(Unmet::Profile { profile, by_name, have: machine.worker_type });
        }
        self.requires.unmet(machine, &mut unmet);
        if unmet.is_empty() { Ok(()) } else { Err(unmet) }
    }

    /// Whether a process of `other` serves this one as well: they differ in nothing that it was started with, or that its
    /// life is decided by.
    pub fn same_process(&self, other: &Self) -> bool {
        let told = |spec: &Self| Self {
            kind: ServiceKind::default(),
            protocol: Protocol::default(),
            models: Vec::new(),
            max_concurrency: None,
            allow: None,
            labels: BTreeMap::new(),
            health: String::new(),
            requires: Requires::default(),
            profile: None,
            first_byte_timeout: None,
            total_timeout: None,
            queue_timeout: None,
            affinity: None,
            hedge: false,
            ..spec.clone()
        };
        told(self) == told(other)
    }

    /// How it wants to be called.
    pub fn terms(&self) -> Terms<'_> {
        Terms {
            first_byte_timeout: self.first_byte_timeout.map(|span| span.0),
            total_timeout: self.total_timeout.map(|span| span.0),
            queue_timeout: self.queue_timeout.map(|span| span.0),
            affinity: self.affinity.as_deref(),
            hedge: self.hedge,
        }
    }

    /// Whether its parts are sound together; each by itself was checked when it was read.
    ///
    /// # Errors
    /// What is wrong, in words for the user.
    pub fn check(&self) -> Result<(), String> {
        if self.url.is_some() && self.port.is_some() {
            return Err("give url or port, not both".to_owned());
        }
        if let Some(url) = &self.url {
            local_url(url)?;
        }
        if self.port == Some(0) {
            return Err("port = 0 is no port: leave it out, and a free one is chosen at each start".to_owned());
        }
        if self.health != "none"
            && !(self.health.starts_with('/') && self.health.parse::<http::uri::PathAndQuery>().is_ok())
        {
            return Err(format!("health = \"{}\": expected a path like /ping, or none", self.health));
        }
        services::check_protocol(self.protocol, self.kind)?;
        if self.max_concurrency == Some(0) {
            return Err("max_concurrency = 0 would serve nobody".to_owned());
        }
        if self.memory_max.is_some_and(|max| max.0 < MEMORY_MIN) {
            return Err(format!("memory_max is below {}: a number without a unit is bytes", Bytes(MEMORY_MIN)));
        }
        if self.cpu_max.is_some_and(|max| !max.is_finite() || max < 0.01) {
            return Err("cpu_max: expected a number of cores like 0.5 or 2".to_owned());
        }
        let (min, max) = (self.restart.min.0, self.restart.max.0);
        if min.is_zero() || min > max {
            return Err("restart: min must be above zero, and not above max".to_owned());
        }
        if self.restart.crash_loop == 0 {
            return Err("restart: crash_loop must be at least 1".to_owned());
        }
        if self.stop_timeout.0 > STOP_TIMEOUT_MAX {
            return Err(format!("stop_timeout: at most {} s", STOP_TIMEOUT_MAX.as_secs()));
        }
        if self.start_timeout.0.is_zero() || (self.on_demand && self.idle_timeout.0.is_zero()) {
            return Err("start_timeout and idle_timeout must be above zero".to_owned());
        }
        if self.start_timeout.0 > START_WAIT_MAX {
            return Err(format!("start_timeout: at most {} s", START_WAIT_MAX.as_secs()));
        }
        if self.models.len() > MODELS_MAX {
            return Err(format!("at most {MODELS_MAX} models"));
        }
        if self.labels.len() > LABELS_MAX || self.requires.labels.len() > LABELS_MAX {
            return Err(format!("at most {LABELS_MAX} labels"));
        }
        self.terms().check().map_err(|(_, reason)| reason)?;
        let bad = |text: &str| text.contains('\0');
        if self.env.iter().any(|(key, value)| key.is_empty() || key.contains('=') || bad(key) || bad(value)) {
            return Err("env: a name is empty or has a `=`, or a NUL byte stands in it".to_owned());
        }
        if self.env.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > COMMAND_BYTES_MAX {
            return Err(format!("env: more than {COMMAND_BYTES_MAX} bytes"));
        }
        Ok(())
    }
}

/// `http://HOST:PORT[/BASE]` of this machine.
pub(super) fn local_url(text: &str) -> Result<http::Uri, String> {
    let form = || format!("url = \"{text}\": expected one of this machine, like http://127.0.0.1:8100");
    let url: http::Uri = text.parse().map_err(|_| form())?;
    let host = url.host().unwrap_or("").trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok();
    let plain = url.query().is_none() && url.authority().is_some_and(|a| !a.as_str().contains('@'));
    if url.scheme_str() == Some("http") && loopback && plain && url.port_u16().is_some_and(|p| p > 0) {
        Ok(url)
    } else {
        Err(form())
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

#[cfg(test)]
mod tests;
