//! The flags that every Paceline process shares, their `PACELINE_*` variables and the configuration file: one schema.
//!
//! Precedence is flag, then environment, then file, then default. [`Invocation::load`] is the one fallible place: what it
//! returns needs no second look, and nothing was bound or written before it returned. It can be called again, and so a
//! file that has changed is judged as it was at the start.

mod aliases;
mod document;
mod file;
mod front;
mod invocation;
mod nearest;
mod tables;
mod values;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, builder::BoolishValueParser};
use paceline_proto::{
    id::{Role, Roles, Site, WorkerName},
    manifest::WorkerType,
};

use crate::config::{Bind, Membership, MeshConfig};
use crate::process::Fault;
use crate::sink::SinkConfig;

pub(crate) use aliases::replaced;
pub use document::Document;
pub use file::{check as check_file, flags as file_flags};
pub use front::{CallerArgs, Jwks, LimitArgs, Rate, ServiceRate};
pub use invocation::{Invocation, Judge, Loaded, Origin, Value, parse};
pub use nearest::nearest;
pub use tables::{Scalar, TABLES};
pub use values::{Capabilities, Label};

/// Where the control plane listens unless told otherwise.
pub const DEFAULT_MESH: &str = "0.0.0.0:4900";
/// Where the data plane listens unless told otherwise.
pub const DEFAULT_DATA: &str = "0.0.0.0:4901";
/// Where a gateway listens unless told otherwise.
pub const DEFAULT_HTTP: &str = "127.0.0.1:8080";
/// Where the local API listens unless told otherwise.
pub const DEFAULT_LOCAL_HTTP: &str = "127.0.0.1:0";
/// Several values in one environment variable are parted by this character.
const ENV_DELIMITER: char = ';';
/// Shortest life of issued leaves: they must outlast a restart of their issuer.
const LEAF_TTL_MIN: Duration = Duration::from_secs(60);
/// Longest life of issued leaves.
const LEAF_TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Under which `--help` groups the flags.
mod headings {
    pub(super) const SERVICES: &str = "Services";
    pub(super) const GATEWAY: &str = "Gateway";
    pub(super) const CALLERS: &str = "Callers of the gateway";
    pub(super) const LIMITS: &str = "Limits of the gateway";
    pub(super) const CLUSTER: &str = "Cluster";
    pub(super) const NETWORK: &str = "Network";
    pub(super) const MACHINE: &str = "Machine";
    pub(super) const SUMMARY: &str = "Stored summary";
    pub(super) const OTHER: &str = "Log and configuration";
}

/// Flags whose change in the configuration file takes effect without a restart; so does that of every table.
pub(crate) const LIVE: [&str; 8] =
    ["type", "capability", "label", "log-level", "service", "serve", "max-concurrency", "no-detect"];

/// What a process runs as: names its default data directory and stands in `runtime.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessRole {
    /// Gateway and worker; founds a cluster.
    Up,
    /// Worker.
    Node,
    /// Gateway.
    Gateway,
    /// Entry point.
    Bootstrap,
}

impl ProcessRole {
    /// Every role, in the order in which commands look for a running process.
    pub const ALL: [ProcessRole; 4] =
        [ProcessRole::Up, ProcessRole::Gateway, ProcessRole::Node, ProcessRole::Bootstrap];

    /// The subcommand's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProcessRole::Up => "up",
            ProcessRole::Node => "node",
            ProcessRole::Gateway => "gateway",
            ProcessRole::Bootstrap => "bootstrap",
        }
    }

    /// What such a process acts as in the cluster.
    pub fn roles(self) -> Roles {
        let none = Roles::default();
        match self {
            ProcessRole::Up => none.with(Role::Worker).with(Role::Gateway),
            ProcessRole::Node => none.with(Role::Worker),
            ProcessRole::Gateway => none.with(Role::Gateway),
            ProcessRole::Bootstrap => none.with(Role::Bootstrap),
        }
    }

    /// `/var/lib/paceline/<role>` for root, else `$XDG_DATA_HOME/paceline/<role>`; `None` without a home directory.
    pub fn default_data_dir(self) -> Option<PathBuf> {
        if rustix::process::geteuid().is_root() {
            return Some(PathBuf::from("/var/lib/paceline").join(self.as_str()));
        }
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let base =
            set("XDG_DATA_HOME").filter(|p| p.is_absolute()).or_else(|| Some(set("HOME")?.join(".local/share")))?;
        Some(base.join("paceline").join(self.as_str()))
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

/// `--type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TypeArg {
    /// GPU where the capability `gpu` is declared, else CPU.
    #[default]
    Auto,
    /// Tier 1.
    Gpu,
    /// Tier 2.
    Cpu,
    /// Tier 3.
    Edge,
}

