//! The desk: takes from each origin what it wants offered, keeps the worker's table, looks at every service again and
//! again, and tells the mesh at once what changed.
//!
//! One task a service looks, so that a hanging one delays no other; one task owns the list that is advertised. A change
//! touches only the services that it names: the others keep their connections, their requests and what was found.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use http::Uri;
use paceline_mesh::{Mesh, process::Fault};
use paceline_proto::{
    id::ServiceName,
    manifest::{Health, ManifestError, Service},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Finding, Origin, ServiceSpec, Source,
    merge::{Merged, merge},
    probe,
};
use crate::worker::Worker;

/// Between two looks at a service that is well.
const INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks at one that is not, once it has been.
const INTERVAL_UNHEALTHY: Duration = Duration::from_secs(1);
/// First pause while a service has never been well: it may be starting. Doubles up to [`INTERVAL_UNHEALTHY`].
const INTERVAL_STARTING: Duration = Duration::from_millis(100);
/// How long a service that is new waits for its first look before it is advertised unseen.
const FIRST_LOOKS: Duration = Duration::from_millis(250);
/// Findings that wait for the list's owner; a look waits where there are more.
const FINDINGS_MAX: usize = 64;

/// Where the desk tells what is offered.
pub trait Offers: Send + 'static {
    /// Replaces the services that this node offers.
    ///
    /// # Errors
    /// A bound is broken, or the node may not offer one of them; the old ones stay.
    fn offer(&self, services: Vec<Service>) -> Result<(), ManifestError>;
}

impl Offers for Mesh {
    fn offer(&self, services: Vec<Service>) -> Result<(), ManifestError> {
        Mesh::offer(self, services)
    }
}

/// A handle to it; cheap to clone.
#[derive(Clone)]
pub struct Desk {
    inner: Arc<Inner>,
}

struct Inner {
    wanted: watch::Sender<BTreeMap<Origin, Vec<ServiceSpec>>>,
    advertise: mpsc::Sender<Advertise>,
    worker: Arc<Worker>,
    closed: CancellationToken,
    /// Owns the task: gone with the last handle.
    _task: JoinSet<()>,
}

/// The word to advertise from now on, and who waits for the first advertisement.
struct Advertise {
    offers: Box<dyn Offers>,
    told: oneshot::Sender<Result<(), ManifestError>>,
}

impl Desk {
    /// A desk that serves on `lanes` lanes; its tasks run on the current runtime. It looks from the start, and advertises
    /// once [`Desk::advertise`] says where.
    pub fn new(lanes: usize) -> Self {
        let worker = Arc::new(Worker::new(lanes));
        let closed = CancellationToken::new();
        let (wanted, wanted_out) = watch::channel(BTreeMap::new());
        let (advertise, advertise_out) = mpsc::channel(1);
        let (found, findings) = mpsc::channel(FINDINGS_MAX);
        let owner = Owner {
            worker: worker.clone(),
            wanted: wanted_out,
            advertise: advertise_out,
            findings,
            found,
            merged: Merged::default(),
            places: BTreeMap::new(),
            generation: 0,
            looks: JoinSet::new(),
            offers: None,
            waiting: None,
            offered: None,
            refused: BTreeSet::new(),
        };
        let mut task = JoinSet::new();
        let until = closed.clone();
        task.spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = owner.run() => {}
            }
        });
        Self { inner: Arc::new(Inner { wanted, advertise, worker, closed, _task: task }) }
    }

    /// Replaces all services of that origin, whatever origin they say themselves. Returns at once; the change is in the
    /// worker's table within a turn of the runtime, and advertised with it: what goes at once, what comes with its first
    /// look, or after 250 ms. What does not fit is said in the log, and the rest is offered.
    pub fn set(&self, origin: Origin, specs: Vec<ServiceSpec>) {
        self.inner.wanted.send_if_modified(|wanted| {
            let same = wanted.get(&origin).map_or(specs.is_empty(), |before| *before == specs);
            if !same {
                wanted.insert(origin, specs);
            }
            !same
        });
    }

    /// Names and URLs of what other origins than this one have named; a directory has no URL.
    pub fn named_besides(&self, origin: Origin) -> Vec<(ServiceName, Option<Uri>)> {
        let wanted = self.inner.wanted.borrow();
        let others = wanted.iter().filter(|(other, _)| **other != origin).flat_map(|(_, specs)| specs);
        let url = |spec: &ServiceSpec| match &spec.source {
            Source::Http { url, .. } => Some(url.clone()),
            Source::Directory(_) => None,
        };
        others.map(|spec| (spec.name.clone(), url(spec))).collect()
    }

    /// The table that serves what this desk offers.
    pub fn worker(&self) -> Arc<Worker> {
        self.inner.worker.clone()
    }

    /// Advertises: first what the first looks found, waiting for them at most 250 ms, then each change at once.
    ///
    /// # Errors
    /// The first advertisement holds a service that a person named and this node may not offer.
    pub async fn advertise(&self, offers: impl Offers) -> Result<(), Fault> {
        let (told, answer) = oneshot::channel();
        let ended = || Fault::failed("the services' desk has ended");
        self.inner.advertise.send(Advertise { offers: Box::new(offers), told }).await.map_err(|_| ended())?;
        let answer = answer.await.map_err(|_| ended())?;
        answer.map_err(|e| Fault::user(format!("these services cannot be offered: {e}")))
    }

    /// Looks no more and advertises no more; the worker's table stays for requests that run.
    pub fn close(&self) {
        self.inner.closed.cancel();
    }
}

