//! libp2p's transports behind the one door: TCP with Noise and Yamux, and QUIC, both with DNS names.
//!
//! TCP is dialled first, QUIC a moment later: a process that is killed shows at once on TCP, on QUIC only by silence.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId, Transport, TransportError,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent, timeout::TransportTimeout},
        upgrade::Version,
    },
    dns, identity, noise, quic, tcp, yamux,
};

use tokio::sync::Notify;

use super::addresses;
use super::door::{Door, Told};

/// Bound of a whole connection set-up, admission included: a TCP connection that never speaks ends here.
pub(crate) const SETUP: Duration = Duration::from_secs(10);
/// How long TCP has to win: its set-up takes some seven round trips, QUIC's four.
const QUIC_WAITS: Duration = Duration::from_secs(1);
/// How much longer QUIC waits where TCP has reached the peer and its set-up is only slow: one is dear enough.
const QUIC_WAITS_MORE: Duration = Duration::from_secs(3);
/// A TCP set-up that breaks this soon was ended by the other side.
const BROKEN_SOON: Duration = Duration::from_secs(1);
/// How long it is given to end altogether.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Peers that are remembered for that.
const REACHED_MAX: usize = 256;
/// QUIC's keep-alive keeps the mappings of NATs, most of which live for 30 s or more; who is silent is found by the
/// cores' probes, long before the connection ends by itself.
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(15);
const QUIC_IDLE_MS: u32 = 50_000;
/// Streams that a peer may have open at once.
const STREAMS_MAX: u32 = 256;

/// Builds the transport; every connection that it yields has passed the door.
pub(crate) fn build(keypair: &identity::Keypair, door: Arc<Door>) -> io::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let mut multiplexer = yamux::Config::default();
    multiplexer.set_max_num_streams(STREAMS_MAX as usize);
    let reached = Arc::<Reached>::default();
    let socket = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let tcp = Tcp { inner: socket, door: Arc::clone(&door), reached: Arc::clone(&reached) }
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair).map_err(io::Error::other)?)
        .multiplex(multiplexer)
        .map(|(peer, mux), _| (peer, StreamMuxerBox::new(mux)));
    let tcp = LookedAfter { inner: tcp, door: Arc::clone(&door), reached: Arc::clone(&reached) };
    let tried = Arc::clone(&reached);

    let mut config = quic::Config::new(keypair);
    config.keep_alive_interval = QUIC_KEEP_ALIVE;
    config.max_idle_timeout = QUIC_IDLE_MS;
    config.max_concurrent_stream_limit = STREAMS_MAX;
    let quic = Quic { inner: quic::tokio::Transport::new(config), reached }
        .map(|(peer, mux), _| (peer, StreamMuxerBox::new(mux)));

    let either = quic.or_transport(tcp).map(|either, _| either.into_inner()).boxed();
    let named = match dns::tokio::Transport::system(()) {
        Ok(_) => dns::tokio::Transport::system(either)?.boxed(),
        Err(e) => {
            tracing::warn!(error = %e, "the system's DNS settings cannot be read: entry addresses must be IPs");
            either
        }
    };
    let admitted = named.and_then(move |output: (PeerId, StreamMuxerBox), point| {
        let (peer, tried) = (output.0, Arc::clone(&tried));
        let admission = Arc::clone(&door).admit(output, point);
        async move { admission.await.inspect_err(|_| tried.remove(&peer)) }
    });
    Ok(TransportTimeout::new(admitted, SETUP).boxed())
}

/// Whom TCP has reached of late, and whose set-up has not failed since.
#[derive(Default)]
struct Reached {
    peers: Mutex<BTreeMap<PeerId, Instant>>,
    /// One of them is there no more.
    failed: Notify,
}

impl Reached {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, Instant>> {
        // each entry is written whole
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, peer: PeerId) {
        let mut reached = self.lock();
        if reached.len() >= REACHED_MAX {
            reached.retain(|_, at| at.elapsed() < SETUP);
        }
        if reached.len() < REACHED_MAX {
            reached.insert(peer, Instant::now());
        }
    }