/// Flags of every process that is a member of a cluster.
#[derive(Args, Clone, Debug)]
pub struct MeshArgs {
    /// Name of this machine in the cluster, one of its kind [default: the host's name]
    #[arg(long, value_name = "NAME", env = "PACELINE_NAME", help_heading = headings::MACHINE)]
    pub name: Option<WorkerName>,

    /// Site of this machine: a place, a rack, a cloud region [default: default]
    #[arg(long, value_name = "SITE", env = "PACELINE_SITE", help_heading = headings::MACHINE)]
    pub site: Option<Site>,

    /// Directory of this machine's identity and state [default: ~/.local/share/paceline/COMMAND; root: /var/lib/paceline/COMMAND]
    #[arg(long, value_name = "DIR", env = "PACELINE_DATA_DIR", help_heading = headings::MACHINE)]
    pub data_dir: Option<PathBuf>,

    /// Join a cluster: the token, @FILE that holds it, or - to read it from standard input
    #[arg(long, value_name = "TOKEN|@FILE|-", env = "PACELINE_JOIN", hide_env_values = true, help_heading = headings::CLUSTER)]
    pub join: Option<String>,

    /// A file that holds the join token, for container secrets; --join comes first
    #[arg(long, value_name = "FILE", env = "PACELINE_JOIN_FILE", hide = true, help_heading = headings::CLUSTER)]
    pub join_file: Option<PathBuf>,

    /// A further address at which a member may be found, like /dns4/host/udp/4900/quic-v1 (repeatable)
    #[arg(long, value_name = "MULTIADDR", env = "PACELINE_ENTRY", value_delimiter = ENV_DELIMITER, value_parser = values::multiaddr, help_heading = headings::CLUSTER)]
    pub entry: Vec<String>,

    /// Where the mesh listens, UDP and TCP on one port [default: 0.0.0.0:4900]
    #[arg(long, value_name = "IP:PORT", env = "PACELINE_MESH", help_heading = headings::NETWORK)]
    pub mesh: Option<SocketAddr>,

    /// Where the data plane listens, UDP [default: 0.0.0.0:4901]
    #[arg(long, value_name = "IP:PORT", env = "PACELINE_DATA", help_heading = headings::NETWORK)]
    pub data: Option<SocketAddr>,

    /// An address at which others can reach this machine, where it cannot know that itself (repeatable)
    #[arg(long, value_name = "IP[:PORT]", env = "PACELINE_ADVERTISE", value_delimiter = ENV_DELIMITER, value_parser = values::advertise, help_heading = headings::NETWORK)]
    pub advertise: Vec<SocketAddr>,

    /// Do not look for members on the local network
    #[arg(long, env = "PACELINE_NO_MDNS", value_parser = BoolishValueParser::new(), help_heading = headings::CLUSTER)]
    pub no_mdns: bool,

    /// What this machine is for: gpu (tier 1), cpu (tier 2), edge (tier 3), or auto: gpu where it has one or --capability gpu
    /// says so, edge with little memory, else cpu
    #[arg(long = "type", value_name = "TYPE", env = "PACELINE_TYPE", default_value = "auto", hide_possible_values = true, help_heading = headings::MACHINE)]
    pub worker_type: TypeArg,

    /// A capability: docker=true, docker,gpu=false, JSON like {"docker": true}, or @FILE with either (repeatable)
    #[arg(long, value_name = "K=V", env = "PACELINE_CAPABILITY", value_delimiter = ENV_DELIMITER, help_heading = headings::MACHINE)]
    pub capability: Vec<Capabilities>,