/// What the desk knows of one service.
struct Place {
    spec: ServiceSpec,
    service: Service,
    /// Which looks are of its present source.
    generation: u64,
    look: AbortHandle,
    seen: bool,
    been_well: bool,
    /// Why it is not well, as the log says.
    reason: Option<String>,
    since: Instant,
}

impl Place {
    /// Whether it is held back for its first look.
    fn is_new(&self, now: Instant) -> bool {
        !self.seen && now < self.since + FIRST_LOOKS
    }

    /// A supervised service is offered once it has been well: until then it is starting.
    fn is_offered(&self, now: Instant) -> bool {
        !self.is_new(now) && (self.been_well || self.spec.origin != Origin::Supervised)
    }

    /// Whether a spec is looked at and served as this one is.
    fn is_same(&self, spec: &ServiceSpec) -> bool {
        let ServiceSpec { source, kind, protocol, models, keeper, .. } = &self.spec;
        *source == spec.source
            && *kind == spec.kind
            && *protocol == spec.protocol
            && models.is_empty() == spec.models.is_empty()
            && *keeper == spec.keeper
    }
}

/// Owns the list.
struct Owner {
    worker: Arc<Worker>,
    wanted: watch::Receiver<BTreeMap<Origin, Vec<ServiceSpec>>>,
    advertise: mpsc::Receiver<Advertise>,
    findings: mpsc::Receiver<(ServiceName, u64, Finding)>,
    found: mpsc::Sender<(ServiceName, u64, Finding)>,
    merged: Merged,
    places: BTreeMap<ServiceName, Place>,
    generation: u64,
    looks: JoinSet<()>,
    offers: Option<Box<dyn Offers>>,
    /// Who waits for the first advertisement.
    waiting: Option<oneshot::Sender<Result<(), ManifestError>>>,
    offered: Option<Vec<Service>>,
    /// What the mesh refused and the log has said.
    refused: BTreeSet<ServiceName>,
}

