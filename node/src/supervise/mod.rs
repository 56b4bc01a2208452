//! Services that this node starts itself: what they are, whether they fit this machine, and keeping them up.
//!
//! [`Supervisor`] has a task for each service that fits; each drives a core of pure decisions, a process under a
//! keeper, and health checks. What may be called is put on the desk at once, and taken from it at once. All of a
//! service's processes end with it, and all services end with the node, even where that is killed.

mod cgroup;
mod core;
mod follow;
mod keeper;
mod log;
mod order;
mod port;
mod process;
mod routes;
mod service;
pub mod spec;
mod status;
mod tree;
pub mod units;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use paceline_proto::id::ServiceName;
use tokio::time::{Instant, timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    core::State,
    follow::follow,
    log::{Lines, TAIL_LINES_MAX, path as log_path},
    spec::{CommandSpec, Gpu, Machine},
    status::Status,
};

use self::{
    log::Log,
    service::{Service, Shared, Word},
};
use crate::services::{Desk, Origin};

/// Folder of the logs in the data directory.
pub const LOGS: &str = "logs";
/// How long killed services are waited for when the node ends, after the longest `stop_timeout`.
const END_SLACK: Duration = Duration::from_secs(2);

/// Runs what this program is when it stands between a node and a service; `None` for every other command line.
pub fn child(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    match arguments.into_iter().nth(1)?.to_str()? {
        keeper::ARGUMENT => Some(keeper::main()),
        keeper::exec::ARGUMENT => Some(keeper::exec::main()),
        _ => None,
    }
}

/// A handle to all supervised services; cheap to clone.
#[derive(Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

struct Inner {
    desk: Desk,
    logs: PathBuf,
    table: Mutex<Table>,
    tasks: TaskTracker,
    /// Until then, services are known but not started.
    begun: CancellationToken,
    stop: CancellationToken,
}

#[derive(Default)]
struct Table {
    services: BTreeMap<ServiceName, Entry>,
    /// Looked for when the first service wants limits.
    cgroups: Option<Option<Arc<cgroup::Parent>>>,
}

struct Entry {
    spec: CommandSpec,
    shared: Arc<Shared>,
    /// `None` where it does not fit this machine.
    task: Option<Task>,
}

struct Task {
    stop: CancellationToken,
    handle: tokio::task::JoinHandle<()>,
}

