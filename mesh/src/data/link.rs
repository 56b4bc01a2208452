//! A gateway lane's links: which connection leads to a node now, how a new one comes about, and the way of a request.
//!
//! A lane dials each node by itself, so that a request stays on its thread. A connection that the node has opened is
//! shared by all lanes; while it is the only one, the direct way is tried again in the background.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Request, Response};
use paceline_proto::id::{NodeId, ServiceName};
use quinn::{Connection, Endpoint};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    PathKind, SendError,
    connection::drive,
    dial::{Dialler, Peer, Race},
    exchange::{
        client::{CallError, Fault, Stream},
        reader::ReadFault,
    },
    plane::{Core, first_byte},
    port,
    transport::{code, ended},
};
use crate::http::{
    Body,
    pool::{Pool, PoolLimits},
};

/// From the wish for a connection to giving up.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Without a direct connection after this, the node is asked to dial back.
pub const DIRECT_PATIENCE: Duration = Duration::from_millis(300);

/// For a free stream on an open connection.
const STREAM_TIMEOUT: Duration = Duration::from_secs(3);

/// Between two tries of the direct way while the reverse one works: the first, doubled up to the last.
const DIRECT_RETRY_MIN: Duration = Duration::from_secs(5);
const DIRECT_RETRY_MAX: Duration = Duration::from_secs(600);

/// How often a request goes out again when its stream turned out closed before anything was sent.
const ATTEMPTS: usize = 4;

/// Streams of one connection that wait for requests, on each lane. The node closes a stream after two idle minutes.
const STREAMS: PoolLimits = PoolLimits {
    idle_max: 512,
    idle_age_max: Duration::from_secs(30),
    open_max: super::transport::STREAMS_MAX as usize,
};

/// One connection as a lane uses it.
pub(super) struct Hop {
    connection: Connection,
    kind: PathKind,
    streams: Arc<Pool<Stream>>,
    /// Held by every stream too: when the last is gone, the connection that this lane dialled is closed.
    lease: Option<Arc<DropGuard>>,
}

enum OpenError {
    /// The connection is gone.
    Lost(String),
    /// Every stream is at work.
    Busy,
}

impl Hop {
    async fn stream(&self) -> Result<Stream, OpenError> {
        if let Some(stream) = self.streams.take() {
            return Ok(stream);
        }
        let lost = |error: quinn::ConnectionError| OpenError::Lost(super::transport::words(&error));
        let mut opening = pin!(self.connection.open_bi());
        let halves = match futures::poll!(opening.as_mut()) {
            std::task::Poll::Ready(halves) => halves.map_err(lost)?,
            std::task::Poll::Pending => {
                let either = async {
                    tokio::select! {
                        biased;
                        stream = self.streams.wait() => Ok(Err(stream)),
                        halves = opening => halves.map(Ok).map_err(lost),
                    }
                };
                match timeout(STREAM_TIMEOUT, either).await {
                    Ok(Ok(Ok(halves))) => halves,
                    Ok(Ok(Err(stream))) => return Ok(stream),
                    Ok(Err(error)) => return Err(error),
                    Err(_) => return Err(OpenError::Busy),
                }
            }
        };
        Ok(Stream::new(halves.0, halves.1, &self.streams, self.lease.clone()))
    }
}

type Outcome = Option<Result<Arc<Hop>, Arc<str>>>;

#[derive(Default)]
struct LinkState {
    direct: Option<Arc<Hop>>,
    reverse: Option<Arc<Hop>>,
    /// The registry's count when `reverse` was looked up.
    arrivals: u64,
    /// The dial in flight, which all requests await.
    dialling: Option<watch::Receiver<Outcome>>,
    /// A try of the direct way is in flight in the background.
    retrying: bool,
    retry_at: Option<Instant>,
    retry_after: Duration,
}

/// How a lane reaches one node.
struct Link {
    node: NodeId,
    state: Mutex<LinkState>,
    /// The control plane holds the node for dead or gone: who waits for a connection waits for nothing.
    gone: CancellationToken,
}

impl Link {
    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a connection that has turned out to be gone.
    fn lost(&self, hop: &Arc<Hop>) {
        let state = &mut *self.state();
        for slot in [&mut state.direct, &mut state.reverse] {
            if slot.as_ref().is_some_and(|held| Arc::ptr_eq(held, hop)) {
                *slot = None;
            }
        }
    }
}

/// The links of one lane.
pub(super) struct LaneLinks {
    lane: usize,
    core: Arc<Core>,
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
    links: Mutex<HashMap<NodeId, Arc<Link>>>,
}

impl LaneLinks {
    /// Binds the lane's own sockets, one for each address family that this machine has.
    pub(super) fn new(lane: usize, core: Arc<Core>) -> io::Result<Arc<Self>> {
        let runtime = core.lanes.handle(lane);
        let bind = |address: SocketAddr| port::client(address, runtime);
        let v4 = bind((Ipv4Addr::UNSPECIFIED, 0).into());
        let v6 = bind((Ipv6Addr::UNSPECIFIED, 0).into());
        let (v4, v6) = match (v4, v6) {
            (Err(error), Err(_)) => return Err(error),
            (v4, v6) => (v4.ok(), v6.ok()),
        };
        Ok(Arc::new(Self { lane, core, v4, v6, links: Mutex::default() }))
    }

