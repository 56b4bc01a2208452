//! One data port, and an endpoint for each lane behind it.
//!
//! A connection that lives on another thread than the endpoint that receives for it costs two wake-ups a request. So each
//! lane has a socket of its own, all bound to the same port (`SO_REUSEPORT`), and the kernel finds the lane of a datagram
//! by the first byte of its destination connection id: ours tell the lane that made them, and a client chooses its first
//! one such that its lanes spread over those of the server. A peer whose address changes stays on its lane: the address
//! is not looked at. Where the system has no such thing, one endpoint receives for all lanes.

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use quinn::{
    AsyncUdpSocket, ClientConfig, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, ServerConfig,
    UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
};

use super::Lanes;

/// What both buffers of a socket are asked to hold; the system may grant less.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Between two tries to send where the system has neither room nor a descriptor to watch for it.
const SEND_PAUSE: Duration = Duration::from_millis(1);
/// Length of our connection ids.
const CID_BYTES: usize = 8;
/// Length of the id that a client chooses for its first packets (RFC 9000, 7.2: at least 8).
const INITIAL_CID_BYTES: usize = 20;

/// An endpoint for each lane on one port; a single one where the system cannot share it.
pub(super) fn share(socket: UdpSocket, server: &ServerConfig, lanes: &Lanes) -> io::Result<Vec<Endpoint>> {
    let sockets = spread(socket, lanes.count());
    let of = sockets.len();
    let endpoint = |(lane, socket)| endpoint(socket, Some(server.clone()), lanes.handle(lane), Cids::new(lane, of));
    sockets.into_iter().enumerate().map(endpoint).collect()
}

/// An endpoint without a server, on a port of its own.
pub(super) fn client(address: SocketAddr, lane: &Handle) -> io::Result<Endpoint> {
    endpoint(UdpSocket::bind(address)?, None, lane, Cids::new(0, 1))
}

/// The configuration by which a client's lane reaches one lane of the server: the same number leads to the same lane.
pub(super) fn toward(config: &ClientConfig, number: u8) -> ClientConfig {
    let mut config = config.clone();
    config.initial_dst_cid_provider(Arc::new(move || {
        let mut id: [u8; INITIAL_CID_BYTES] = rand::random();
        id[0] = number;
        ConnectionId::new(&id)
    }));
    config
}

fn endpoint(socket: UdpSocket, server: Option<ServerConfig>, lane: &Handle, cids: Cids) -> io::Result<Endpoint> {
    let buffers = SockRef::from(&socket);
    // Best effort: the system's own limits count.
    let _ = buffers.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = buffers.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    let mut config = EndpointConfig::default();
    config.cid_generator(move || Box::new(cids));
    let _entered = lane.enter();
    let socket = Arc::new(LaneSocket::new(socket)?);
    Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(quinn::TokioRuntime))
}

/// `count` sockets on the port of one, or that one alone.
fn spread(socket: UdpSocket, count: usize) -> Vec<UdpSocket> {
    let first = match socket.try_clone() {
        Ok(first) if count > 1 => first,
        _ => return vec![socket],
    };
    match group(first, count) {
        Ok(sockets) => sockets,
        Err(error) => {
            tracing::debug!(%error, "the data port cannot be shared by the lanes: one receives for all");
            vec![socket]
        }
    }
}

/// The first socket was bound without `SO_REUSEPORT`, so that a port that another process holds was refused; it takes
/// the others in from here on.
#[cfg(target_os = "linux")]
fn group(first: UdpSocket, count: usize) -> io::Result<Vec<UdpSocket>> {
    let address = first.local_addr()?;
    SockRef::from(&first).set_reuse_port(true)?;
    let mut sockets = vec![first];
    while sockets.len() < count {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(SockRef::from(&sockets[0]).only_v6()?)?;
        }
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        sockets.push(socket.into());
    }
    steer(&sockets[0], count)?;
    Ok(sockets)
}

#[cfg(not(target_os = "linux"))]
fn group(_: UdpSocket, _: usize) -> io::Result<Vec<UdpSocket>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives the sockets' group a classic BPF program that reads the datagram and answers with the index of a socket, in the
/// order in which they were bound (socket(7), `SO_ATTACH_REUSEPORT_CBPF`).
#[cfg(target_os = "linux")]
fn steer(first: &UdpSocket, count: usize) -> io::Result<()> {
    use nix::{
        libc::{
            BPF_ABS, BPF_ALU, BPF_B, BPF_JA, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MOD, BPF_RET, sock_filter,
            sock_fprog,
        },
        sys::socket::{SetSockOpt as _, sockopt::AttachReusePortCbpf},
    };
    /// `BPF_RET` with the accumulator.
    const BPF_A: u32 = 0x10;
    /// First bit of a long header (RFC 9000, 17.2): version and length of the destination's id come before the id.
    const LONG_HEADER: u32 = 0x80;
    const ID_AFTER_LONG_HEADER: u32 = 6;
    const ID_AFTER_SHORT_HEADER: u32 = 1;
    let code = |bits: u32| u16::try_from(bits).unwrap_or_default();
    let step = |bits, k| sock_filter { code: code(bits), jt: 0, jf: 0, k };
    let of = u32::try_from(count).map_err(io::Error::other)?;
    let mut program = [
        step(BPF_LD | BPF_B | BPF_ABS, 0),
        sock_filter { code: code(BPF_JMP | BPF_JSET | BPF_K), jt: 0, jf: 2, k: LONG_HEADER },
        step(BPF_LD | BPF_B | BPF_ABS, ID_AFTER_LONG_HEADER),
        step(BPF_JMP | BPF_JA, 1),
        step(BPF_LD | BPF_B | BPF_ABS, ID_AFTER_SHORT_HEADER),
        step(BPF_ALU | BPF_MOD | BPF_K, of),
        step(BPF_RET | BPF_A, 0),
    ];
    let program = sock_fprog { len: code(7), filter: program.as_mut_ptr() };
    AttachReusePortCbpf.set(first, &program).map_err(io::Error::from)
}

