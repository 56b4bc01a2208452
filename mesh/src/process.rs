//! What every Paceline process does around its mesh: logging, signals, key files, `runtime.json`, the local API, the
//! `ready` line, and the order of its end.
//!
//! A role's `run` hands [`run`] its flags and a body; the body binds what it needs, calls [`Setup::start`], starts its
//! parts, says [`Running::ready`], waits in [`Running::stopped`], ends its parts and calls [`Running::finish`].

mod files;
mod join_token;
mod logging;
mod reload;
mod signals;

use std::{
    collections::BTreeMap,
    fmt,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

pub use files::{ADMIN_KEY, API_KEYS, JOIN_TOKEN, Lock, RUNTIME, Runtime, lock, write_atomically};
pub(crate) use logging::filter as log_filter;

use crate::args::{self, GatewayArgs, Invocation, Loaded, MeshArgs, ProcessRole, TypeArg};
use crate::config::{Bind, Membership, MeshConfig};
use crate::data::Lanes;
use crate::http::ServiceHandler;
use crate::local_api::{LocalApi, Metrics, Routes, Stop, Tell};
use crate::mesh::{Mesh, StartError};
use crate::sink::{Sinks, Written};
use paceline_proto::{budget::WRITES_MAX, id::ServiceName, manifest::WorkerType};
use signals::Signals;

/// How long running requests may go on after the word to stop.
pub const GRACE: Duration = Duration::from_secs(10);
/// Added to what is left of [`GRACE`] for saying goodbye and closing connections.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long the runtime may take to drop its tasks at the end.
const RUNTIME_END: Duration = Duration::from_millis(500);

/// Why a process ends other than in good order, and with which exit code.
#[derive(Debug)]
pub struct Fault {
    code: u8,
    message: Option<String>,
}

impl Fault {
    /// Something that the user must change: exit code 2.
    pub fn user(message: impl fmt::Display) -> Self {
        Self { code: 2, message: Some(message.to_string()) }
    }

    /// Something that failed though it was asked for rightly: exit code 1.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self { code: 1, message: Some(message.to_string()) }
    }

    /// Ends with this code and says nothing (more).
    pub fn quiet(code: u8) -> Self {
        Self { code, message: None }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Writes `error: ...` as the last line of stderr.
    pub fn report(&self) -> ExitCode {
        if let Some(message) = &self.message {
            eprintln!("error: {}", message.replace(['\n', '\r'], " "));
        }
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or(""))
    }
}

impl From<StartError> for Fault {
    fn from(error: StartError) -> Self {
        Self::user(error)
    }
}

/// Runs a process to its end: logging first, then the body on a current-thread runtime. The first SIGTERM or Ctrl-C is
/// the body's to see; a second one ends the process at once. SIGHUP reads the configuration file again.
///
/// `loaded` is what `invocation` said at first; [`Setup::settings`] tells what it says from then on.
pub fn run<F>(role: ProcessRole, invocation: Invocation, loaded: Loaded, body: F) -> ExitCode
where
    F: AsyncFnOnce(Setup) -> Result<(), Fault>,
{
    match run_inner(role, invocation, loaded, body) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => fault.report(),
    }
}