    fn links(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self, node: NodeId) -> Arc<Link> {
        let new = || Arc::new(Link { node, state: Mutex::default(), gone: CancellationToken::new() });
        self.links().entry(node).or_insert_with(new).clone()
    }

    pub(super) fn forget(&self, node: NodeId) {
        if let Some(link) = self.links().remove(&node) {
            link.gone.cancel();
        }
    }

    pub(super) fn path(&self, node: NodeId) -> Option<(PathKind, Duration)> {
        let link = self.links().get(&node)?.clone();
        let state = link.state();
        let live = |hop: &&Arc<Hop>| hop.connection.close_reason().is_none();
        let hop = state.direct.as_ref().filter(live).or(state.reverse.as_ref().filter(live))?;
        Some((hop.kind, hop.connection.rtt()))
    }

    pub(super) fn close(&self, reason: &[u8]) {
        for endpoint in [&self.v4, &self.v6].into_iter().flatten() {
            endpoint.close(code::BYE, reason);
        }
    }

    pub(super) async fn send(
        self: &Arc<Self>,
        node: NodeId,
        service: &ServiceName,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let link = self.link(node);
        let mut reason = String::from("its streams break before they carry anything");
        for _ in 0..ATTEMPTS {
            let hop = match self.current(&link) {
                Some(hop) => hop,
                None => match self.connect(&link).await {
                    Ok(hop) => hop,
                    Err(error) => return Err(unreachable(error.as_ref().into(), request)),
                },
            };
            let stream = match hop.stream().await {
                Ok(stream) => stream,
                Err(OpenError::Busy) => return Err(unreachable("all its streams are busy".into(), request)),
                Err(OpenError::Lost(error)) => {
                    link.lost(&hop);
                    reason = error;
                    continue;
                }
            };
            match stream.call(&hop.streams, service, request).await {
                Ok(response) => return Ok(response),
                Err(CallError { fault, unsent: Some(unsent) }) => {
                    request = *unsent;
                    reason = fault.to_string();
                    match ended(&hop.connection) {
                        Some(_) => link.lost(&hop),
                        // The node ends all that idle at once.
                        None => hop.streams.clear(),
                    }
                }
                Err(CallError { fault, unsent: None }) => return Err(broken(&hop, fault)),
            }
        }
        Err(unreachable(reason, request))
    }

    /// The connection to use, and now and then a try for a better one.
    fn current(self: &Arc<Self>, link: &Arc<Link>) -> Option<Arc<Hop>> {
        let mut state = link.state();
        if let Some(hop) = &state.direct {
            return Some(hop.clone());
        }
        if state.reverse.is_none() || state.arrivals != self.core.registry.arrivals() {
            self.look_up_reverse(link.node, &mut state);
        }
        let hop = state.reverse.clone()?;
        if !state.retrying && state.retry_at.is_none_or(|at| at <= Instant::now()) {
            self.try_direct(link, &mut state);
        }
        Some(hop)
    }

    fn look_up_reverse(&self, node: NodeId, state: &mut LinkState) {
        state.arrivals = self.core.registry.arrivals();
        let Some(connection) = self.core.registry.reverse(node) else { return };
        let same = |hop: &Arc<Hop>| hop.connection.stable_id() == connection.stable_id();
        if !state.reverse.as_ref().is_some_and(same) {
            let streams = Pool::new(STREAMS);
            state.reverse = Some(Arc::new(Hop { connection, kind: PathKind::Reverse, streams, lease: None }));
        }
    }

