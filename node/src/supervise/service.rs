//! One supervised service: a task that drives its [`Core`], its process and its health checks, and publishes how it is.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use paceline_proto::{id::ServiceName, manifest::Health};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    cgroup,
    core::{Core, Input, Output, Policy, State},
    log::Log,
    order::Order,
    port,
    process::{self, Event, Process},
    spec::{CommandSpec, local_url},
    status::{Status, excerpt},
    tree,
};
use crate::services::{self, Finding, HealthCheck, Keeper, Kept, NotStarted, Origin, ServiceSpec, Source};

/// First pause between two looks at a service that starts; it doubles.
const LOOK_MIN: Duration = Duration::from_millis(50);
/// Longest pause between two looks at a service that is not well.
const LOOK_STARTING_MAX: Duration = Duration::from_secs(1);
/// Between two looks at one that is well.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A service that is still on its way up, or was stopped, is worth another try after this.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Words for a service's task that wait: one for each request that begins or ends at the same time; more wait.
const WORDS_MAX: usize = 1024;

/// A word for the task.
#[derive(Debug)]
pub(super) enum Word {
    /// A request came; answered once the status tells what became of it.
    Demand(oneshot::Sender<()>),
    Released,
    /// Another spec that the present process serves as well.
    Update(Box<CommandSpec>),
}

/// What the rest of the node sees of a service.
pub(super) struct Shared {
    pub(super) name: ServiceName,
    pub(super) log: Arc<Log>,
    pub(super) status: watch::Sender<Status>,
    /// What the desk is to offer; `None` while it is not to be called.
    pub(super) offer: watch::Sender<Option<ServiceSpec>>,
    words: mpsc::Sender<Word>,
    dormant: AtomicBool,
    /// How long a request waits for it.
    start_timeout: Duration,
}

impl Shared {
    /// Of a service that has not begun, and where its task hears.
    pub(super) fn new(spec: &CommandSpec, log: Arc<Log>) -> (Arc<Self>, mpsc::Receiver<Word>) {
        let (words, heard) = mpsc::channel(WORDS_MAX);
        let (status, offer) = (watch::Sender::new(Status::new(spec)), watch::Sender::new(None));
        let (name, dormant) = (spec.name.clone(), AtomicBool::new(spec.on_demand));
        let start_timeout = spec.start_timeout.0;
        (Arc::new(Self { name, log, status, offer, words, dormant, start_timeout }), heard)
    }

    /// Says something to the task; a task that is too busy to hear of another spec is told again at the next change.
    pub(super) fn say(&self, word: Word) {
        let _ = self.words.try_send(word);
    }
}

/// A request that the service waits for, or works on.
struct Held(mpsc::Sender<Word>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(mpsc::error::TrySendError::Full(word)) = self.0.try_send(Word::Released) {
            let words = self.0.clone();
            // Uncounted, it would keep the service from ever being idle.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { words.send(word).await });
            }
        }
    }
}

/// Starts a service on demand; the desk's word for it.
pub(super) struct OnDemand(pub(super) Arc<Shared>);