impl Owner {
    /// Until all handles are gone.
    async fn run(mut self) {
        loop {
            let held = self.places.values().filter(|p| !p.seen).map(|p| p.since + FIRST_LOOKS);
            let wake = held.filter(|at| *at > Instant::now()).min();
            tokio::select! {
                biased;
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.take_wanted(),
                    Err(_) => return,
                },
                Some(word) = self.advertise.recv() => {
                    self.offers = Some(word.offers);
                    self.waiting = Some(word.told);
                    self.offered = None;
                }
                // The owner holds a sender itself, so the channel never closes.
                Some((name, generation, finding)) = self.findings.recv() => self.take_finding(&name, generation, finding),
                Some(ended) = self.looks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a probe has ended");
                    }
                    continue;
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            self.tell();
        }
    }

    fn take_wanted(&mut self) {
        let merged = merge(&self.wanted.borrow_and_update());
        for ((name, origin), reason) in &merged.left_out {
            if !self.merged.left_out.contains_key(&(name.clone(), *origin)) {
                let (service, origin) = (name.as_str(), origin.as_str());
                tracing::warn!(service, origin, reason, "a service is not offered");
            }
        }
        for (name, reason) in self.worker.set(merged.specs.values()) {
            tracing::warn!(service = name.as_str(), reason, "a service cannot be served");
        }
        let gone: Vec<_> = self.places.keys().filter(|name| !merged.specs.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(place) = self.places.remove(&name) {
                place.look.abort();
                tracing::info!(
                    service = name.as_str(),
                    origin = place.spec.origin.as_str(),
                    "service is offered no more"
                );
            }
        }
        self.refused.retain(|name| merged.specs.contains_key(name));
        for spec in merged.specs.values() {
            self.place(spec);
        }
        self.merged = merged;
    }

    fn place(&mut self, spec: &ServiceSpec) {
        let before = self.places.get_mut(&spec.name);
        if let Some(place) = before.as_ref()
            && place.spec == *spec
        {
            return;
        }
        let mut service = spec.unseen();
        if let Some(place) = before {
            // What was found of it stays until the next look says otherwise: no gap for a change of labels or of port.
            service.health = place.service.health;
            service.version = place.service.version.clone();
            if spec.models.is_empty() {
                service.models = place.service.models.clone();
            }
            if place.is_same(spec) {
                place.service = service;
                place.spec = spec.clone();
                return;
            }
            place.look.abort();
        }
        self.generation += 1;
        let look = self.looks.spawn(watch_over(spec.clone(), self.generation, self.found.clone()));
        let before = self.places.remove(&spec.name);
        let (seen, been_well) = before.as_ref().map_or((false, false), |p| (p.seen, p.been_well));
        let reason = None;
        let since = before.map_or_else(Instant::now, |p| p.since);
        let (spec, generation) = (spec.clone(), self.generation);
        self.places
            .insert(spec.name.clone(), Place { spec, service, generation, look, seen, been_well, reason, since });
    }

    fn take_finding(&mut self, name: &ServiceName, generation: u64, finding: Finding) {
        let Some(place) = self.places.get_mut(name).filter(|place| place.generation == generation) else { return };
        let first = !std::mem::replace(&mut place.seen, true);
        let service = &mut place.service;
        // Another reason is news too: whoever mends one thing looks for the next.
        let another = finding.reason.is_some() && place.reason != finding.reason;
        if first || another || service.health != finding.health {
            let (name, host, port) = (service.name.as_str(), service.host.as_str(), service.port);
            let reason = finding.reason.as_deref().unwrap_or_default();
            match finding.health {
                Health::Healthy => tracing::info!(service = name, host, port, "service is healthy"),
                Health::Degraded => tracing::warn!(service = name, host, port, reason, "service is degraded"),
                // What is still starting is its supervisor's to speak of.
                Health::Unhealthy if place.spec.origin == Origin::Supervised && !place.been_well => {
                    tracing::debug!(service = name, host, port, reason, "service is not healthy yet");
                }
                Health::Unhealthy => tracing::warn!(service = name, host, port, reason, "service is not healthy"),
            }
        }
        place.reason = finding.reason;
        place.been_well |= finding.health != Health::Unhealthy;
        service.health = finding.health;
        service.version = finding.version;
        if place.spec.models.is_empty() && finding.health != Health::Unhealthy {
            service.models = finding.models;
        }
    }

    /// Advertises what has changed; the first time not before all first looks or their deadline.
    fn tell(&mut self) {
        let Some(offers) = &self.offers else { return };
        let now = Instant::now();
        if self.waiting.is_some() && self.places.values().any(|place| place.is_new(now)) {
            return;
        }
        let mut services: Vec<Service> =
            self.places.values().filter(|p| p.is_offered(now)).map(|p| p.service.clone()).collect();
        if self.offered.as_ref() == Some(&services) {
            return;
        }
        self.offered = Some(services.clone());
        let mut refused = BTreeSet::new();
        // Ends: each turn has one service less.
        let result = loop {
            let error = match offers.offer(services.clone()) {
                Ok(()) => break Ok(()),
                Err(error) => error,
            };
            let Some(name) = self.blamed(&services, &error) else { break Err(error) };
            let named = self.places.get(&name).is_some_and(|p| matches!(p.spec.origin, Origin::Flag | Origin::Config));
            if self.waiting.is_some() && named {
                break Err(error);
            }
            services.retain(|service| service.name != name);
            if !self.refused.contains(&name) {
                tracing::warn!(service = name.as_str(), reason = %error, "a service is not offered");
            }
            refused.insert(name);
        };
        self.refused = refused;
        match (self.waiting.take(), result) {
            // Whoever asked may be gone.
            (Some(told), result) => drop(told.send(result)),
            (None, Err(error)) => tracing::warn!(%error, "cannot advertise a change of services"),
            (None, Ok(())) => {}
        }
    }

    /// The service to leave out for the rest to fit: the one that the error names, else the last of the last origin.
    fn blamed(&self, services: &[Service], error: &ManifestError) -> Option<ServiceName> {
        if let ManifestError::NotGranted(name) | ManifestError::Twice(name) = error {
            return services.iter().any(|s| s.name == *name).then(|| name.clone());
        }
        let origin = |s: &Service| self.places.get(&s.name).map(|p| p.spec.origin);
        services.iter().max_by_key(|s| (origin(s), s.name.clone())).map(|s| s.name.clone())
    }
}

async fn watch_over(spec: ServiceSpec, generation: u64, found: mpsc::Sender<(ServiceName, u64, Finding)>) {
    let mut starting = Some(INTERVAL_STARTING);
    loop {
        let finding = probe(&spec).await;
        let well = finding.health != Health::Unhealthy;
        if found.send((spec.name.clone(), generation, finding)).await.is_err() {
            return;
        }
        let pause = match (well, starting) {
            (true, _) => {
                starting = None;
                INTERVAL
            }
            (false, None) => INTERVAL_UNHEALTHY,
            (false, Some(pause)) => {
                starting = Some((pause * 2).min(INTERVAL_UNHEALTHY));
                pause
            }
        };
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests;