fn run_inner<F>(role: ProcessRole, invocation: Invocation, loaded: Loaded, body: F) -> Result<(), Fault>
where
    F: AsyncFnOnce(Setup) -> Result<(), Fault>,
{
    let args: MeshArgs = loaded.args()?;
    let level = logging::init(args.log_format, &args.log_level)?;
    for line in args::replaced() {
        tracing::warn!("{line}");
    }
    // Each idle client of a gateway is a descriptor, and the soft limit is 1024 nearly everywhere.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
    let mut config = args.config(role)?;
    config.labels = loaded.labels();
    (config.worker_type, config.capabilities) = described(&loaded, &(Arc::new(as_declared) as Machine));
    let local = LocalApi::bind(args.local_http)?;
    let lanes =
        Lanes::start(Lanes::default_count()).map_err(|e| Fault::failed(format!("cannot start threads: {e}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Fault::failed(format!("cannot start the runtime: {e}")))?;
    let result = runtime.block_on(async {
        let signals = Signals::listen().map_err(|e| Fault::failed(format!("cannot listen for signals: {e}")))?;
        let hangups = signal(SignalKind::hangup()).map_err(|e| Fault::failed(format!("cannot listen for signals: {e}")))?;
        let (sender, settings) = watch::channel(Arc::new(loaded));
        let reloader = reload::Reloader { invocation, settings: sender, level, hangups, signals: signals.clone() };
        let mut reloads = JoinSet::new();
        reloads.spawn(reloader.run());
        let setup = Setup {
            role,
            config,
            machine: Arc::new(as_declared),
            lanes,
            local,
            settings,
            routes: None,
            signals: signals.clone(),
            started: Instant::now(),
            hardware: None,
        };
        tokio::select! {
            result = body(setup) => result,
            () = signals.second() => Err(Fault::failed("stopped by a second signal, before running requests had ended")),
        }
    });
    runtime.shutdown_timeout(RUNTIME_END);
    result
}

/// From `--type` and the declared capabilities to the type of a machine and all its capabilities.
pub type Machine = Arc<dyn Fn(TypeArg, BTreeMap<String, bool>) -> (WorkerType, BTreeMap<String, bool>) + Send + Sync>;

/// A process whose flags are parsed and whose local port is bound; nothing else has happened.
pub struct Setup {
    role: ProcessRole,
    config: MeshConfig,
    machine: Machine,
    lanes: Arc<Lanes>,
    local: TcpListener,
    settings: watch::Receiver<Arc<Loaded>>,
    routes: Option<Routes>,
    signals: Signals,
    started: Instant,
    hardware: Option<Tell>,
}

impl Setup {
    /// The threads for connections and requests.
    pub fn lanes(&self) -> &Arc<Lanes> {
        &self.lanes
    }

    /// What the command line, the environment and the file say, now and after each change of the file.
    pub fn settings(&self) -> watch::Receiver<Arc<Loaded>> {
        self.settings.clone()
    }

    /// The only services that this node may offer, as the token says that it is to join by; `None` is any, or no token.
    pub fn granted(&self) -> Option<&[ServiceName]> {
        match &self.config.membership {
            Membership::Join(token) => Some(&token.grant.services[..]).filter(|names| !names.is_empty()),
            Membership::FoundOrResume | Membership::Resume => None,
        }
    }

    /// Lets a machine say what it is, now and whenever something else is declared.
    pub fn set_machine(&mut self, machine: Machine) {
        self.machine = machine;
        (self.config.worker_type, self.config.capabilities) = described(&self.settings.borrow(), &self.machine);
    }

    /// Where identity and state are.
    pub fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }

    /// What the local API answers to `GET /hardware`.
    pub fn set_hardware(&mut self, hardware: Tell) {
        self.hardware = Some(hardware);
    }

    /// Adds paths to the local API.
    pub fn set_routes(&mut self, routes: Routes) {
        self.routes = Some(routes);
    }

    /// Brings the node into its cluster, and opens the local API. `services` serves what this process offers,
    /// `metrics` adds lines to its `/metrics`.
    ///
    /// # Errors
    /// What the user must change; or a quiet fault with code 0, where a signal ended a wait for the cluster.
    pub async fn start(
        self,
        services: Option<Arc<dyn ServiceHandler>>,
        metrics: Option<Metrics>,
    ) -> Result<Running, Fault> {
        let Setup { role, config, machine, lanes, local, settings, routes, signals, started, hardware } = self;
        let data_dir = config.data_dir.clone();
        let sinks = config.sink.is_some().then(|| Sinks::open(&config.sink, WRITES_MAX)).transpose();
        let sinks = sinks.map_err(Fault::user)?;
        let wanted = [("mesh", config.mesh), ("data", config.data)];
        let mesh = tokio::select! {
            mesh = Mesh::start(config, lanes, services) => mesh?,
            () = signals.first() => {
                tracing::info!("stopped before it had joined");
                return Err(Fault::quiet(0));
            }
        };
        files::remove_stale(&data_dir);
        let admin_key = files::admin_key(&data_dir)?;
        let (local, stop) = LocalApi::start(
            local,
            crate::local_api::Context {
                mesh: mesh.clone(),
                admin_key: admin_key.clone(),
                started,
                metrics,
                hardware,
                routes,
            },
        )?;
        let mut tasks = JoinSet::new();
        tasks.spawn(describe(mesh.clone(), settings.clone(), machine));
        if let Some(sinks) = sinks {
            let (writes, mesh) = (mesh.sink_writes(), mesh.clone());
            let tell = move |written: Written| {
                let mesh = mesh.clone();
                async move { mesh.written(written.stored, written.writes_today).await }
            };
            tasks.spawn(sinks.run(writes, tell));
        }
        Ok(Running {
            role,
            mesh,
            data_dir,
            admin_key,
            local,
            stop,
            signals,
            started,
            wanted,
            settings,
            tasks,
            runtime: None,
        })
    }
}

/// A member that is about to serve, or serves.
pub struct Running {
    role: ProcessRole,
    mesh: Mesh,
    data_dir: PathBuf,
    admin_key: String,
    local: LocalApi,
    stop: tokio::sync::mpsc::Receiver<Stop>,
    signals: Signals,
    started: Instant,
    /// The ports that were asked for.
    wanted: [(&'static str, Bind); 2],
    settings: watch::Receiver<Arc<Loaded>>,
    tasks: JoinSet<()>,
    runtime: Option<files::RuntimeFile>,
}

/// Follows the file in what this node says of itself.
async fn describe(mesh: Mesh, mut settings: watch::Receiver<Arc<Loaded>>, machine: Machine) {
    while settings.changed().await.is_ok() {
        let loaded = settings.borrow_and_update().clone();
        let (worker_type, capabilities) = described(&loaded, &machine);
        if let Err(reason) = mesh.describe(loaded.labels(), capabilities, worker_type) {
            tracing::warn!(%reason, "labels and capabilities stay as they were");
        }
    }
}

fn described(loaded: &Loaded, machine: &Machine) -> (WorkerType, BTreeMap<String, bool>) {
    let told = loaded.args::<MeshArgs>().map(|args| args.worker_type).unwrap_or_default();
    machine(told, loaded.capabilities())
}

/// A machine of which nothing is known but what was declared.
fn as_declared(told: TypeArg, capabilities: BTreeMap<String, bool>) -> (WorkerType, BTreeMap<String, bool>) {
    (told.of(&capabilities), capabilities)
}

impl Running {
    /// The member.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// What `<data-dir>/admin.key` says.
    pub fn admin_key(&self) -> &str {
        &self.admin_key
    }

    /// Everything serves: writes the key files and `runtime.json`, and says so.
    ///
    /// # Errors
    /// The data directory cannot be written.
    pub async fn ready(&mut self, http: Option<SocketAddr>) -> Result<(), Fault> {
        let keeps_token = self.role.roles().contains(paceline_proto::id::Role::Gateway) && self.mesh.is_issuer();
        let token = if keeps_token {
            Some(join_token::keep(self.mesh.clone(), self.data_dir.join(JOIN_TOKEN), &mut self.tasks).await?)
        } else {
            None
        };
        let absolute = |name: &str| std::path::absolute(self.data_dir.join(name)).unwrap_or(self.data_dir.join(name));
        let runtime = Runtime {
            pid: std::process::id(),
            role: self.role.as_str().to_owned(),
            worker_id: self.mesh.name().to_string(),
            peer_id: self.mesh.peer_id(),
            cluster_id: self.mesh.cluster().to_string(),
            http,
            local_http: self.local.address(),
            mesh: self.mesh.mesh_addresses(),
            data: self.mesh.data_address(),
            admin_key_file: absolute(ADMIN_KEY),
            join_token_file: token.is_some().then(|| absolute(JOIN_TOKEN)),
        };
        self.runtime = Some(files::RuntimeFile::write(&self.data_dir, &runtime)?);
        let taken = self.taken(http, runtime.mesh.first().map(String::as_str));
        self.local.set_ready(true);
        tracing::info!(
            role = self.role.as_str(),
            name = %runtime.worker_id,
            cluster = %self.mesh.cluster().short(),
            http = http.map(tracing::field::display),
            local_http = %runtime.local_http,
            mesh = runtime.mesh.first().map(tracing::field::display),
            data = %runtime.data,
            after_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            instead_of = taken.as_deref(),
            "ready"
        );
        if let (Some(http), Some(token), true) = (http, token, self.mesh.founded()) {
            greet(http, &token, &absolute(JOIN_TOKEN), taken.as_deref());
        }
        Ok(())
    }

    /// The default ports that were taken and have given way to others, in words.
    fn taken(&self, http: Option<SocketAddr>, mesh: Option<&str>) -> Option<String> {
        let front = self.settings.borrow().args::<GatewayArgs>().map(|args| ("http", args.bind())).ok();
        let mesh_port = mesh.and_then(|m| m.split('/').nth(4)).and_then(|port| port.parse().ok());
        let bound = |what: &str| match what {
            "mesh" => mesh_port,
            "data" => Some(self.mesh.data_address().port()),
            _ => http.map(|http| http.port()),
        };
        let gone = |(what, bind): (&str, Bind)| {
            let moved = !bind.explicit && bound(what).is_some_and(|port| port != bind.address.port());
            moved.then(|| format!("{what} {} (taken)", bind.address.port()))
        };
        let all: Vec<String> = self.wanted.into_iter().chain(front).filter_map(gone).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }

    /// Waits for the word to stop: a signal, or `leave` at the local API.
    ///
    /// # Errors
    /// The node cannot go on (a cloned data directory): the process ends without a goodbye, which would be in the
    /// name of the other one.
    pub async fn stopped(&mut self) -> Result<Stop, Fault> {
        let stop = tokio::select! {
            () = self.signals.first() => Stop { forget: false },
            Some(stop) = self.stop.recv() => stop,
            reason = self.mesh.failed() => return Err(Fault::user(reason)),
        };
        tracing::info!(forget = stop.forget, "stopping");
        self.local.set_ready(false);
        self.mesh.drain(true);
        Ok(stop)
    }

    /// The end: says goodbye, lets running requests end until `deadline`, closes everything.
    pub async fn finish(mut self, stop: Stop, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now()).max(GOODBYE);
        self.mesh.shutdown(left, stop.forget).await;
        self.tasks.shutdown().await;
        self.local.shutdown().await;
        drop(self.runtime.take());
        if stop.forget {
            files::forget(&self.data_dir);
        }
        tracing::info!("stopped");
    }
}

/// On a terminal: what to open, and how another machine joins.
fn greet(http: SocketAddr, token: &str, token_file: &Path, taken: Option<&str>) {
    use std::io::IsTerminal;
    if std::io::stdout().is_terminal() {
        // As it was called: right after a build it is on nobody's PATH.
        let program = std::env::args().next().unwrap_or_else(|| "paceline".to_owned());
        println!();
        println!("  This is a new cluster. Open      http://{http}/");
        if let Some(taken) = taken {
            println!("  (other ports than usual, instead of {taken})");
        }
        println!("  Another process here joins with  {program} node --join @{}", token_file.display());
        println!("  Another machine joins with       paceline node --join {token}");
        println!();
    }
}

#[cfg(test)]
mod tests;