/// Connection ids that tell their lane by the first byte. An observer learns that much, and nothing else.
#[derive(Clone, Copy, Debug)]
struct Cids {
    lane: u8,
    of: u8,
}

impl Cids {
    fn new(lane: usize, of: usize) -> Self {
        let small = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        Self { lane: small(lane), of: small(of).max(1) }
    }
}

impl ConnectionIdGenerator for Cids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id: [u8; CID_BYTES] = rand::random();
        // The whole rounds of `of` that a byte holds: each as likely as the others.
        let rounds = (u16::from(u8::MAX) + 1) / u16::from(self.of);
        let round = u8::try_from(u16::from(id[0]) % rounds).unwrap_or_default();
        id[0] = round * self.of + self.lane;
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A UDP socket on a lane. Against quinn's own it saves a system call for each batch of datagrams (a batch that is not
/// full has emptied the socket, and a later datagram is a new event), and a wake-up for each that is sent: the system
/// tells of room to send whenever a datagram has left, which is of interest only to who found none.
struct LaneSocket {
    io: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    /// The last datagram found no room.
    full: AtomicBool,
}

impl LaneSocket {
    fn new(socket: UdpSocket) -> io::Result<Self> {
        // Sets it to non-blocking, among other things.
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { io: watch(socket, Interest::READABLE)?, state, full: AtomicBool::new(false) })
    }
}

#[expect(deprecated, reason = "its successor is unsafe, for types that lie about their descriptor: std's does not")]
fn watch(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    AsyncFd::with_interest(socket, interest)
}

impl LaneSocket {
    /// Resolves when there is room for another datagram. Watched on a descriptor of its own, and only for so long.
    async fn writable(&self) -> io::Result<()> {
        match self.io.get_ref().try_clone().and_then(|socket| watch(socket, Interest::WRITABLE)) {
            Ok(watched) => watched.writable().await.map(drop),
            // No descriptor is free: no event tells, and the connection need not end for it.
            Err(_) => {
                tokio::time::sleep(SEND_PAUSE).await;
                Ok(())
            }
        }
    }
}

impl fmt::Debug for LaneSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LaneSocket").field(&self.io.get_ref()).finish()
    }
}

impl AsyncUdpSocket for LaneSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send(self.io.get_ref().into(), transmit);
        if let Err(error) = &sent
            && error.kind() == io::ErrorKind::WouldBlock
        {
            self.full.store(true, Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            match ready.try_io(|io| self.state.recv(io.get_ref().into(), buffers, meta)) {
                Ok(received) => {
                    if received.as_ref().is_ok_and(|count| *count < buffers.len()) {
                        ready.clear_ready();
                    }
                    return Poll::Ready(received);
                }
                Err(_would_block) => {}
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// One connection's wait until the socket takes more.
struct Writable {
    socket: Arc<LaneSocket>,
    waiting: Option<Waiting>,
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writable")
    }
}

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let socket = &this.socket;
        // Asked before each datagram: there is room until one has found none.
        if this.waiting.is_none() && !socket.full.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let waiting = this.waiting.get_or_insert_with(|| {
            let socket = socket.clone();
            Box::pin(async move { socket.writable().await })
        });
        let writable = ready!(waiting.as_mut().poll(cx));
        this.waiting = None;
        this.socket.full.store(false, Relaxed);
        Poll::Ready(writable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_ids_tell_their_lane() {
        for of in 1..=16 {
            for lane in 0..of {
                let mut cids = Cids::new(lane, of);
                let ids: Vec<_> = (0..64).map(|_| cids.generate_cid()).collect();
                assert!(
                    ids.iter().all(|id| id.len() == CID_BYTES && usize::from(id[0]) % of == lane),
                    "{lane} of {of}"
                );
                assert!(ids.windows(2).all(|two| two[0] != two[1]));
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_finds_the_lane_by_the_connection_id() {
        let first = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let to = first.local_addr().expect("an address");
        let sockets = group(first, 3).expect("a group");
        for socket in &sockets {
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        }
        let lane_of = |datagram: &[u8]| {
            // A new socket each time: another source port must lead to the same lane.
            UdpSocket::bind("127.0.0.1:0").expect("a socket").send_to(datagram, to).expect("sent");
            let waits = |socket: &UdpSocket| {
                socket.set_nonblocking(true).expect("set");
                socket.recv(&mut [0; 64]).is_ok()
            };
            sockets.iter().position(waits).expect("delivered to somebody on loopback at once")
        };
        for id in 0..=255u8 {
            let long = [0xc0, 0, 0, 0, 1, 20, id, 7, 7, 7];
            assert_eq!(lane_of(&long), usize::from(id) % 3, "long header");
            assert_eq!(lane_of(&[0x40, id, 9, 9, 9, 9, 9, 9, 9]), usize::from(id) % 3, "short header");
        }
        assert_eq!(lane_of(&[0x40]), 0, "a stub is nobody's: the first socket drops it");
        let other = UdpSocket::bind(to).expect_err("the port is ours");
        assert_eq!(other.kind(), io::ErrorKind::AddrInUse);
    }
}
