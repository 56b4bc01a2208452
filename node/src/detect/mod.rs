//! Finds services that nobody named: a table of known ones, looked for every ten seconds, and containers that are
//! labelled as services.
//!
//! A container's host name is proof of what it is; a bare port on 127.0.0.1 is not, there the answer must bear the
//! service's fingerprint ([`known::Fingerprint`]). What answers without it is said in the log, once for each change, and
//! left alone. A look is bounded in time and bytes, so that an endpoint that hangs or streams for ever costs nothing.
//! This process's own ports and other Paceline processes are never taken.

mod containers;
mod follow;
pub mod known;
pub mod listeners;
mod look;
pub mod models;
mod names;
mod scan;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use http::Uri;
use paceline_proto::{id::ServiceName, manifest::ServiceKind};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::sleep,
};

pub use containers::sockets as container_sockets;
pub use follow::follow;
pub use known::Known;
pub use names::Resolve;
pub use scan::{Answering, scan};

use crate::services::{Desk, HealthCheck, Origin, ServiceSpec, Source};
use look::{Place, Verdict, look};
use names::Names;

/// Between two looks at a place.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// Most looks at once.
const LOOKS_MAX: usize = 8;
/// Looks in a row at which nobody may listen before a service that was taken is given up: it may be restarting.
const ABSENT_MAX: u32 = 3;
/// Findings that wait for the list's owner; a look waits where there are more.
const FINDINGS_MAX: usize = 64;
/// How long the looks after the first pass wait at most for it to be summed up in the log.
const FIRST_PASS: Duration = Duration::from_secs(5);

/// A service that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name in URLs.
    pub name: ServiceName,
    /// `http://host:port`.
    pub url: Uri,
    /// How to see whether it is well.
    pub health: HealthCheck,
    /// What it speaks.
    pub kind: ServiceKind,
    /// How it is known to be that, for the log.
    pub why: String,
}

/// Takes what was found.
pub trait Sink: Send + 'static {
    /// Names and URLs of what is offered by others' word: they are not taken twice.
    fn named(&self) -> Vec<(ServiceName, Option<Uri>)>;

    /// Replaces all that was found before.
    fn set(&self, found: Vec<Found>);
}

impl Sink for Desk {
    fn named(&self) -> Vec<(ServiceName, Option<Uri>)> {
        self.named_besides(Origin::Detected)
    }

    fn set(&self, found: Vec<Found>) {
        let spec = |found: Found| {
            let source = Source::Http { url: found.url, health: found.health };
            ServiceSpec { kind: found.kind, ..ServiceSpec::new(found.name, source, Origin::Detected) }
        };
        Desk::set(self, Origin::Detected, found.into_iter().map(spec).collect());
    }
}

/// What is looked for, and how.
#[derive(Clone)]
pub struct Options {
    /// The table.
    pub known: Vec<Known>,
    /// Between two looks at a place.
    pub interval: Duration,
    /// Sockets of container engines.
    pub engines: Vec<PathBuf>,
    /// Another resolver than the system's.
    pub resolve: Option<Resolve>,
}

impl Default for Options {
    fn default() -> Self {
        Self { known: known::built_in(), interval: INTERVAL, engines: containers::sockets(), resolve: None }
    }
}

/// Begins to look, in tasks of the current runtime that end when the returned set is dropped. Call it once the ports of
/// this process are bound.
pub fn start(options: Options, sink: impl Sink) -> JoinSet<()> {
    let (send, findings) = mpsc::channel(FINDINGS_MAX);
    let names = Arc::new(Names::new(options.resolve));
    let permits = Arc::new(Semaphore::new(LOOKS_MAX));
    let mut looks = JoinSet::new();
    let count = options.known.len();
    for (index, known) in options.known.into_iter().enumerate() {
        let watch = Watch { taken: None, absent: 0, said: None, known, names: names.clone(), permits: permits.clone() };
        looks.spawn(watch.run(index, options.interval, send.clone()));
    }
    if !options.engines.is_empty() {
        looks.spawn(watch_containers(options.engines, options.interval, send));
    }
    let owner = Owner {
        sink: Box::new(sink),
        known: vec![None; count],
        unseen: count,
        labelled: Vec::new(),
        told: Vec::new(),
        skipped: BTreeMap::new(),
    };
    let mut task = JoinSet::new();
    task.spawn(owner.run(looks, findings));
    task
}

/// What a look tells the owner of the list.
enum Finding {
    /// Of a row of the table, by its index; with the name for the log.
    Known(usize, ServiceName, Option<Found>),
    /// Of all labelled containers.
    Labelled(Vec<Found>),
}

