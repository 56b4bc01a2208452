//! The flags that every Paceline process shares, their `PACELINE_*` variables and the configuration file: one schema.
//!
//! Precedence is flag, then environment, then file, then default. [`parse`] is the one fallible place: what it returns
//! needs no second look, and nothing was bound or written before it returned.

mod file;
mod values;

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, ValueEnum, builder::BoolishValueParser, parser::ValueSource};
use paceline_proto::id::{Role, Roles, Site, WorkerName};
use paceline_proto::manifest::WorkerType;

use crate::config::{Bind, Membership, MeshConfig};
use crate::process::Fault;

pub use values::{Capability, Label};

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
    pub(super) const CLUSTER: &str = "Cluster";
    pub(super) const NETWORK: &str = "Network";
    pub(super) const MACHINE: &str = "Machine";
    pub(super) const OTHER: &str = "Log and configuration";
}

/// Names that other systems' users already have in their environment: (ours, theirs).
const ENV_ALIASES: [(&str, &str); 3] =
    [("PACELINE_NAME", "WORKER_ID"), ("PACELINE_SITE", "WORKER_SITE"), ("PACELINE_LOG_LEVEL", "LOG_LEVEL")];

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

    /// What this machine is for: gpu (tier 1), cpu (tier 2), edge (tier 3), or auto: gpu with --capability gpu, else cpu
    #[arg(long = "type", value_name = "TYPE", env = "PACELINE_TYPE", default_value = "auto", hide_possible_values = true, help_heading = headings::MACHINE)]
    pub worker_type: TypeArg,

    /// A capability, like docker=true (repeatable)
    #[arg(long, value_name = "K=V", env = "PACELINE_CAPABILITY", value_delimiter = ENV_DELIMITER, help_heading = headings::MACHINE)]
    pub capability: Vec<Capability>,

    /// A free label, like rack=7 (repeatable)
    #[arg(long, value_name = "K=V", env = "PACELINE_LABEL", value_delimiter = ENV_DELIMITER, help_heading = headings::MACHINE)]
    pub label: Vec<Label>,

    /// Where the local API listens: /health, /livez, /readyz, /metrics, /cluster
    #[arg(long, value_name = "IP:PORT", env = "PACELINE_LOCAL_HTTP", default_value = DEFAULT_LOCAL_HTTP, help_heading = headings::NETWORK)]
    pub local_http: SocketAddr,

    /// How long a leader leads; used by the leader election, from the next release on
    #[arg(long, value_name = "TIME", env = "PACELINE_TERM", default_value = "10m", value_parser = humantime::parse_duration, help_heading = headings::CLUSTER)]
    pub term: Duration,

    /// Time between two heartbeats; used by the leader election, from the next release on
    #[arg(long, value_name = "TIME", env = "PACELINE_HEARTBEAT", default_value = "10s", value_parser = humantime::parse_duration, help_heading = headings::CLUSTER)]
    pub heartbeat: Duration,

    /// How long the certificates are good that this member issues; they are renewed from half their life on
    #[arg(long, value_name = "TIME", env = "PACELINE_LEAF_TTL", default_value = "30d", value_parser = values::leaf_ttl, help_heading = headings::CLUSTER)]
    pub leaf_ttl: Duration,

    /// How log lines look: pretty for people, json with one object a line
    #[arg(long, value_name = "FORMAT", env = "PACELINE_LOG_FORMAT", default_value = "pretty", hide_possible_values = true, help_heading = headings::OTHER)]
    pub log_format: LogFormat,

    /// error, warn, info, debug or trace; or filters like paceline_mesh=debug,libp2p=info
    #[arg(long, value_name = "LEVEL", env = "PACELINE_LOG_LEVEL", default_value = "info", value_parser = values::log_level, help_heading = headings::OTHER)]
    pub log_level: String,

    /// A TOML file with the names of these flags as its keys; flags and PACELINE_* variables come first
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
    /// Offer an HTTP service that runs here: NAME=URL[,health=PATH|none] (repeatable). It is healthy while GET /health
    /// answers 2xx; health=PATH asks for another path, health=none is content with a connection
    #[arg(long, value_name = "NAME=URL", env = "PACELINE_SERVICE", value_delimiter = ENV_DELIMITER, help_heading = headings::SERVICES)]
    pub service: Vec<String>,

    /// Offer a directory's files as a service: NAME=DIR (repeatable)
    #[arg(long, value_name = "NAME=DIR", env = "PACELINE_SERVE", value_delimiter = ENV_DELIMITER, help_heading = headings::SERVICES)]
    pub serve: Vec<String>,

    /// Offer only what --service and --serve name
    #[arg(long, env = "PACELINE_NO_DETECT", value_parser = BoolishValueParser::new(), help_heading = headings::SERVICES)]
    pub no_detect: bool,
}