    fn remove(&self, peer: &PeerId) {
        self.lock().remove(peer);
        self.failed.notify_waiters();
    }

    fn contains(&self, peer: &PeerId) -> bool {
        self.lock().get(peer).is_some_and(|at| at.elapsed() < SETUP)
    }

    /// Waits as long as the peer is among them.
    async fn gone(&self, peer: &PeerId) {
        loop {
            let mut failed = std::pin::pin!(self.failed.notified());
            failed.as_mut().enable();
            if !self.contains(peer) {
                return;
            }
            failed.await;
        }
    }
}

/// TCP that dials from a fresh port and tells when nobody listens.
///
/// A fixed source port would make two nodes that dial each other at once meet in one connection without a listener.
struct Tcp {
    inner: tcp::tokio::Transport,
    door: Arc<Door>,
    reached: Arc<Reached>,
}

/// QUIC that dials after TCP has had its chance.
struct Quic {
    inner: quic::tokio::Transport,
    reached: Arc<Reached>,
}

impl Transport for Tcp {
    type Output = <tcp::tokio::Transport as Transport>::Output;
    type Error = io::Error;
    type ListenerUpgrade = <tcp::tokio::Transport as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, Result<Self::Output, io::Error>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let (_, peer) = addresses::split_peer(address.clone());
        let dial = self.inner.dial(address, DialOpts { port_use: PortUse::New, ..options })?;
        let (told, reached) = (self.door.told.clone(), Arc::clone(&self.reached));
        Ok(async move {
            let result = dial.await;
            if let (Ok(_), Some(peer)) = (&result, peer) {
                reached.set(peer);
            }
            if let (Err(e), Some(peer)) = (&result, peer)
                && e.kind() == io::ErrorKind::ConnectionRefused
            {
                let _ = told.try_send(Told::NobodyThere { peer });
            }
            result
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// TCP set-ups that break are looked after: a process that is being killed still takes connections for a moment, and ends
/// them. Whether it was that shows a moment later, when nobody listens any more.
struct LookedAfter<T> {
    inner: T,
    door: Arc<Door>,
    reached: Arc<Reached>,
}

impl<T> Transport for LookedAfter<T>
where
    T: Transport + Unpin,
    T::Dial: Send + 'static,
    T::Output: Send + 'static,
    T::Error: Send + 'static,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = BoxFuture<'static, Result<T::Output, T::Error>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<T::Error>> {
        let (plain, peer) = addresses::split_peer(address.clone());
        let dial = self.inner.dial(address, options)?;
        let (told, reached) = (self.door.told.clone(), Arc::clone(&self.reached));
        Ok(async move {
            let begun = Instant::now();
            let result = dial.await;
            if let (Err(_), Some(peer)) = (&result, &peer) {
                reached.remove(peer);
            }
            if result.is_err()
                && begun.elapsed() < BROKEN_SOON
                && let (Some(peer), Some(socket)) = (peer, addresses::socket(&plain))
            {
                tokio::time::sleep(LOOK_AGAIN).await;
                let again = tokio::time::timeout(BROKEN_SOON, tokio::net::TcpStream::connect(socket)).await;
                if again.is_ok_and(|again| again.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)) {
                    let _ = told.try_send(Told::NobodyThere { peer });
                }
            }
            result
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

impl Transport for Quic {
    type Output = <quic::tokio::Transport as Transport>::Output;
    type Error = quic::Error;
    type ListenerUpgrade = <quic::tokio::Transport as Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, Result<Self::Output, quic::Error>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<quic::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<quic::Error>> {
        let (_, peer) = addresses::split_peer(address.clone());
        let dial = self.inner.dial(address, options)?;
        let reached = Arc::clone(&self.reached);
        Ok(async move {
            tokio::time::sleep(QUIC_WAITS).await;
            if let Some(peer) = peer {
                // The time is up, or the set-up over TCP has failed: either way it is QUIC's turn.
                let _ = tokio::time::timeout(QUIC_WAITS_MORE, reached.gone(&peer)).await;
            }
            dial.await
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}