/// Looks for one row of the table.
struct Watch {
    known: Known,
    names: Arc<Names>,
    permits: Arc<Semaphore>,
    /// Where it was found.
    taken: Option<Place>,
    /// Looks in a row at which nobody listened there.
    absent: u32,
    /// What the log has said of something else on the port.
    said: Option<Verdict>,
}

impl Watch {
    async fn run(mut self, index: usize, interval: Duration, out: mpsc::Sender<Finding>) {
        loop {
            let found = self.look().await;
            if out.send(Finding::Known(index, self.known.name.clone(), found)).await.is_err() {
                return;
            }
            sleep(interval).await;
        }
    }

    /// One look at each place, the one where it was found first.
    async fn look(&mut self) -> Option<Found> {
        if let Some(place) = self.taken.clone() {
            match self.judge(&place).await {
                Verdict::Is => self.absent = 0,
                // Whether it is well is the prober's to tell; it is still there.
                Verdict::Unclear(_) => self.absent = 0,
                Verdict::Absent => self.absent += 1,
                Verdict::Other(why) => {
                    let (service, port) = (self.known.name.as_str(), self.known.port);
                    tracing::info!(service, port, why, "something else answers now in the place of a service");
                    self.absent = ABSENT_MAX;
                }
            }
            if self.absent < ABSENT_MAX {
                return self.found(&place);
            }
            self.taken = None;
        }
        for way in Way::order() {
            for place in places(&self.known, &self.names, way).await {
                if let Some(found) = self.try_place(place).await {
                    return Some(found);
                }
            }
        }
        None
    }

    /// Takes the service if it is there.
    async fn try_place(&mut self, place: Place) -> Option<Found> {
        let verdict = self.judge(&place).await;
        if verdict != Verdict::Absent && !place.proof && is_own(self.known.port).await {
            return None;
        }
        match verdict {
            Verdict::Is => {
                self.absent = 0;
                self.said = None;
                let found = self.found(&place);
                self.taken = Some(place);
                return found;
            }
            Verdict::Other(_) | Verdict::Unclear(_) => self.say(verdict),
            Verdict::Absent => self.said = None,
        }
        None
    }

    async fn judge(&self, place: &Place) -> Verdict {
        let _permit = self.permits.acquire().await;
        look(&self.known, place).await
    }

    /// Once for each change; one that hangs or breaks off does so in many ways, which are one.
    fn say(&mut self, verdict: Verdict) {
        let same = match (&self.said, &verdict) {
            (Some(Verdict::Unclear(_)), Verdict::Unclear(_)) => true,
            (said, verdict) => said.as_ref() == Some(verdict),
        };
        if let (false, Verdict::Other(why) | Verdict::Unclear(why)) = (same, &verdict) {
            let (service, port) = (self.known.name.as_str(), self.known.port);
            tracing::info!(service, port, why, "something answers on {port}, not taken for {service}");
            self.said = Some(verdict);
        }
    }

    fn found(&self, place: &Place) -> Option<Found> {
        found(&self.known, place)
    }
}

/// Where a service is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Its port on 127.0.0.1.
    Loopback,
    /// The host names of its container.
    Names,
}

impl Way {
    /// Names first inside a container; elsewhere they seldom lead anywhere, and a resolver may be slow to say so.
    fn order() -> [Way; 2] {
        if names::in_container() { [Way::Names, Way::Loopback] } else { [Way::Loopback, Way::Names] }
    }
}

/// The places on a way that may be looked at.
async fn places(known: &Known, names: &Names, way: Way) -> Vec<Place> {
    if way == Way::Loopback {
        let address = ([127, 0, 0, 1], known.port).into();
        return vec![Place { host: "127.0.0.1".to_owned(), addresses: vec![address], proof: false }];
    }
    let mut places = Vec::new();
    for host in &known.hosts {
        let addresses = names.addresses(host, known.port).await;
        if !addresses.is_empty() {
            places.push(Place { host: host.clone(), addresses, proof: true });
        }
    }
    places
}

fn found(known: &Known, place: &Place) -> Option<Found> {
    let why = match place.proof {
        true => format!("a container's host name {}", place.host),
        false => format!("its answer on port {}", known.port),
    };
    Some(Found {
        name: known.name.clone(),
        url: format!("http://{}:{}", place.host, known.port).parse().ok()?,
        health: HealthCheck::Path(known.health.clone()),
        kind: known.kind(),
        why,
    })
}