fn bind(given: Option<SocketAddr>, default: &str) -> Bind {
    // The defaults are constants that a test parses, so the fallback is never taken.
    let fallback = || default.parse().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    Bind { address: given.unwrap_or_else(fallback), explicit: given.is_some() }
}

impl MeshArgs {
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
        let capabilities: std::collections::BTreeMap<_, _> =
            self.capability.iter().map(|c| (c.key.clone(), c.value)).collect();
        let worker_type = match self.worker_type {
            TypeArg::Gpu => WorkerType::Gpu,
            TypeArg::Edge => WorkerType::Edge,
            TypeArg::Auto if capabilities.get("gpu") == Some(&true) => WorkerType::Gpu,
            TypeArg::Auto | TypeArg::Cpu => WorkerType::Cpu,
        };
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
            labels: self.label.iter().map(|l| (l.key.clone(), l.value.clone())).collect(),
            capabilities,
            mdns: !self.no_mdns,
            leaf_ttl: self.leaf_ttl,
            term: self.term,
            heartbeat: self.heartbeat,
            gossip_own_manifest: true,
        })
    }
}

/// Parses a command line, with the environment and, where `--config` names one, the file below it.
///
/// # Errors
/// [`Fault`], ready to be reported: exit code 0 for `--help` and `--version` (printed here), 2 for anything wrong, in
/// one line.
pub fn parse<T: CommandFactory + FromArgMatches>(argv: impl IntoIterator<Item = OsString>) -> Result<T, Fault> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let mut command = prepare(T::command());
    let mut matches = command.clone().try_get_matches_from(&argv).map_err(fault_of)?;
    if let Some((names, path)) = config_path(&matches) {
        let defaults = file::load(&path, &subcommand(&command, &names))?;
        command = apply_at(command, &names, &defaults);
        matches = command.clone().try_get_matches_from(&argv).map_err(fault_of)?;
    }
    T::from_arg_matches(&matches).map_err(|e| fault_of(e.format(&mut command)))
}

/// Hides variables from `--help` (a line tells their rule), forgets empty ones, and takes aliases where ours is unset.
fn prepare(command: clap::Command) -> clap::Command {
    let set = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    command
        .mut_args(|arg| {
            let Some(name) = arg.get_env().map(std::ffi::OsStr::to_owned) else { return arg };
            let alias = ENV_ALIASES.iter().find(|(ours, _)| name == *ours).map(|(_, theirs)| *theirs);
            let arg = arg.hide_env(true);
            match alias {
                _ if set(&name) => arg,
                Some(alias) if set(alias.as_ref()) => arg.env(alias),
                _ => arg.env(clap::builder::Resettable::Reset),
            }
        })
        .mut_subcommands(prepare)
}

/// The subcommand that was chosen, and its `--config`.
fn config_path(matches: &clap::ArgMatches) -> Option<(Vec<String>, PathBuf)> {
    let (mut names, mut matches) = (Vec::new(), matches);
    while let Some((name, below)) = matches.subcommand() {
        names.push(name.to_owned());
        matches = below;
    }
    // `config` is not a flag of every command.
    let path = matches.try_get_one::<PathBuf>("config").ok().flatten()?;
    matches.value_source("config").filter(|s| *s != ValueSource::DefaultValue)?;
    Some((names, path.clone()))
}

fn subcommand(command: &clap::Command, names: &[String]) -> clap::Command {
    names.iter().fold(command.clone(), |c, name| c.find_subcommand(name).cloned().unwrap_or(c))
}

fn apply_at(command: clap::Command, names: &[String], defaults: &[file::Default]) -> clap::Command {
    match names.split_first() {
        None => file::apply(command, defaults),
        Some((first, rest)) => command.mut_subcommand(first, |c| apply_at(c, rest, defaults)),
    }
}

/// clap's error in one line, so that the last line of stderr says what and where.
fn fault_of(error: clap::Error) -> Fault {
    if !error.use_stderr() {
        // A closed pipe (`--help | head`) is no failure.
        let _ = error.print();
        return Fault::quiet(0);
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return Fault::user("a command is missing: choose one of the above");
    }
    Fault::user(one_line(&error.to_string()))
}

/// What stands before clap's usage block, joined; `; ` between what were paragraphs.
fn one_line(rendered: &str) -> String {
    let said = rendered.lines().take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more information"));
    let words: Vec<_> = said.map(str::trim).filter(|l| !l.is_empty()).collect();
    let line = words.join("; ").replace(":; ", ": ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests;
