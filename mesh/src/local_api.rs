//! The local API of every process (`--local-http`): what this node believes, and the word to leave or drain.
//!
//! Reading needs no key; `POST /leave` and `POST /drain` need the admin key of the data directory. Bound to loopback,
//! a request must name a loopback host, so that no web page reads it by rebinding its own name.

mod doctor;
mod events;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use paceline_proto::{manifest::Health, view::MemberState};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{leadership, mesh::Mesh, process::Fault};
use events::{Feed, Feeds};

/// Most connections at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 64;
/// Longest body of a command.
const BODY_BYTES_MAX: usize = 4096;
/// For a request's head, and for a command's body.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries after `accept` failed (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Adds lines to `/metrics`.
pub type Metrics = Arc<dyn Fn(&mut String) + Send + Sync>;

/// Answers with something that only the process itself knows.
pub type Tell = Arc<dyn Fn() -> Value + Send + Sync>;

/// A request for a path that the process adds itself.
#[derive(Clone, Copy, Debug)]
pub struct LocalRequest<'a> {
    /// Its path.
    pub path: &'a str,
    /// What follows the `?`.
    pub query: Option<&'a str>,
    /// Whether it bears the admin key.
    pub authorised: bool,
}

/// Answers `GET` requests with JSON, where the path is one of its own.
pub type Routes = Arc<dyn Fn(&LocalRequest<'_>) -> Option<BoxFuture<'static, (StatusCode, Value)>> + Send + Sync>;

/// The word to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Whether the membership is given up for good.
    pub forget: bool,
}

/// What the answers are made of.
pub(crate) struct Context {
    pub(crate) mesh: Mesh,
    pub(crate) admin_key: String,
    pub(crate) started: Instant,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) hardware: Option<Tell>,
    pub(crate) routes: Option<Routes>,
}

struct Shared {
    context: Context,
    ready: AtomicBool,
    /// Told so here; the process serves what it has, and wants no more.
    draining: AtomicBool,
    loopback: bool,
    stop: mpsc::Sender<Stop>,
    feeds: Feeds,
}