    /// A free label, like rack=7 (repeatable)
    #[arg(long, value_name = "K=V", env = "PACELINE_LABEL", value_delimiter = ENV_DELIMITER, help_heading = headings::MACHINE)]
    pub label: Vec<Label>,

    /// Where the local API listens: /health, /livez, /readyz, /metrics, /cluster, /events, /hardware, /services; port 0 is
    /// any, and runtime.json in the data directory says which
    #[arg(long, value_name = "IP:PORT", env = "PACELINE_LOCAL_HTTP", default_value = DEFAULT_LOCAL_HTTP, help_heading = headings::NETWORK)]
    pub local_http: SocketAddr,

    /// How long a leader leads before the next one does; the same in the whole cluster
    #[arg(long, value_name = "TIME", env = "PACELINE_TERM", default_value = "10m", value_parser = values::duration, help_heading = headings::CLUSTER)]
    pub term: Duration,

    /// Time between two heartbeats and summaries; the same in the whole cluster
    #[arg(long, value_name = "TIME", env = "PACELINE_HEARTBEAT", default_value = "10s", value_parser = values::duration, help_heading = headings::CLUSTER)]
    pub heartbeat: Duration,

    /// Store the cluster's summary in this file, at the leader's word
    #[arg(long, value_name = "FILE", env = "PACELINE_SINK_FILE", help_heading = headings::SUMMARY)]
    pub sink_file: Option<PathBuf>,

    /// Store it as the value of this URL in a key-value store, read by GET and written by PUT
    #[arg(long, value_name = "URL", env = "PACELINE_SINK_URL", hide_env_values = true, help_heading = headings::SUMMARY)]
    pub sink_url: Option<String>,

    /// Holds the store's bearer token; read anew at each write
    #[arg(long, value_name = "FILE", env = "PACELINE_SINK_TOKEN_FILE", help_heading = headings::SUMMARY)]
    pub sink_token_file: Option<PathBuf>,

    /// How long the certificates are good that this member issues; they are renewed from half their life on
    #[arg(long, value_name = "TIME", env = "PACELINE_LEAF_TTL", default_value = "30d", value_parser = values::leaf_ttl, help_heading = headings::CLUSTER)]
    pub leaf_ttl: Duration,

    /// How log lines look: pretty for people, json with one object a line
    #[arg(long, value_name = "FORMAT", env = "PACELINE_LOG_FORMAT", default_value = "pretty", hide_possible_values = true, help_heading = headings::OTHER)]
    pub log_format: LogFormat,

    /// error, warn, info, debug or trace; or filters like paceline_mesh=debug,libp2p=info
    #[arg(long, value_name = "LEVEL", env = "PACELINE_LOG_LEVEL", default_value = "info", value_parser = values::log_level, help_heading = headings::OTHER)]
    pub log_level: String,

    /// A TOML file: these flags as its keys, and tables (`paceline config example`); flags and PACELINE_* variables come
    /// first. Read again when it changes, and on SIGHUP
    #[arg(long, value_name = "FILE", env = "PACELINE_CONFIG", help_heading = headings::OTHER)]
    pub config: Option<PathBuf>,
}

/// Flags of a process with a gateway.
#[derive(Args, Clone, Debug)]
pub struct GatewayArgs {
    /// Where HTTP clients call [default: 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT", env = "PACELINE_HTTP", help_heading = headings::GATEWAY)]
    pub http: Option<SocketAddr>,

    /// Serve callers off loopback without credentials: for networks in which everybody may call everything
    #[arg(long, env = "PACELINE_INSECURE_NO_AUTH", value_parser = BoolishValueParser::new(), help_heading = headings::GATEWAY)]
    pub insecure_no_auth: bool,

    /// Who may call.
    #[command(flatten)]
    pub callers: CallerArgs,

    /// How much.
    #[command(flatten)]
    pub limits: LimitArgs,
}

impl GatewayArgs {
    /// `--http`, or its default.
    pub fn bind(&self) -> Bind {
        bind(self.http, DEFAULT_HTTP)
    }
}