impl Keeper for OnDemand {
    fn admit(&self) -> BoxFuture<'static, Result<Box<dyn Any + Send>, NotStarted>> {
        let shared = self.0.clone();
        Box::pin(async move {
            let name = &shared.name;
            let mut status = shared.status.subscribe();
            let not_yet = |reason| NotStarted { reason, retry_after: RETRY_AFTER };
            let stopped = || not_yet(format!("`{name}` is stopped"));
            let (heard, taken) = oneshot::channel();
            shared.words.send(Word::Demand(heard)).await.map_err(|_| stopped())?;
            let held = Held(shared.words.clone());
            // Before that, the status may be of a service that just goes to sleep.
            taken.await.map_err(|_| stopped())?;
            let limit = shared.start_timeout;
            let up = status.wait_for(|s| match s.state {
                State::Running | State::Unhealthy | State::CrashLooping => true,
                State::Starting | State::BackingOff | State::Stopped | State::Stopping => false,
            });
            let waited = tokio::time::timeout(limit, up).await;
            let why = |status: &Status| {
                let reason = status.reason.as_deref().or(status.last_exit.as_deref());
                let reason = reason.unwrap_or("it has not answered yet");
                format!("{reason}; see `paceline logs {name}`")
            };
            match waited {
                Ok(Ok(status)) if status.state != State::CrashLooping => Ok(Box::new(held) as Box<dyn Any + Send>),
                Ok(Ok(status)) => Err(NotStarted {
                    reason: format!("`{name}` does not start: {}", why(&status)),
                    retry_after: status.next_start.map_or(RETRY_AFTER, |at| at.saturating_duration_since(now())),
                }),
                Ok(Err(_)) => Err(stopped()),
                Err(_) => {
                    let (reason, after) = (why(&shared.status.borrow()), humantime::format_duration(limit));
                    Err(not_yet(format!("`{name}` is not up after its start_timeout of {after}: {reason}")))
                }
            }
        })
    }

    fn is_asleep(&self) -> bool {
        self.0.dormant.load(Ordering::Relaxed)
    }
}

/// The task.
pub(super) struct Service {
    spec: CommandSpec,
    port: u16,
    core: Core,
    shared: Arc<Shared>,
    words: mpsc::Receiver<Word>,
    /// Requests that were counted, and do not know it yet.
    heard: Vec<oneshot::Sender<()>>,
    cgroups: Option<Arc<cgroup::Parent>>,
    keeper: Option<Kept>,
    process: Option<Process>,
    /// The look that goes on.
    look: Option<BoxFuture<'static, Finding>>,
    pause: Duration,
    pid: Option<u32>,
    /// Of the last exit, the last look, or what keeps it from starting.
    reason: Option<String>,
    over_memory: Option<u64>,
    last_exit: Option<String>,
}

impl Service {
    pub(super) fn new(
        spec: CommandSpec,
        shared: Arc<Shared>,
        words: mpsc::Receiver<Word>,
        cgroups: Option<Arc<cgroup::Parent>>,
    ) -> Self {
        let keeper = spec.on_demand.then(|| Kept(Arc::new(OnDemand(shared.clone()))));
        Self {
            core: Core::new(Policy::from(&spec)),
            port: 0,
            shared,
            words,
            heard: Vec::new(),
            cgroups,
            keeper,
            process: None,
            look: None,
            pause: LOOK_MIN,
            pid: None,
            reason: None,
            over_memory: None,
            last_exit: None,
            spec,
        }
    }