    /// A connection, by the dial that is in flight or a new one. Who stops waiting does not stop the dial.
    async fn connect(self: &Arc<Self>, link: &Arc<Link>) -> Result<Arc<Hop>, Arc<str>> {
        let mut outcome = {
            let mut state = link.state();
            match state.dialling.as_ref().filter(|dial| dial.has_changed().is_ok()) {
                Some(dial) => dial.clone(),
                None => {
                    let (tell, outcome) = watch::channel(None);
                    state.dialling = Some(outcome.clone());
                    let (this, link) = (self.clone(), link.clone());
                    let establish = async move {
                        let result = this.establish(&link).await;
                        link.state().dialling = None;
                        tell.send_replace(Some(result));
                    };
                    self.core.tasks.spawn_on(establish, self.core.lanes.handle(self.lane));
                    outcome
                }
            }
        };
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err("this node is stopping".into())),
            Err(_) => Err("this node is stopping".into()),
        }
    }

    /// Races the node's addresses; asks it to dial back when that has not led to a connection after a moment, or
    /// cannot; whichever comes first is the link.
    async fn establish(self: &Arc<Self>, link: &Arc<Link>) -> Result<Arc<Hop>, Arc<str>> {
        let node = link.node;
        let mut race = self.race(node);
        let mut arrivals = self.core.registry.watch();
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let patience = Instant::now() + DIRECT_PATIENCE;
        let (mut asked, mut racing) = (false, true);
        loop {
            if self.core.registry.reverse(node).is_some() {
                let mut state = link.state();
                self.look_up_reverse(node, &mut state);
                if let Some(hop) = &state.reverse {
                    return Ok(hop.clone());
                }
            }
            tokio::select! {
                biased;
                winner = race.winner(), if racing => match winner {
                    Some(peer) => match self.adopt(peer) {
                        Ok(hop) => {
                            link.state().direct = Some(hop.clone());
                            return Ok(hop);
                        }
                        Err(reason) => return Err(reason.into()),
                    },
                    None => racing = false,
                },
                _ = arrivals.changed() => continue,
                () = link.gone.cancelled() => return Err("the node is dead, has left, or was started anew".into()),
                () = sleep_until(patience), if !asked => {}
                () = sleep_until(deadline) => {
                    return Err(format!("{}; and it did not dial back within {} s",
                        race.failures(), CONNECT_TIMEOUT.as_secs()).into());
                }
            }
            if !asked {
                asked = true;
                self.core.directory.ask_dial_back(node);
            }
        }
    }

    fn race(&self, node: NodeId) -> Race {
        let armed = self.core.armed.load();
        let dialler = Dialler {
            v4: self.v4.clone(),
            v6: self.v6.clone(),
            config: port::toward(&armed.dial, first_byte(&self.core.me, self.lane)),
            judge: armed.judge.clone(),
            node,
            name: node.dns_name(&self.core.cluster),
        };
        Race::new(dialler, self.core.directory.addresses(node))
    }

    /// Enters a connection that this lane has dialled, and drives it.
    fn adopt(&self, peer: Peer) -> Result<Arc<Hop>, String> {
        let Peer { connection, credential } = peer;
        let Some(registration) = self.core.registry.enter(&credential, &connection, false) else {
            connection.close(code::FULL, b"too many data connections");
            return Err("too many data connections".into());
        };
        // Revoked between the judgement and here.
        let judge = self.core.armed.load().judge.clone();
        if let Err(error) = judge(&connection) {
            connection.close(code::REFUSED, error.to_string().as_bytes());
            return Err(error.to_string());
        }
        let unused = CancellationToken::new();
        let lease = Some(Arc::new(unused.clone().drop_guard()));
        let hop = Hop { connection: connection.clone(), kind: PathKind::Direct, streams: Pool::new(STREAMS), lease };
        let driven = drive(self.core.clone(), self.lane, connection, credential, registration, unused);
        self.core.tasks.spawn_on(driven, self.core.lanes.handle(self.lane));
        Ok(Arc::new(hop))
    }

    /// Dials in the background; a direct connection takes the place of whatever the link has.
    fn try_direct(self: &Arc<Self>, link: &Arc<Link>, state: &mut LinkState) {
        state.retrying = true;
        let (this, link) = (self.clone(), link.clone());
        let attempt = async move {
            let mut race = this.race(link.node);
            let winner = timeout(CONNECT_TIMEOUT, race.winner()).await.ok().flatten();
            let hop = winner.and_then(|peer| this.adopt(peer).ok());
            let mut state = link.state();
            state.retrying = false;
            state.retry_after = (state.retry_after * 2).clamp(DIRECT_RETRY_MIN, DIRECT_RETRY_MAX);
            state.retry_at = Some(Instant::now() + state.retry_after);
            if let Some(hop) = hop {
                state.retry_after = Duration::ZERO;
                state.direct = Some(hop);
            }
        };
        self.core.tasks.spawn_on(attempt, self.core.lanes.handle(self.lane));
    }

    /// Dials every node anew, with the certificates of now; the old connections end with their last request.
    pub(super) fn renew(self: &Arc<Self>) {
        let links: Vec<_> = self.links().values().cloned().collect();
        for link in links {
            let mut state = link.state();
            if state.direct.is_some() && !state.retrying {
                self.try_direct(&link, &mut state);
            }
        }
    }
}

fn unreachable(reason: String, request: Request<Body>) -> SendError {
    SendError::Unreachable { reason, request: Box::new(request) }
}

fn broken(hop: &Hop, fault: Fault) -> SendError {
    if let Some(reason) = ended(&hop.connection) {
        return SendError::Broken { reason };
    }
    let reason = fault.to_string();
    // The other side gave up one of the stream's directions.
    let reset = match fault {
        Fault::Read(ReadFault::Lost(error)) => matches!(error, quinn::ReadError::Reset(_)),
        Fault::Write(fault) => fault.is_stopped(),
        Fault::Read(_) => false,
        Fault::Closed => true,
    };
    if reset { SendError::StreamReset { reason } } else { SendError::Broken { reason } }
}