/// The running local API.
pub(crate) struct LocalApi {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl LocalApi {
    /// Binds the port.
    pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, Fault> {
        let bound = TcpListener::bind(address).and_then(|l| l.set_nonblocking(true).map(|()| l));
        let listener = bound.map_err(|e| Fault::user(format!("cannot bind --local-http {address}: {e}")))?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "the local API can be read by other machines");
        }
        Ok(listener)
    }

    /// Serves from now on; the receiver tells when a caller wants the process to leave.
    pub(crate) fn start(listener: TcpListener, context: Context) -> Result<(Self, mpsc::Receiver<Stop>), Fault> {
        let failed = |e: std::io::Error| Fault::failed(format!("cannot serve --local-http: {e}"));
        let address = listener.local_addr().map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let (stop, stopped) = mpsc::channel(1);
        let loopback = address.ip().is_loopback();
        let shared = Arc::new(Shared {
            context,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            loopback,
            stop,
            feeds: Feeds::new(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared.clone()));
        Ok((Self { address, shared, tasks }, stopped))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `/readyz` says.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.shared.ready.store(ready, Ordering::Relaxed);
    }

    /// Closes the port and every connection.
    pub(crate) async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn accept(listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    let shared = shared.clone();
                    connections.spawn(async move {
                        let disconnect = CancellationToken::new();
                        let service = service_fn(|request| answer(shared.clone(), disconnect.clone(), request));
                        let mut http = http1::Builder::new();
                        http.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
                        let served = http.serve_connection(TokioIo::new(stream), service);
                        if let Some(Err(error)) = disconnect.run_until_cancelled(served).await {
                            tracing::debug!(%error, "connection to the local API");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the local API cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

type Answer = Response<Full<Bytes>>;

fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn json(status: StatusCode, value: &Value) -> Answer {
    text(status, "application/json", format!("{value}\n"))
}

fn error(status: StatusCode, words: &str) -> Answer {
    json(status, &json!({ "error": words }))
}

async fn answer(
    shared: Arc<Shared>,
    disconnect: CancellationToken,
    request: Request<Incoming>,
) -> Result<Response<Either<Full<Bytes>, Feed>>, Infallible> {
    let reads_events = request.method() == Method::GET && request.uri().path() == "/events";
    let answer = route(&shared, request).await;
    if !reads_events || answer.status() != StatusCode::OK {
        return Ok(answer.map(Either::Left));
    }
    Ok(match shared.feeds.open(shared.context.mesh.watch(), disconnect) {
        Some(feed) => answer.map(|_| Either::Right(feed)),
        None => error(StatusCode::SERVICE_UNAVAILABLE, "too many readers of /events").map(Either::Left),
    })
}

async fn route(shared: &Shared, request: Request<Incoming>) -> Answer {
    if shared.loopback && !names_loopback(&request) {
        return error(StatusCode::FORBIDDEN, "the local API answers to 127.0.0.1, [::1] and localhost only");
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/leave" | "/drain" if request.method() == Method::POST => command(shared, request).await,
        "/leave" | "/drain" => error(StatusCode::METHOD_NOT_ALLOWED, "POST it"),
        _ if !reads => error(StatusCode::METHOD_NOT_ALLOWED, "GET it"),
        "/livez" => text(StatusCode::OK, "text/plain", "ok\n"),
        "/readyz" => match (shared.ready.load(Ordering::Relaxed), shared.draining.load(Ordering::Relaxed)) {
            (true, false) => text(StatusCode::OK, "text/plain", "ok\n"),
            (true, true) => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "draining\n"),
            (false, _) => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "not ready\n"),
        },
        "/health" => health(shared),
        "/cluster" => json(StatusCode::OK, &cluster(&shared.context.mesh)),
        "/metrics" => text(StatusCode::OK, "text/plain; version=0.0.4", metrics(shared)),
        // The head; `answer` gives it the stream as its body.
        "/events" => text(StatusCode::OK, "text/event-stream", ""),
        "/doctor" if !authorised(&request, &shared.context.admin_key) => unauthorised(),
        "/doctor" => json(StatusCode::OK, &doctor::doctor(&shared.context.mesh)),
        "/hardware" => match &shared.context.hardware {
            Some(hardware) => json(StatusCode::OK, &hardware()),
            None => error(StatusCode::NOT_FOUND, "this process is no worker: it does not read its hardware"),
        },
        path => {
            let authorised = authorised(&request, &shared.context.admin_key);
            let asked = LocalRequest { path, query: request.uri().query(), authorised };
            match shared.context.routes.as_ref().and_then(|routes| routes(&asked)) {
                Some(answer) => {
                    let (status, value) = answer.await;
                    json(status, &value)
                }
                None => error(
                    StatusCode::NOT_FOUND,
                    "here are /health, /livez, /readyz, /metrics, /cluster, /events, /hardware, /services and /doctor",
                ),
            }
        }
    }
}

/// Whether `Host` is a loopback literal or `localhost`, with any port.
fn names_loopback<B>(request: &Request<B>) -> bool {
    let Some(host) = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()) else { return false };
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn health(shared: &Shared) -> Answer {
    let context = &shared.context;
    let view = context.mesh.view();
    let own = view.members.get(&view.me).map(|m| &m.manifest);
    let capabilities = own.map(|m| &m.capabilities);
    let services: BTreeMap<&str, Health> =
        own.iter().flat_map(|m| &m.services).map(|s| (s.name.as_str(), s.health)).collect();
    let well = services.values().all(|h| *h == Health::Healthy);
    let status = match (shared.ready.load(Ordering::Relaxed), well) {
        (false, _) => "starting or stopping",
        (true, _) if shared.draining.load(Ordering::Relaxed) => "draining",
        (true, false) => "degraded",
        (true, true) => "healthy",
    };
    let memory = Memory::now();
    json(
        StatusCode::OK,
        &json!({
            "status": status,
            "memory": {
                "rss_bytes": memory.resident,
                "machine_total_bytes": memory.machine_total,
                "machine_available_bytes": memory.machine_available,
            },
            "uptime": context.started.elapsed().as_secs(),
            "capabilities": capabilities,
            "services": services,
            "worker_id": context.mesh.name(),
            "version": env!("CARGO_PKG_VERSION"),
        }),
    )
}

/// What a node believes of its cluster: the fields of `/api/admin/cluster`.
pub fn cluster(mesh: &Mesh) -> Value {
    leadership::cluster(&mesh.view())
}

fn metrics(shared: &Shared) -> String {
    let context = &shared.context;
    let view = context.mesh.view();
    let mut out = String::new();
    let states = [MemberState::Alive, MemberState::Suspect, MemberState::Dead, MemberState::Left];
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# TYPE paceline_build_info gauge");
    let _ = writeln!(out, "paceline_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(out, "# TYPE paceline_uptime_seconds gauge");
    let _ = writeln!(out, "paceline_uptime_seconds {}", context.started.elapsed().as_secs());
    if let Some(resident) = Memory::now().resident {
        let _ = writeln!(out, "# TYPE process_resident_memory_bytes gauge");
        let _ = writeln!(out, "process_resident_memory_bytes {resident}");
    }
    let _ = writeln!(out, "# HELP paceline_members Members of the cluster as this node sees them.");
    let _ = writeln!(out, "# TYPE paceline_members gauge");
    for state in states {
        let members = view.members.values().filter(|m| m.state == state).count();
        let word = format!("{state:?}").to_lowercase();
        let _ = writeln!(out, "paceline_members{{state=\"{word}\"}} {members}");
    }
    if let Some(me) = view.members.get(&view.me) {
        let _ = writeln!(out, "# HELP paceline_service_up Whether this node's service answers its probe.");
        let _ = writeln!(out, "# TYPE paceline_service_up gauge");
        for service in &me.manifest.services {
            let up = u8::from(service.health != Health::Unhealthy);
            let _ = writeln!(out, "paceline_service_up{{service=\"{}\"}} {up}", service.name);
        }
    }
    leadership::metrics(&view, &mut out);
    control_metrics(&context.mesh, &mut out);
    if let Some(more) = &context.metrics {
        more(&mut out);
    }
    out
}

/// What this node's control plane has seen and carried.
fn control_metrics(mesh: &Mesh, out: &mut String) {
    let (seen, lines) = (mesh.happened(), mesh.line_traffic());
    for (name, help, value) in [
        ("paceline_suspicions", "Members that became suspect here.", seen.suspicions),
        ("paceline_deaths", "Members that were found dead.", seen.deaths),
        ("paceline_leader_changes", "Changes of the leader or its term.", seen.leaders),
        ("paceline_alarms", "What a person should look at: see the log.", seen.alarms),
        ("paceline_summary_writes", "Stored summaries that this node wrote.", seen.writes),
        ("paceline_summary_writes_failed", "Stored summaries that this node could not write.", seen.unwritten),
        ("paceline_connections", "Connections of the control plane that were made.", seen.connections),
        ("paceline_probes", "Probes of other members.", seen.probes),
        (
            "paceline_probes_answered",
            "Probes that were answered, by the member or by way of others.",
            seen.probes_answered,
        ),
        ("paceline_probes_indirect", "Probes for which others were asked.", seen.probes_indirect),
        ("paceline_probes_missed", "Probes that nobody answered.", seen.probes_missed),
        ("paceline_refutations", "What others said of this node, and it refuted.", seen.refutations),
        ("paceline_line_frames_sent", "Messages between nodes, handed to a connection.", lines.sent),
        ("paceline_line_bytes_sent", "Their bytes.", lines.sent_bytes),
        ("paceline_line_frames_received", "Messages between nodes that came.", lines.received),
        ("paceline_line_bytes_received", "Their bytes.", lines.received_bytes),
        ("paceline_line_frames_dropped", "Messages that found their queue full, or no peer.", lines.dropped),
        ("paceline_line_reopened", "Message streams that broke while their connection lived.", lines.reopened),
    ] {
        let _ = writeln!(out, "# HELP {name}_total {help}\n# TYPE {name}_total counter\n{name}_total {value}");
    }
}

async fn command(shared: &Shared, request: Request<Incoming>) -> Answer {
    if !authorised(&request, &shared.context.admin_key) {
        return unauthorised();
    }
    let leave = request.uri().path() == "/leave";
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let body = match tokio::time::timeout(READ_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return error(StatusCode::PAYLOAD_TOO_LARGE, "the body is cut off, or too long"),
        Err(_) => return error(StatusCode::REQUEST_TIMEOUT, "the body does not come"),
    };
    let options: Value = match body.as_ref() {
        b"" => json!({}),
        bytes => match serde_json::from_slice(bytes) {
            Ok(value) => value,
            Err(e) => return error(StatusCode::BAD_REQUEST, &format!("the body is not JSON: {e}")),
        },
    };
    let on = |key: &str| options.get(key).and_then(Value::as_bool);
    if !leave {
        let draining = on("draining").unwrap_or(true);
        shared.draining.store(draining, Ordering::Relaxed);
        shared.context.mesh.drain(draining);
        tracing::info!(draining, "told so at the local API");
        return json(StatusCode::OK, &json!({ "draining": draining }));
    }
    if shared.context.mesh.is_issuer() && on("force") != Some(true) {
        let words = "this node admits new members: without another issuer nobody can join any more; use --force to leave all the same";
        return error(StatusCode::CONFLICT, words);
    }
    // Full means that an earlier caller said the same.
    let _ = shared.stop.try_send(Stop { forget: true });
    json(StatusCode::ACCEPTED, &json!({ "leaving": true }))
}

fn unauthorised() -> Answer {
    let mut response = error(StatusCode::UNAUTHORIZED, "send the admin key as a bearer token");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn authorised<B>(request: &Request<B>, key: &str) -> bool {
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let Some(given) = given.strip_prefix(b"Bearer ") else { return false };
    // Every byte is looked at, so that the time taken does not tell how many were right.
    given.len() == key.len() && given.iter().zip(key.as_bytes()).fold(0, |d, (a, b)| d | (a ^ b)) == 0
}

/// Memory of this process and of its machine, where the system tells.
struct Memory {
    resident: Option<u64>,
    machine_total: Option<u64>,
    machine_available: Option<u64>,
}

impl Memory {
    fn now() -> Self {
        use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};
        let Ok(mut system) = System::new() else {
            return Self { resident: None, machine_total: None, machine_available: None };
        };
        system.refresh_memory();
        let pid = sysinfo::Pid::from_u32(std::process::id());
        let kind = ProcessRefreshKind::nothing().with_memory().without_tasks();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
        Self {
            resident: system.process(pid).map(sysinfo::Process::memory),
            machine_total: Some(system.total_memory()),
            machine_available: Some(system.available_memory()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let builder = headers.iter().fold(Request::builder(), |b, (k, v)| b.header(*k, *v));
        builder.body(()).unwrap()
    }

    #[test]
    fn only_loopback_names_are_served() {
        for good in ["127.0.0.1:8", "127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:9", "127.9.9.9:1"] {
            assert!(names_loopback(&request(&[("host", good)])), "{good}");
        }
        for bad in ["evil.example", "127.0.0.1.evil.example:80", "10.0.0.1:1", "localhost.evil.example", "", "[::2]:1"]
        {
            assert!(!names_loopback(&request(&[("host", bad)])), "{bad}");
        }
        assert!(!names_loopback(&request(&[])));
    }

    #[test]
    fn the_key_must_be_the_whole_key() {
        let key = "0123456789abcdef";
        assert!(authorised(&request(&[("authorization", "Bearer 0123456789abcdef")]), key));
        for bad in ["Bearer 0123456789abcdee", "Bearer 0123456789abcde", "Basic 0123456789abcdef", "Bearer ", ""] {
            assert!(!authorised(&request(&[("authorization", bad)]), key), "{bad}");
        }
        assert!(!authorised(&request(&[]), key));
    }

    #[test]
    fn memory_is_told_on_this_machine() {
        assert!(Memory::now().resident.is_some_and(|bytes| bytes > 1024 * 1024));
    }
}