    /// Until it is told to stop and all of its processes are gone.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.choose_port();
        self.core.handle_input(Input::Start, now());
        let mut stopping = false;
        loop {
            self.act().await;
            self.publish();
            for heard in self.heard.drain(..) {
                // Who asked may be gone.
                let _ = heard.send(());
            }
            if stopping && self.process.is_none() {
                return;
            }
            let deadline = self.core.poll_timeout().map(|(at, _)| Instant::from_std(at));
            tokio::select! {
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.core.handle_input(Input::Stop, now());
                }
                // The handle in `shared` keeps it open.
                Some(word) = self.words.recv() => self.hear(word),
                event = next_event(&mut self.process) => self.take_event(event),
                finding = next_finding(&mut self.look) => self.take_finding(finding),
                () = until(deadline) => self.core.handle_timeout(now()),
            }
        }
    }

    fn hear(&mut self, word: Word) {
        match word {
            Word::Demand(heard) => {
                self.core.handle_input(Input::Demand, now());
                self.heard.push(heard);
            }
            Word::Released => self.core.handle_input(Input::Released, now()),
            Word::Update(spec) => self.spec = *spec,
        }
    }

    /// Does what the core wants.
    async fn act(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Spawn => {
                    if let Err(reason) = self.spawn().await {
                        self.ended(reason);
                    }
                }
                Output::Terminate => {
                    self.look = None;
                    if let Some(process) = &self.process {
                        process.terminate();
                    }
                }
                Output::Kill => {
                    if let Some(process) = &self.process {
                        let words = format!("did not end within {:?} of SIGTERM", self.spec.stop_timeout.0);
                        tracing::warn!(service = self.spec.name.as_str(), "{words}, and is killed");
                        self.shared.log.note(&words);
                        process.kill();
                    }
                }
            }
        }
    }

    /// Without a port of the spec's, one that is free now.
    fn choose_port(&mut self) {
        let url = self.spec.url.as_deref().and_then(|url| local_url(url).ok());
        let given = self.spec.port.or_else(|| url.and_then(|url| url.port_u16()));
        self.port = given.or_else(|| port::free().ok()).unwrap_or(self.port);
    }

    async fn spawn(&mut self) -> Result<(), String> {
        self.over_memory = None;
        let chosen = self.spec.port.is_none() && self.spec.url.is_none();
        if chosen && port::taken(self.port, &[]).is_some() {
            self.choose_port();
        }
        if let Some(words) = port::taken(self.port, &[]) {
            return Err(words);
        }
        let spec = &self.spec;
        let port = self.port.to_string();
        let (memory_max, cpu_max) = (spec.memory_max.map(|max| max.0), spec.cpu_max);
        let limited = memory_max.is_some() || cpu_max.is_some();
        let parent = self.cgroups.as_ref().filter(|parent| limited && parent.holds(memory_max, cpu_max));
        let cgroup = parent.map(|parent| parent.make(spec.name.as_str(), memory_max, cpu_max)).transpose();
        let cgroup = cgroup.unwrap_or_else(|error| {
            tracing::warn!(service = spec.name.as_str(), %error, "cannot make a cgroup: its limits are held without");
            None
        });
        let mut env = spec.env.clone();
        env.entry("PORT".to_owned()).or_insert_with(|| port.clone());
        let order = Order {
            argv: spec.command.words().iter().map(|word| word.replace("{port}", &port)).collect(),
            env,
            workdir: spec.workdir.clone(),
            user: spec.user.clone(),
            memory_max,
            // Rounded up, and at least one; the cast saturates.
            cpus: cpu_max.map(|cores| cores.ceil().max(1.0) as u32),
            cgroup,
        };
        let (log, name) = (self.shared.log.clone(), spec.name.clone());
        log.note(&format!("starting {}", spec.command.to_string().replace("{port}", &port)));
        // The system suspends the thread until the new program is loaded.
        let spawned = tokio::task::spawn_blocking(move || Process::spawn(name.as_str(), &order, &log)).await;
        let process = spawned.map_err(std::io::Error::other).flatten().map_err(|e| format!("cannot start it: {e}"))?;
        tracing::info!(
            service = spec.name.as_str(),
            port = self.port,
            start = self.core.starts(),
            "service is started"
        );
        self.process = Some(process);
        self.reason = None;
        Ok(())
    }

    fn take_event(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Started(pid)) => {
                self.pid = Some(pid);
                self.pause = LOOK_MIN;
                self.look_after(Duration::ZERO);
            }
            Some(Event::OverMemory(bytes)) => self.over_memory = Some(bytes),
            Some(Event::Failed(reason)) => self.ended(reason),
            Some(Event::Ended(end)) => {
                let limit = self.spec.memory_max.unwrap_or_default();
                self.ended(match self.over_memory {
                    Some(_) => format!("was killed: it took more memory than its memory_max of {limit}"),
                    None => process::words(end),
                });
            }
            Some(Event::Lost) | None => self.ended("was killed together with its keeper".to_owned()),
        }
    }

    /// Its process is gone, or never was.
    fn ended(&mut self, reason: String) {
        let asked = self.core.state() == State::Stopping;
        self.process = None;
        self.look = None;
        self.pid = None;
        self.core.handle_input(Input::Exited, now());
        let service = self.spec.name.as_str();
        self.shared.log.note(&reason);
        match self.core.state() {
            State::Stopped if asked => tracing::info!(service, "service is stopped"),
            State::CrashLooping if self.core.failures() > self.spec.restart.crash_loop => {
                let failures = self.core.failures();
                tracing::warn!(service, failures, reason, "service is still in a crash loop");
            }
            State::CrashLooping => {
                let failures = self.core.failures();
                tracing::error!(service, failures, reason, "service is in a crash loop; see `paceline logs {service}`");
            }
            _ => tracing::warn!(service, reason, "service has ended"),
        }
        if !asked {
            self.reason = Some(reason.clone());
        }
        self.last_exit = Some(reason);
    }

    fn look_after(&mut self, pause: Duration) {
        let spec = self.offered();
        self.look = Some(Box::pin(async move {
            sleep(pause).await;
            services::probe(&spec).await
        }));
    }

    fn take_finding(&mut self, finding: Finding) {
        let mut well = finding.health != Health::Unhealthy;
        self.reason = finding.reason;
        if well && self.core.state() != State::Running {
            let group = self.process.as_ref().map(|process| tree::descendants(process.keeper())).unwrap_or_default();
            if let Some(words) = port::taken(self.port, &group) {
                well = false;
                self.reason = Some(format!("its health check is answered by a stranger: {words}"));
            }
        }
        self.core.handle_input(if well { Input::Healthy } else { Input::Unhealthy }, now());
        self.pause = if well { LOOK_EVERY } else { (self.pause * 2).min(LOOK_STARTING_MAX) };
        self.look_after(self.pause);
    }

    /// What the desk offers once it may be called; its keeper is not asked by looks of our own.
    fn offered(&self) -> ServiceSpec {
        let spec = &self.spec;
        let url = spec.url.as_deref().and_then(|url| local_url(url).ok()).unwrap_or_else(|| {
            http::Uri::builder()
                .scheme("http")
                .authority(format!("127.0.0.1:{}", self.port))
                .path_and_query("/")
                .build()
                .unwrap_or_default()
        });
        let health = match spec.health.as_str() {
            "none" => HealthCheck::Connect,
            path => HealthCheck::Path(path.to_owned()),
        };
        ServiceSpec {
            kind: spec.kind,
            protocol: spec.protocol,
            max_concurrency: spec.max_concurrency,
            labels: spec.terms().over(&spec.labels),
            models: spec.models.clone(),
            allow: spec.allow.clone(),
            ..ServiceSpec::new(spec.name.clone(), Source::Http { url, health }, Origin::Supervised)
        }
    }

    /// Tells who watches how it is.
    fn publish(&self) {
        let state = self.core.state();
        let dormant = self.core.is_dormant();
        self.shared.dormant.store(dormant, Ordering::Relaxed);
        let offer = (dormant || matches!(state, State::Running | State::Unhealthy))
            .then(|| ServiceSpec { keeper: self.keeper.clone(), ..self.offered() });
        self.shared.offer.send_if_modified(|old| {
            let changed = *old != offer;
            *old = offer;
            changed
        });
        let status = Status {
            state,
            pid: self.pid,
            port: self.port,
            starts: self.core.starts(),
            failures: self.core.failures(),
            reason: self.reason.as_deref().map(excerpt),
            last_exit: self.last_exit.as_deref().map(excerpt),
            next_start: self.core.next_start(),
            ..Status::new(&self.spec)
        };
        self.shared.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn next_event(process: &mut Option<Process>) -> Option<Event> {
    match process {
        Some(process) => process.event().await,
        None => std::future::pending().await,
    }
}

async fn next_finding(look: &mut Option<BoxFuture<'static, Finding>>) -> Finding {
    match look {
        Some(look) => look.await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    let sleep: Option<Sleep> = deadline.map(sleep_until);
    match sleep {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}