/// Whether this process listens on a port itself; read only when something answers there.
async fn is_own(port: u16) -> bool {
    let own = tokio::task::spawn_blocking(listeners::own_ports).await;
    own.is_ok_and(|ports| ports.contains(&port))
}

async fn watch_containers(engines: Vec<PathBuf>, interval: Duration, out: mpsc::Sender<Finding>) {
    let mut said: Vec<String> = Vec::new();
    loop {
        let (mut found, mut wrong) = (Vec::new(), Vec::new());
        for labelled in containers::look(&engines).await.unwrap_or_default() {
            match labelled {
                Ok(service) => found.push(service),
                Err(words) => wrong.push(words),
            }
        }
        for words in wrong.iter().filter(|words| !said.contains(words)) {
            tracing::warn!("not offered: {words}");
        }
        said = wrong;
        if out.send(Finding::Labelled(found)).await.is_err() {
            return;
        }
        sleep(interval).await;
    }
}

/// Owns the list.
struct Owner {
    sink: Box<dyn Sink>,
    known: Vec<Option<Option<Found>>>,
    /// Rows that were not looked for yet.
    unseen: usize,
    labelled: Vec<Found>,
    told: Vec<Found>,
    /// Found, but offered already by somebody's word: what the log has said of it.
    skipped: BTreeMap<ServiceName, String>,
}

impl Owner {
    async fn run(mut self, mut looks: JoinSet<()>, mut findings: mpsc::Receiver<Finding>) {
        let mut missing: Vec<ServiceName> = Vec::new();
        let first_pass = sleep(FIRST_PASS);
        tokio::pin!(first_pass);
        let mut summed_up = false;
        loop {
            tokio::select! {
                finding = findings.recv() => match finding {
                    Some(Finding::Known(index, name, found)) => {
                        let Some(row) = self.known.get_mut(index) else { continue };
                        if row.is_none() {
                            self.unseen = self.unseen.saturating_sub(1);
                            if found.is_none() {
                                missing.push(name);
                            }
                        }
                        *row = Some(found);
                    }
                    Some(Finding::Labelled(found)) => self.labelled = found,
                    None => return,
                },
                Some(ended) = looks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a look for a service has ended");
                    }
                    continue;
                }
                () = &mut first_pass, if !summed_up => self.unseen = 0,
            }
            self.tell();
            if self.unseen == 0 && !summed_up {
                summed_up = true;
                missing.sort_unstable();
                let missing: Vec<&str> = missing.iter().map(ServiceName::as_str).collect();
                if !missing.is_empty() {
                    tracing::info!("looked for and not found here: {}", missing.join(", "));
                }
            }
        }
    }

    /// Hands on what has changed.
    fn tell(&mut self) {
        let named = self.sink.named();
        let mut list: Vec<Found> = Vec::new();
        let mut skipped = BTreeMap::new();
        for found in self.labelled.iter().chain(self.known.iter().flatten().flatten()) {
            let at = place_of(&found.url);
            let by_name = named.iter().find(|(name, _)| *name == found.name);
            let by_url = named.iter().find(|(_, url)| url.as_ref().is_some_and(|url| place_of(url) == at));
            if let Some((name, _)) = by_name.or(by_url) {
                skipped.insert(found.name.clone(), format!("{} is offered already, as `{name}`", found.url));
            } else if !list.iter().any(|other| other.name == found.name || place_of(&other.url) == at) {
                list.push(found.clone());
            }
        }
        for (name, why) in skipped.iter().filter(|(name, why)| self.skipped.get(*name) != Some(why)) {
            tracing::info!(service = name.as_str(), why, "found, and not taken twice");
        }
        self.skipped = skipped;
        list.sort_by(|a, b| a.name.cmp(&b.name));
        if list == self.told {
            return;
        }
        for found in list.iter().filter(|found| !self.told.contains(found)) {
            tracing::info!(service = found.name.as_str(), url = %found.url, by = found.why, "service found");
        }
        for gone in self.told.iter().filter(|old| !list.iter().any(|found| found.name == old.name)) {
            tracing::info!(service = gone.name.as_str(), url = %gone.url, "service is gone");
        }
        self.told.clone_from(&list);
        self.sink.set(list);
    }
}

/// Host and port of a URL; all of loopback is one place.
fn place_of(url: &Uri) -> (String, u16) {
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    (if loopback { "127.0.0.1".to_owned() } else { host }, url.port_u16().unwrap_or(80))
}

#[cfg(test)]
mod tests;
