//! Serves requests for this node's own services: to an HTTP service beside it, or from a directory.
//!
//! Lives on the lane that calls. Each service has a bound on requests at once, and the node one for all of them; over it
//! a request waits a moment ([`WAIT_MAX`]) for its turn, and then the caller is told so before anything was sent, so that
//! another peer can take the request.

mod limit;

use std::{
    any::Any,
    collections::BTreeMap,
    fmt::Write,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use paceline_mesh::{
    http::{
        Body, BoxError, NodeError, Protocol, ServiceHandler,
        ask::{Ask, NODE},
        forward::Upstream,
        upgrade,
    },
    local_api::Tell,
};
use paceline_proto::{
    id::{NodeId, ServiceName},
    view::ClusterView,
};
use tokio::sync::watch;

pub use limit::{WAIT_MAX, WAITING_MAX};

use self::limit::{Limit, Place, UNLIMITED};
use crate::{
    files::Files,
    services::{Allow, Kept, NotStarted, ServiceSpec, Source},
};

/// Requests at once for one service that says nothing itself. Generous: an event stream, a WebSocket and a slow download
/// each hold a place for as long as they last, so a small number would turn readers away, not load.
pub const MAX_CONCURRENCY: u32 = 1024;

enum Target {
    Upstream(Upstream),
    Files(Files),
}

/// What is counted of a service; kept where it moves to another URL.
struct Counts {
    limit: Arc<Limit>,
    requests: AtomicU64,
    waited: AtomicU64,
    refused: AtomicU64,
}

struct Entry {
    source: Source,
    protocol: Protocol,
    target: Target,
    keeper: Option<Kept>,
    allow: Option<Allow>,
    counts: Arc<Counts>,
}

type Table = BTreeMap<ServiceName, Arc<Entry>>;

/// The services of this node, ready to serve.
pub struct Worker {
    lanes: usize,
    /// All services together.
    limit: Arc<Limit>,
    table: ArcSwap<Table>,
    /// What this machine is, for gateways that ask.
    hardware: OnceLock<Tell>,
    /// Who is who, once this node is a member.
    views: OnceLock<watch::Receiver<Arc<ClusterView>>>,
}

impl Worker {
    /// For `lanes` lanes; offers nothing yet.
    pub fn new(lanes: usize) -> Self {
        Self {
            lanes,
            limit: Limit::new(UNLIMITED),
            table: ArcSwap::default(),
            hardware: OnceLock::new(),
            views: OnceLock::new(),
        }
    }

    /// What gateways are told that ask for this machine's hardware: a JSON object. The first word counts.
    pub fn tell_hardware(&self, hardware: Tell) {
        let _ = self.hardware.set(hardware);
    }

    /// The answer to a question that is for the node itself. Only gateways get this far: the data plane takes no
    /// streams from others.
    fn answer(&self, service: &ServiceName, request: &Request<Body>) -> Option<Response<Body>> {
        if service.as_str() != NODE {
            return None;
        }
        let answer = match Ask::of(request.headers())? {
            Ask::Hardware => self.hardware.get()?(),
            Ask::Starting(name) => {
                let table = self.table.load();
                let keeper = table.get(&name).and_then(|entry| entry.keeper.as_ref());
                serde_json::json!({ "starting": keeper.is_some_and(|keeper| keeper.0.is_asleep()) })
            }
        };
        let mut response = Response::new(Body::full(answer.to_string()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Some(response)
    }

    /// From now on it knows who calls: until then, services that not every gateway may call answer none.
    pub fn know(&self, views: watch::Receiver<Arc<ClusterView>>) {
        // Set once: a worker serves one node.
        let _ = self.views.set(views);
    }

    /// How many requests of all services together are served at once from now on; `None` is as many as come.
    pub fn set_max_concurrency(&self, max: Option<u32>) {
        self.limit.set_max(max.unwrap_or(UNLIMITED));
    }

    /// Serves these from now on. Requests that run go on where they are: a service that stays keeps its connections, one
    /// that has moved is called at its new place by the next request, one that is gone takes no new one. Gives the
    /// services that cannot be served, with the reason.
    pub fn set<'a>(&self, specs: impl Iterator<Item = &'a ServiceSpec>) -> Vec<(ServiceName, String)> {
        let old = self.table.load();
        let mut failed = Vec::new();
        let mut table = Table::new();
        for spec in specs {
            let before = old.get(&spec.name);
            let limit = spec.max_concurrency.unwrap_or(MAX_CONCURRENCY);
            let counts = before.map_or_else(Counts::new, |entry| entry.counts.clone());
            counts.limit.set_max(limit);
            let same = before.filter(|entry| {
                entry.source == spec.source
                    && entry.protocol == spec.protocol
                    && entry.keeper == spec.keeper
                    && entry.allow == spec.allow
            });
            let entry = match same {
                Some(entry) => Ok(entry.clone()),
                None => self.target(spec).map(|target| {
                    let (source, keeper, allow) = (spec.source.clone(), spec.keeper.clone(), spec.allow.clone());
                    Arc::new(Entry { source, protocol: spec.protocol, target, keeper, allow, counts })
                }),
            };
            match entry {
                Ok(entry) => drop(table.insert(spec.name.clone(), entry)),
                Err(reason) => failed.push((spec.name.clone(), reason)),
            }
        }
        self.table.store(Arc::new(table));
        failed
    }

    fn target(&self, spec: &ServiceSpec) -> Result<Target, String> {
        Ok(match &spec.source {
            // No deadline here: how long a service may take is the gateway's to say, which ends a request by closing
            // its stream.
            Source::Http { url, .. } => {
                Target::Upstream(Upstream::speaking(spec.protocol, url, self.lanes, None).map_err(|e| e.to_string())?)
            }
            Source::Directory(path) => Target::Files(Files::new(path.clone())),
        })
    }

    /// Lines for `/metrics`.
    pub fn metrics(&self, out: &mut String) {
        type Read = fn(&Counts) -> u64;
        let families: [(&str, &str, &str, Read); 5] = [
            ("paceline_service_requests_in_flight", "gauge", "Requests that this node's service works on.", |c| {
                c.limit.taken().into()
            }),
            ("paceline_service_max_concurrency", "gauge", "Most of them at once.", |c| c.limit.max().into()),
            ("paceline_service_requests_total", "counter", "Requests handed to this node's service.", |c| {
                c.requests.load(Ordering::Relaxed)
            }),
            ("paceline_service_waited_total", "counter", "Requests that waited for a place.", |c| {
                c.waited.load(Ordering::Relaxed)
            }),
            ("paceline_service_overloaded_total", "counter", "Requests refused over max_concurrency.", |c| {
                c.refused.load(Ordering::Relaxed)
            }),
        ];
        let table = self.table.load();
        for (family, kind, help, read) in families {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {family} {help}\n# TYPE {family} {kind}");
            for (name, entry) in &**table {
                let _ = writeln!(out, "{family}{{service=\"{name}\"}} {}", read(&entry.counts));
            }
        }
        if self.limit.max() < UNLIMITED {
            let family = "paceline_node_max_concurrency";
            let _ = writeln!(out, "# HELP {family} Most requests of all services at once.\n# TYPE {family} gauge");
            let _ = writeln!(out, "{family} {}", self.limit.max());
        }
    }
}

impl ServiceHandler for Worker {
    fn admits(&self, service: &ServiceName, gateway: &NodeId) -> Result<(), String> {
        let table = self.table.load();
        let Some(allow) = table.get(service).and_then(|entry| entry.allow.as_ref()) else { return Ok(()) };
        let view = self.views.get().map(|views| views.borrow().clone());
        if view.as_ref().is_some_and(|view| allow.lets(gateway, view)) {
            return Ok(());
        }
        let known = view.and_then(|view| view.members.get(gateway).map(|m| m.name.to_string()));
        Err(format!(
            "this node does not let the gateway `{}` call `{service}`",
            known.unwrap_or_else(|| gateway.short())
        ))
    }

    fn call(&self, lane: usize, service: ServiceName, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let Some(entry) = self.table.load().get(&service).cloned() else {
            if let Some(answer) = self.answer(&service, &request) {
                return Box::pin(std::future::ready(answer));
            }
            return Box::pin(async move {
                NodeError::NoSuchService.response(&format!("this node does not offer `{service}`"))
            });
        };
        let node = self.limit.clone();
        Box::pin(async move {
            let mut permit = match Permit::take(&entry.counts, &node).await {
                Ok(permit) => permit,
                Err(limit) => {
                    let words = match Arc::ptr_eq(limit, &node) {
                        true => format!("this node works on {} requests already", node.max()),
                        false => format!("`{service}` works on {} requests already", limit.max()),
                    };
                    return NodeError::Overloaded.response(&words);
                }
            };
            if let Some(keeper) = &entry.keeper {
                match keeper.0.admit().await {
                    Ok(held) => permit.held = Some(Mutex::new(held)),
                    Err(why) => return not_started(&why),
                }
            }
            let response = match &entry.target {
                Target::Upstream(upstream) => upstream.forward(lane, request).await,
                Target::Files(files) => files.serve(request).await,
            };
            permit.into_response(response)
        })
    }

    fn in_flight(&self) -> u32 {
        self.table.load().values().fold(0, |sum, entry| sum.saturating_add(entry.counts.limit.taken()))
    }
}

fn not_started(why: &NotStarted) -> Response<Body> {
    let mut response = NodeError::NotStarted.response(&why.reason);
    // Whole seconds are the least that it can say.
    let seconds = HeaderValue::from(why.retry_after.as_secs().max(1));
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    response
}

impl Counts {
    fn new() -> Arc<Self> {
        let (requests, waited, refused) = Default::default();
        Arc::new(Self { limit: Limit::new(MAX_CONCURRENCY), requests, waited, refused })
    }
}

/// One request's place among those at once: its service's, and its node's.
struct Permit {
    _places: [Place; 2],
    /// What the service's keeper gave; in a mutex only to be shared between threads.
    held: Option<Mutex<Box<dyn Any + Send>>>,
}

impl Permit {
    /// # Errors
    /// The limit that has no place left.
    async fn take<'a>(counts: &'a Counts, node: &'a Arc<Limit>) -> Result<Self, &'a Arc<Limit>> {
        let free = counts.limit.try_take().and_then(|own| Some([own, node.try_take()?]));
        let places = match free {
            Some(places) => places,
            None => {
                counts.waited.fetch_add(1, Ordering::Relaxed);
                match Self::wait(&counts.limit, node).await {
                    Ok(places) => places,
                    Err(limit) => {
                        counts.refused.fetch_add(1, Ordering::Relaxed);
                        return Err(limit);
                    }
                }
            }
        };
        counts.requests.fetch_add(1, Ordering::Relaxed);
        Ok(Self { _places: places, held: None })
    }

    /// The service's place first: a crowd before one service takes no places from the others.
    async fn wait<'a>(own: &'a Arc<Limit>, node: &'a Arc<Limit>) -> Result<[Place; 2], &'a Arc<Limit>> {
        let place = own.take().await.ok_or(own)?;
        Ok([place, node.take().await.ok_or(node)?])
    }

    /// Kept until the body has ended, or the connection that was upgraded; an answer without either gives it back now.
    fn into_response(self, mut response: Response<Body>) -> Response<Body> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            response.extensions_mut().insert(upgrade::Kept::new(self));
            return response;
        }
        if http_body::Body::is_end_stream(response.body()) {
            return response;
        }
        response.map(|body| match body {
            // Goes out with the head.
            Body::Empty | Body::Full(_) => body,
            body => Body::boxed(Held { body, _permit: self }),
        })
    }
}

