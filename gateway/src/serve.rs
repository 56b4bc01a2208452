//! Accepting connections on a lane, and their life: idle, active, parked, and the order of the end.

mod http2;

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use http::{HeaderValue, StatusCode, header::CONNECTION};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::Semaphore,
    time::{MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{callers::Peer, cluster::Cluster, front, lane::Lane, socket::Socket};

/// Most header fields of a request.
const HEADERS_MAX: usize = 100;
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most bytes that hyper buffers in each direction of a connection.
const BUFFER_BYTES_MAX: usize = 128 * 1024;
/// A connection gives its buffers back when it has idled for one to two of these.
const PARK_AFTER: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 250 });
/// How many looks (30 s) a client that was told of the close has to read what was sent to it.
const CLOSE_LOOKS_MAX: u32 = 120;
/// How long a client that idles when the gateway stops may still send what it has on its way.
const LINGER: Duration = Duration::from_secs(1);
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// Between two warnings that connections cannot be accepted.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// Between two tries to accept where the process is out of descriptors: no event tells that one is free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How the gateway ends: `stop` ends idle connections and lets requests finish, `kill` ends the rest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    stop: CancellationToken,
    kill: CancellationToken,
    tasks: TaskTracker,
}

impl Life {
    /// A lane's own tokens: a shared one would make every wake-up of a connection take one lock for all lanes.
    fn of_lane(&self) -> Self {
        Self { stop: self.stop.child_token(), kill: self.kill.child_token(), tasks: self.tasks.clone() }
    }

    /// Owns a task that must end with the gateway.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let kill = self.kill.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = kill.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Owns a task that is no request's: the end does not wait for it.
    pub(crate) fn spawn_aside(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Whether no new request is taken.
    pub(crate) fn is_ending(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(crate) async fn end(&self, grace: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::info!(open = self.tasks.len(), "closing what did not end within the grace period");
        }
        self.kill.cancel();
        self.tasks.wait().await;
    }
}

/// Serves a listener on a lane's runtime.
pub(crate) fn spawn<C: Cluster>(
    runtime: &Handle,
    mut lane: Lane<C>,
    socket: std::net::TcpListener,
    life: &Life,
) -> std::io::Result<()> {
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(socket)?
    };
    let life = life.of_lane();
    lane.life = life.clone();
    let lane = Arc::new(lane);
    let tasks = life.tasks.clone();
    tasks.spawn_on(accept(lane, listener, life), runtime);
    Ok(())
}