/// Flags of a process with a worker.
#[derive(Args, Clone, Debug)]
pub struct WorkerArgs {
    /// Offer an HTTP service that runs here: NAME=URL, behind it where wanted ,health=PATH or ,health=none or ,protocol=h2
    /// (repeatable). It is healthy while GET /health answers 2xx; health=PATH asks for another path, health=none is content
    /// with a connection; protocol=h2 is for gRPC servers
    #[arg(long, value_name = "NAME=URL", env = "PACELINE_SERVICE", value_delimiter = ENV_DELIMITER, help_heading = headings::SERVICES)]
    pub service: Vec<String>,

    /// Offer a directory's files as a service: NAME=DIR (repeatable)
    #[arg(long, value_name = "NAME=DIR", env = "PACELINE_SERVE", value_delimiter = ENV_DELIMITER, help_heading = headings::SERVICES)]
    pub serve: Vec<String>,

    /// Requests at once on this machine, of all its services together; as many as come unless given
    #[arg(long, value_name = "N", env = "PACELINE_MAX_CONCURRENCY", value_parser = clap::value_parser!(u32).range(1..), help_heading = headings::SERVICES)]
    pub max_concurrency: Option<u32>,

    /// Offer only what is named here or in the file: look for no known services and no labelled containers
    #[arg(long, env = "PACELINE_NO_DETECT", value_parser = BoolishValueParser::new(), help_heading = headings::SERVICES)]
    pub no_detect: bool,
}

fn bind(given: Option<SocketAddr>, default: &str) -> Bind {
    // The defaults are constants that a test parses, so the fallback is never taken.
    let fallback = || default.parse().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    Bind { address: given.unwrap_or_else(fallback), explicit: given.is_some() }
}

impl TypeArg {
    /// What a machine with these capabilities is for.
    pub fn of(self, capabilities: &BTreeMap<String, bool>) -> WorkerType {
        match self {
            TypeArg::Gpu => WorkerType::Gpu,
            TypeArg::Edge => WorkerType::Edge,
            TypeArg::Auto if capabilities.get("gpu") == Some(&true) => WorkerType::Gpu,
            TypeArg::Auto | TypeArg::Cpu => WorkerType::Cpu,
        }
    }
}

impl MeshArgs {
    /// Every `--capability`; the last word on one counts.
    pub fn capabilities(&self) -> BTreeMap<String, bool> {
        self.capability.iter().flat_map(|c| c.0.clone()).collect()
    }

    /// Every `--label`.
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.label.iter().map(|l| (l.key.clone(), l.value.clone())).collect()
    }

    /// `--data-dir`, or the default of the role.
    ///
    /// # Errors
    /// Neither is known.
    pub fn data_dir(&self, role: ProcessRole) -> Result<PathBuf, Fault> {
        self.data_dir
            .clone()
            .or_else(|| role.default_data_dir())
            .ok_or_else(|| Fault::user("no home directory is known: give --data-dir DIR"))
    }

    /// What [`crate::Mesh::start`] needs. Reads the token (standard input, where `--join -` says so).
    ///
    /// # Errors
    /// In words for the user; nothing was changed.
    pub fn config(&self, role: ProcessRole) -> Result<MeshConfig, Fault> {
        let membership = match values::join_token(self.join.as_deref(), self.join_file.as_deref())? {
            Some(token) => Membership::Join(Box::new(token)),
            None if role == ProcessRole::Up => Membership::FoundOrResume,
            None => Membership::Resume,
        };
        let capabilities = self.capabilities();
        let worker_type = self.worker_type.of(&capabilities);
        Ok(MeshConfig {
            roles: role.roles(),
            data_dir: self.data_dir(role)?,
            name: self.name.clone(),
            site: self.site.clone().unwrap_or_default(),
            worker_type,
            mesh: bind(self.mesh, DEFAULT_MESH),
            data: bind(self.data, DEFAULT_DATA),
            advertise: self.advertise.clone(),
            membership,
            entries: self.entry.clone(),
            labels: self.labels(),
            capabilities,
            mdns: !self.no_mdns,
            leaf_ttl: self.leaf_ttl,
            term: self.term,
            heartbeat: self.heartbeat,
            sink: SinkConfig {
                file: self.sink_file.clone(),
                url: self.sink_url.clone(),
                token_file: self.sink_token_file.clone(),
            },
            gossip_own_manifest: true,
        })
    }
}

#[cfg(test)]
mod tests;