impl Supervisor {
    /// Puts services on `desk` as they come up, from [`Supervisor::begin`] on; their logs are below `data_dir`. Its tasks
    /// run on the current runtime.
    pub fn new(desk: Desk, data_dir: &Path) -> Self {
        let inner = Inner {
            desk,
            logs: data_dir.join(LOGS),
            table: Mutex::default(),
            tasks: TaskTracker::new(),
            begun: CancellationToken::new(),
            stop: CancellationToken::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Starts what it is to run: once this process has its data directory to itself and is a member, so that a second one
    /// by mistake starts nothing twice.
    pub fn begin(&self) {
        self.inner.begun.cancel();
    }

    /// Runs these from now on, each where it fits. One that has changed is stopped and started anew, unless what changed
    /// does not touch its process; one that is gone is stopped; the others are left alone.
    pub fn set(&self, specs: Vec<CommandSpec>, machine: &Machine) {
        if self.inner.stop.is_cancelled() {
            return;
        }
        let mut table = self.table();
        let mut old = std::mem::take(&mut table.services);
        for spec in specs {
            let before = old.remove(&spec.name);
            let entry = self.place(&mut table, spec, machine, before);
            table.services.insert(entry.spec.name.clone(), entry);
        }
        drop(table);
        for entry in old.into_values() {
            tracing::info!(service = entry.spec.name.as_str(), "service is not in the configuration any more");
            entry.end();
        }
        self.inner.offer();
    }

    fn place(&self, table: &mut Table, spec: CommandSpec, machine: &Machine, before: Option<Entry>) -> Entry {
        let unmet = spec.fits(machine).err().map(|unmet| {
            let words: Vec<String> = unmet.iter().map(ToString::to_string).collect();
            words.join("; ")
        });
        if let Some(mut before) = before {
            if unmet.is_none() && before.task.is_some() && spec.same_process(&before.spec) {
                if spec != before.spec {
                    before.shared.say(Word::Update(Box::new(spec.clone())));
                    before.spec = spec;
                }
                return before;
            }
            if unmet.is_some() && before.spec == spec && before.shared.status.borrow().unmet == unmet {
                return before;
            }
            return self.enter(table, spec, unmet, Some(before));
        }
        self.enter(table, spec, unmet, None)
    }

    fn enter(&self, table: &mut Table, spec: CommandSpec, unmet: Option<String>, before: Option<Entry>) -> Entry {
        let log = match &before {
            Some(entry) => entry.shared.log.clone(),
            None => Arc::new(Log::new(&self.inner.logs, spec.name.as_str())),
        };
        let (shared, words) = Shared::new(&spec, log);
        let previous = before.and_then(Entry::end);
        if let Some(why) = unmet {
            tracing::info!(service = spec.name.as_str(), "service is not started: it {why}");
            shared.status.send_modify(|status| status.unmet = Some(why));
            return Entry { spec, shared, task: None };
        }
        let limited = spec.memory_max.is_some() || spec.cpu_max.is_some();
        let cgroups = if limited { table.cgroups.get_or_insert_with(prepare).clone() } else { None };
        let service = Service::new(spec.clone(), shared.clone(), words, cgroups);
        let stop = self.inner.stop.child_token();
        let (token, inner, offers) = (stop.clone(), Arc::downgrade(&self.inner), shared.offer.subscribe());
        let (last, begun) = (inner.clone(), self.inner.begun.clone());
        let handle = self.inner.tasks.spawn(async move {
            if let Some(previous) = previous {
                // A panic there is logged where it happened.
                let _ = previous.await;
            }
            tokio::select! {
                () = begun.cancelled() => {}
                () = token.cancelled() => return,
            }
            let mut offers = offers;
            let follow = async {
                while offers.changed().await.is_ok() {
                    let Some(inner) = inner.upgrade() else { return };
                    inner.offer();
                }
            };
            tokio::select! {
                () = service.run(token) => {}
                // Only where the supervisor is gone: then its services are ended with this task.
                () = follow => return,
            }
            if let Some(inner) = last.upgrade() {
                inner.offer();
            }
        });
        Entry { spec, shared, task: Some(Task { stop, handle }) }
    }

    /// How each is, in the order of their names.
    pub fn status(&self) -> Vec<Status> {
        self.table().services.values().map(|entry| entry.shared.status.borrow().clone()).collect()
    }

    /// The log of a service of the configuration.
    fn log(&self, name: &str) -> Option<Arc<Log>> {
        let name = ServiceName::new(name).ok()?;
        self.table().services.get(&name).map(|entry| entry.shared.log.clone())
    }

    /// Lines for `/metrics`.
    pub fn metrics(&self, out: &mut String) {
        let all = self.status();
        let _ =
            writeln!(out, "# HELP paceline_supervised_state How a service is that this node starts: 1 for its state.");
        let _ = writeln!(out, "# TYPE paceline_supervised_state gauge");
        for status in &all {
            let state = status.word();
            let _ = writeln!(out, "paceline_supervised_state{{service=\"{}\",state=\"{state}\"}} 1", status.name);
        }
        let _ = writeln!(out, "# HELP paceline_supervised_starts_total How often this node has started a service.");
        let _ = writeln!(out, "# TYPE paceline_supervised_starts_total counter");
        for status in &all {
            let _ = writeln!(out, "paceline_supervised_starts_total{{service=\"{}\"}} {}", status.name, status.starts);
        }
    }

    /// Stops all services, and waits until they are gone: at most the longest of their `stop_timeout`s and a little.
    pub async fn shutdown(&self) {
        let longest = self.table().services.values().map(|entry| entry.spec.stop_timeout.0).max();
        self.inner.stop.cancel();
        self.inner.tasks.close();
        let deadline = Instant::now() + longest.unwrap_or_default() + END_SLACK;
        if timeout_at(deadline, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("some services did not end; their keepers end them");
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner.table()
    }
}

impl Inner {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change is whole before the lock is given back.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the desk what may be called now.
    fn offer(&self) {
        let table = self.table();
        let specs = table.services.values().filter_map(|entry| entry.shared.offer.borrow().clone()).collect();
        // Under the lock, so that a later state is never overwritten by an earlier one.
        self.desk.set(Origin::Supervised, specs);
    }
}

impl Entry {
    /// Stops it; what waits for its end.
    fn end(self) -> Option<tokio::task::JoinHandle<()>> {
        self.task.map(|task| {
            task.stop.cancel();
            task.handle
        })
    }
}

fn prepare() -> Option<Arc<cgroup::Parent>> {
    match cgroup::Parent::prepare() {
        Ok(parent) => Some(Arc::new(parent)),
        Err(reason) => {
            tracing::info!(
                "no cgroup can hold memory_max and cpu_max ({reason}): memory is watched every 250 ms, and processors are \
                 held by affinity"
            );
            None
        }
    }
}