async fn accept<C: Cluster>(lane: Arc<Lane<C>>, listener: TcpListener, life: Life) {
    let limits = lane.shared.house.callers.limits();
    // Further ones wait in the kernel, which spreads connections evenly over the lanes.
    let places = usize::try_from(limits.max_connections).unwrap_or(usize::MAX).div_ceil(lane.shared.stats.len().max(1));
    let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
    let http = Arc::new(settings(limits.header_timeout));
    let (mut warned, mut failures) = (None::<Instant>, 0u32);
    let mut stop = pin!(life.stop.cancelled());
    loop {
        let place = tokio::select! {
            () = &mut stop => return,
            place = places.clone().acquire_owned() => place,
        };
        let Ok(place) = place else { return };
        let accepted = tokio::select! {
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(held) = lane.shared.house.callers.hold(peer.ip(), Instant::now()) else { continue };
                let (lane, http, life) = (lane.clone(), http.clone(), life.clone());
                let tasks = life.tasks.clone();
                tasks.spawn(async move {
                    lane.stats.connections.fetch_add(1, Relaxed);
                    connection(&lane, &http, stream, peer, &life).await;
                    lane.stats.connections.fetch_sub(1, Relaxed);
                    drop((place, held));
                });
            }
            Err(error) => {
                failures += 1;
                if warned.is_none_or(|at| at.elapsed() > WARN_EVERY) {
                    tracing::warn!(%error, failures, "cannot accept connections");
                    (warned, failures) = (Some(Instant::now()), 0);
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn settings(header_timeout: Duration) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX);
    http
}

/// A connection from its first byte to its end: parked until bytes come, then active until it idles again.
async fn connection<C: Cluster>(
    lane: &Arc<Lane<C>>,
    http: &http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    life: &Life,
) {
    // Without it a small response waits for the client's delayed acknowledgement; a socket that refuses is closing.
    let _ = stream.set_nodelay(true);
    let callers = &lane.shared.house.callers;
    let wrapped = tokio::select! {
        () = lingered(life) => None,
        wrapped = callers.wrap(stream, peer.ip()) => wrapped,
    };
    let Some((stream, encrypted)) = wrapped else { return };
    let peer = Peer { ip: peer.ip(), encrypted };
    let mut socket = Socket::new(stream);
    let mut is_new = true;
    loop {
        let parked = lane.stats.park();
        let spoke = tokio::select! {
            () = lingered(life) => false,
            spoke = timeout(callers.limits().idle_timeout, socket.hears()) => spoke.unwrap_or(false),
        };
        drop(parked);
        if !spoke {
            return;
        }
        if std::mem::take(&mut is_new) && socket.may_speak_h2() {
            // Boxed, as all is that a parked connection's task does not need.
            let speaks = Box::pin(timeout(callers.limits().header_timeout, socket.speaks_h2()));
            let speaks_h2 = tokio::select! {
                () = lingered(life) => return,
                speaks = speaks => speaks.unwrap_or(false),
            };
            if speaks_h2 {
                return Box::pin(http2::serve(lane.clone(), socket, peer, life)).await;
            }
        }
        // Boxed, so that a parked connection's task is small.
        match Box::pin(active(lane.clone(), http, socket, peer, life)).await {
            Some(parked) => socket = parked,
            None => return,
        }
    }
}

/// Resolves when the gateway stops and what was on its way has had its time.
async fn lingered(life: &Life) {
    life.stop.cancelled().await;
    sleep(LINGER).await;
}

/// Lets hyper serve until the connection ends (`None`), or idles.
async fn active<C: Cluster>(
    lane: Arc<Lane<C>>,
    http: &http1::Builder,
    socket: Socket,
    peer: Peer,
    life: &Life,
) -> Option<Socket> {
    let activity = socket.activity();
    let requests = activity.clone();
    let ending = life.stop.clone();
    let service = service_fn(move |request| {
        let pending = requests.begin(&request);
        let (lane, ending, notes) = (lane.clone(), ending.clone(), requests.clone());
        async move {
            let mut response = front::serve(&lane, peer, request).await;
            if ending.is_cancelled() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, CLOSE);
            }
            if response.headers().get(CONNECTION) == Some(&CLOSE) {
                notes.tell_close();
            }
            Ok::<_, Infallible>(response.map(|body| body.hold(pending)))
        }
    });
    let mut connection = http.serve_connection(TokioIo::new(socket), service).with_upgrades();
    let mut look = interval_at(tokio::time::Instant::now() + PARK_AFTER, PARK_AFTER);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop = pin!(life.stop.cancelled());
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut connection => break Some(ended),
            () = &mut stop => break None,
            _ = look.tick(), if !activity.is_parking() => {
                if activity.overstays(CLOSE_LOOKS_MAX) {
                    return None;
                }
                if activity.idled() {
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
        }
    };
    let Some(ended) = ended else {
        activity.unpark();
        // A request that is on its way is answered, with word to close; then hyper closes what idles.
        let orderly = async {
            if let Ok(ended) = timeout(LINGER, &mut connection).await {
                return ended;
            }
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        };
        tokio::select! {
            ended = orderly => drop(note_end(ended)),
            () = life.kill.cancelled() => {}
        }
        return None;
    };
    // Parked is only what has ended because this side said so, and in good order.
    if note_end(ended).is_err() || !activity.is_parking() {
        return None;
    }
    let parts = connection.into_parts()?;
    Some(parts.io.into_inner().again(parts.read_buf))
}

fn note_end(ended: hyper::Result<()>) -> hyper::Result<()> {
    ended.inspect_err(|error| tracing::debug!(%error, "a client connection ended early"))
}