struct Held {
    body: Body,
    _permit: Permit,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::Origin;
    use http_body_util::BodyExt;
    use std::time::Duration;

    fn files(path: &std::path::Path) -> ServiceSpec {
        ServiceSpec::new(ServiceName::new("files").unwrap(), Source::Directory(path.to_owned()), Origin::Flag)
    }

    fn worker() -> (tempfile::TempDir, Worker) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.txt"), "hello").unwrap();
        let worker = Worker::new(1);
        assert_eq!(worker.set([files(dir.path())].iter()), []);
        (dir, worker)
    }

    async fn get(worker: &Worker, service: &str, path: &str) -> Response<Body> {
        let request = Request::builder().uri(path).body(Body::Empty).unwrap();
        worker.call(0, ServiceName::new(service).unwrap(), request).await
    }

    async fn text(response: Response<Body>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_node_itself_answers_what_only_gateways_ask() {
        let (_dir, worker) = worker();
        let node = || ServiceName::new(NODE).unwrap();
        let ask = |ask: Ask| worker.call(0, node(), ask.request());
        let unknown = NodeError::of(ask(Ask::Hardware).await.headers());
        assert_eq!(unknown, Some(NodeError::NoSuchService), "nothing is known of the machine");
        worker.tell_hardware(Arc::new(|| serde_json::json!({ "cpu": 1 })));
        assert_eq!(text(ask(Ask::Hardware).await).await, r#"{"cpu":1}"#);
        for name in ["files", "other"] {
            let starting = Ask::Starting(ServiceName::new(name).unwrap());
            assert_eq!(text(ask(starting).await).await, r#"{"starting":false}"#, "{name}");
        }
        let bare = worker.call(0, node(), Request::new(Body::Empty)).await;
        assert_eq!(NodeError::of(bare.headers()), Some(NodeError::NoSuchService), "a caller has no such header");
        assert_eq!(worker.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_request_counts_until_its_body_has_ended() {
        let (_dir, worker) = worker();
        let response = get(&worker, "files", "/a.txt").await;
        assert_eq!(response.headers()["content-length"], "5");
        assert_eq!(worker.in_flight(), 1);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&body[..], b"hello");
        assert_eq!(worker.in_flight(), 0);
        drop(get(&worker, "files", "/a.txt").await);
        assert_eq!(worker.in_flight(), 0, "a response that nobody reads gives its place back");
        let mut metrics = String::new();
        worker.metrics(&mut metrics);
        assert!(metrics.contains("paceline_service_requests_total{service=\"files\"} 2\n"), "{metrics}");
    }

    #[tokio::test]
    async fn an_unknown_service_and_one_too_many_are_told_apart() {
        let (_dir, worker) = worker();
        assert_eq!(NodeError::of(get(&worker, "other", "/").await.headers()), Some(NodeError::NoSuchService));
        let mut held = Vec::new();
        for _ in 0..MAX_CONCURRENCY {
            held.push(get(&worker, "files", "/a.txt").await);
        }
        assert_eq!(NodeError::of(get(&worker, "files", "/a.txt").await.headers()), Some(NodeError::Overloaded));
        held.pop();
        assert_eq!(NodeError::of(get(&worker, "files", "/a.txt").await.headers()), None);
    }

    #[tokio::test]
    async fn a_change_leaves_running_requests_and_counts_alone() {
        let (dir, worker) = worker();
        let running = get(&worker, "files", "/a.txt").await;
        let mut narrow = files(dir.path());
        narrow.max_concurrency = Some(1);
        assert_eq!(worker.set([narrow.clone()].iter()), []);
        assert_eq!(NodeError::of(get(&worker, "files", "/a.txt").await.headers()), Some(NodeError::Overloaded));
        let other = tempfile::tempdir().unwrap();
        narrow.source = Source::Directory(other.path().to_owned());
        assert_eq!(worker.set([narrow].iter()), []);
        assert_eq!(worker.in_flight(), 1, "a moved service still works on what it has");
        assert_eq!(worker.set([].iter()), []);
        assert_eq!(NodeError::of(get(&worker, "files", "/a.txt").await.headers()), Some(NodeError::NoSuchService));
        assert_eq!(&running.into_body().collect().await.unwrap().to_bytes()[..], b"hello");
    }

    #[tokio::test]
    async fn a_keeper_is_asked_first_and_holds_until_the_body_has_ended() {
        struct Counting(Arc<()>, bool);
        impl crate::services::Keeper for Counting {
            fn admit(&self) -> BoxFuture<'static, Result<Box<dyn Any + Send>, NotStarted>> {
                let held: Box<dyn Any + Send> = Box::new(self.0.clone());
                let why = NotStarted { reason: "it does not start".to_owned(), retry_after: Duration::from_secs(7) };
                let answer = if self.1 { Ok(held) } else { Err(why) };
                Box::pin(async move { answer })
            }
            fn is_asleep(&self) -> bool {
                true
            }
        }
        let (dir, worker) = worker();
        let count = Arc::new(());
        for starts in [true, false] {
            let mut spec = files(dir.path());
            spec.keeper = Some(Kept(Arc::new(Counting(count.clone(), starts))));
            assert_eq!(worker.set([spec].iter()), []);
            let before = Arc::strong_count(&count);
            let response = get(&worker, "files", "/a.txt").await;
            let error = NodeError::of(response.headers());
            assert_eq!(error, if starts { None } else { Some(NodeError::NotStarted) });
            assert_eq!(response.headers().contains_key("retry-after"), !starts);
            let ask = Ask::Starting(ServiceName::new("files").unwrap());
            let answer = worker.call(0, ServiceName::new(NODE).unwrap(), ask.request()).await;
            assert_eq!(text(answer).await, r#"{"starting":true}"#);
            assert_eq!(Arc::strong_count(&count), before + usize::from(starts));
            drop(response);
            assert_eq!(Arc::strong_count(&count), before);
        }
    }
}
