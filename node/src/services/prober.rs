//! Looks at every service again and again, and tells the mesh at once what changed.
//!
//! One task a service, so that a hanging one delays no other; one collector owns the list that is advertised.

use std::time::Duration;

use paceline_mesh::{Mesh, process::Fault};
use paceline_proto::manifest::{Health, ManifestError, Service, ServiceKind};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use super::{Finding, ServiceSpec, Source, probe};
use crate::worker::MAX_CONCURRENCY;

/// Between two looks at a service that is well.
const INTERVAL: Duration = Duration::from_secs(10);
/// Between two looks at one that is not, once it has been.
const INTERVAL_UNHEALTHY: Duration = Duration::from_secs(1);
/// First pause while a service has never been well: it may be starting. Doubles up to [`INTERVAL_UNHEALTHY`].
const INTERVAL_STARTING: Duration = Duration::from_millis(100);
/// How long the first advertisement waits for first looks.
const FIRST_LOOKS: Duration = Duration::from_millis(250);

/// Where the collector tells what is offered.
pub trait Offers: Send + 'static {
    /// Replaces the services that this node offers.
    ///
    /// # Errors
    /// A bound is broken; the old ones stay.
    fn offer(&self, services: Vec<Service>) -> Result<(), ManifestError>;
}

impl Offers for Mesh {
    fn offer(&self, services: Vec<Service>) -> Result<(), ManifestError> {
        Mesh::offer(self, services)
    }
}

/// The running probes.
pub struct Prober {
    looks: JoinSet<()>,
    found: mpsc::Receiver<(usize, Finding)>,
    offered: Vec<Service>,
    /// Whether each service was looked at.
    seen: Vec<bool>,
}

impl Prober {
    /// Begins to look, in tasks of the current runtime; nothing is advertised yet.
    pub fn start(specs: Vec<ServiceSpec>) -> Self {
        let offered: Vec<Service> = specs.iter().map(unseen).collect();
        let seen = vec![false; specs.len()];
        let (send, found) = mpsc::channel(specs.len().max(1));
        let mut looks = JoinSet::new();
        for (index, spec) in specs.into_iter().enumerate() {
            looks.spawn(watch(index, spec, send.clone()));
        }
        Self { looks, found, offered, seen }
    }

    /// Advertises: first what the first looks found, then each change at once, in a task of its own that ends when
    /// the returned set is dropped.
    ///
    /// # Errors
    /// The services do not fit a manifest.
    pub async fn advertise(mut self, offers: impl Offers) -> Result<JoinSet<()>, Fault> {
        let until = Instant::now() + FIRST_LOOKS;
        while self.seen.contains(&false) {
            match timeout_at(until, self.found.recv()).await {
                Ok(Some((index, finding))) => drop(self.take(index, finding)),
                Ok(None) | Err(_) => break,
            }
        }
        offers
            .offer(self.offered.clone())
            .map_err(|e| Fault::user(format!("these services cannot be offered: {e}")))?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some((index, finding)) = self.found.recv().await {
                if self.take(index, finding)
                    && let Err(error) = offers.offer(self.offered.clone())
                {
                    tracing::warn!(%error, "cannot advertise a change of services");
                }
            }
            // All looks have ended, which they do only by a panic.
            while let Some(ended) = self.looks.join_next().await {
                tracing::error!(?ended, "a probe has ended");
            }
        });
        Ok(task)
    }

    /// Notes a finding; whether it changes what is advertised.
    fn take(&mut self, index: usize, finding: Finding) -> bool {
        let (Some(service), Some(seen)) = (self.offered.get_mut(index), self.seen.get_mut(index)) else {
            return false;
        };
        let first = !std::mem::replace(seen, true);
        let changed = service.health != finding.health || service.version != finding.version;
        if first || service.health != finding.health {
            let (name, host, port) = (service.name.as_str(), service.host.as_str(), service.port);
            let reason = finding.reason.as_deref().unwrap_or_default();
            match finding.health {
                Health::Healthy => tracing::info!(service = name, host, port, "service is healthy"),
                Health::Degraded => tracing::warn!(service = name, host, port, reason, "service is degraded"),
                Health::Unhealthy => tracing::warn!(service = name, host, port, reason, "service is not healthy"),
            }
        }
        service.health = finding.health;
        service.version = finding.version;
        changed
    }
}

pub(super) fn unseen(spec: &ServiceSpec) -> Service {
    let (host, port, kind) = match &spec.source {
        Source::Directory(_) => ("local".to_owned(), 0, ServiceKind::Http),
        Source::Http { url, kind, .. } => {
            (url.host().unwrap_or_default().to_owned(), url.port_u16().unwrap_or(80), *kind)
        }
    };
    Service {
        name: spec.name.clone(),
        host,
        port,
        health: Health::Unhealthy,
        version: None,
        kind,
        models: Vec::new(),
        max_concurrency: MAX_CONCURRENCY,
        labels: Default::default(),
    }
}

async fn watch(index: usize, spec: ServiceSpec, found: mpsc::Sender<(usize, Finding)>) {
    let mut starting = Some(INTERVAL_STARTING);
    loop {
        let finding = probe(&spec).await;
        let well = finding.health != Health::Unhealthy;
        if found.send((index, finding)).await.is_err() {
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
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    struct Told(mpsc::Sender<Vec<Service>>);

    impl Offers for Told {
        fn offer(&self, services: Vec<Service>) -> Result<(), ManifestError> {
            self.0.try_send(services).ok();
            Ok(())
        }
    }

    async fn serve(listener: TcpListener) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    }

    fn spec(name: &str, url: &str) -> ServiceSpec {
        let args = paceline_mesh::args::WorkerArgs {
            service: vec![format!("{name}={url}")],
            serve: Vec::new(),
            no_detect: false,
        };
        super::super::parse(&args).unwrap().remove(0)
    }

    fn health(services: &[Service]) -> Vec<Health> {
        services.iter().map(|s| s.health).collect()
    }

    #[tokio::test]
    async fn the_first_advertisement_has_the_first_looks_and_changes_follow_at_once() {
        let up = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let later = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (up_at, later_at) = (up.local_addr().unwrap(), later.local_addr().unwrap());
        drop(later);
        let mut server = JoinSet::new();
        server.spawn(serve(up));
        let prober =
            Prober::start(vec![spec("up", &format!("http://{up_at}")), spec("later", &format!("http://{later_at}"))]);
        let (send, mut told) = mpsc::channel(16);
        let task = prober.advertise(Told(send)).await.unwrap();
        let next = async |told: &mut mpsc::Receiver<_>| {
            tokio::time::timeout(Duration::from_secs(5), told.recv()).await.expect("told in time").expect("told")
        };
        let first: Vec<Service> = next(&mut told).await;
        assert_eq!(health(&first), [Health::Healthy, Health::Unhealthy]);
        server.spawn(serve(TcpListener::bind(later_at).await.unwrap()));
        assert_eq!(health(&next(&mut told).await), [Health::Healthy, Health::Healthy]);
        assert!(told.try_recv().is_err(), "told only of changes");
        drop(task);
        assert_eq!(told.recv().await, None, "the collector ends with its set");
    }

    #[tokio::test]
    async fn a_hanging_service_does_not_delay_the_first_advertisement() {
        let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", hanging.local_addr().unwrap());
        let started = Instant::now();
        let (send, mut told) = mpsc::channel(16);
        let _task = Prober::start(vec![spec("h", &url)]).advertise(Told(send)).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(1));
        assert_eq!(health(&told.recv().await.unwrap()), [Health::Unhealthy]);
    }
}
