//! Bytes that no member would send, at the mesh port: the node lives on, and so does its cluster.

mod cluster_support;

use std::{future::Future as _, net::SocketAddr, time::Duration};

use cluster_support::{Machine, SOON, converged, founder, service, token, until};
use libp2p::{
    Transport as _,
    core::{
        Endpoint,
        muxing::StreamMuxerExt as _,
        transport::{DialOpts, PortUse},
        upgrade::Version,
    },
};
use paceline_mesh::Mesh;
use paceline_proto::id::Role;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};

/// The TCP port and the UDP port are one number.
fn mesh_port(mesh: &Mesh) -> SocketAddr {
    let address = &mesh.mesh_addresses()[0];
    let port = address.split('/').nth(4).and_then(|p| p.parse().ok()).expect("a port");
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
    .take(length)
    .collect()
}

/// Writes, and reads until the node closes; true where it did in time.
async fn throw_at(address: SocketAddr, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let _ = stream.write_all(bytes).await;
    let mut rest = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_oversized_and_truncated_bytes_leave_the_cluster_working() {
    let (_a, gateway) = founder("gateway").await;
    let address = mesh_port(&gateway);
    let token = token(&gateway, &[Role::Worker]).await;

    let hello = b"\x13/multistream/1.0.0\n\x07/noise\n".to_vec();
    let mut oversized = hello.clone();
    oversized.extend_from_slice(&[0xff, 0xff]);
    oversized.extend(noise(1 << 20, 7));
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    let thrown = [noise(1, 1), noise(64, 2), noise(100_000, 3), hello[..9].to_vec(), hello, oversized, http, vec![]];
    let closed = futures::future::join_all(thrown.iter().map(|bytes| throw_at(address, bytes))).await;
    assert_eq!(closed, vec![true; thrown.len()], "a connection without admission is closed");

    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    for (seed, length) in [(1, 1), (2, 20), (3, 1200), (4, 1472), (5, 9000), (6, 60_000)] {
        socket.send_to(&noise(length, seed), address).await.expect("sent");
        let mut initial = noise(length, seed);
        // the first byte of a QUIC Initial, version 1, then noise
        initial.splice(0..5.min(length), [0xc0, 0, 0, 0, 1].into_iter().take(length));
        socket.send_to(&initial, address).await.expect("sent");
    }

    let worker = Machine::worker("n2").joining(&token).start().await;
    worker.offer(vec![service("notes")]).expect("a service");
    converged(&[&gateway, &worker]).await;
    until(&gateway, SOON, "the service", |view| view.services.contains_key("notes")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_never_speak_do_not_keep_newcomers_out() {
    let (_a, gateway) = founder("gateway").await;
    let address = mesh_port(&gateway);
    let token = token(&gateway, &[Role::Worker]).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(address).await.expect("a connection"));
    }
    let worker = Machine::worker("n2").joining(&token).start().await;
    converged(&[&gateway, &worker]).await;
    let mut closed = 0;
    for stream in &mut silent {
        if tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0; 64])).await.is_ok() {
            closed += 1;
        }
    }
    assert_eq!(closed, silent.len());
}

/// Speaks Noise and Yamux, and then these bytes where the door expects a hello; true where the node ends it in time.
async fn rubbish_at_the_door(address: SocketAddr, bytes: Vec<u8>) -> bool {
    let keypair = libp2p::identity::Keypair::generate_ed25519();
    let mut transport = libp2p::tcp::tokio::Transport::default()
        .upgrade(Version::V1)
        .authenticate(libp2p::noise::Config::new(&keypair).expect("a configuration"))
        .multiplex(libp2p::yamux::Config::default())
        .boxed();
    let address = format!("/ip4/{}/tcp/{}", address.ip(), address.port()).parse().expect("a multiaddr");
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let (_, mut muxer) = transport.dial(address, options).expect("a dial").await.expect("a connection");
    let mut stream = std::future::poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await.expect("a stream");
    let spoken = async move {
        let _ = futures::AsyncWriteExt::write_all(&mut stream, &bytes).await;
        let _ = futures::AsyncWriteExt::flush(&mut stream).await;
        // held open: only the node can end this
        std::future::pending::<()>().await;
    };
    let mut spoken = Box::pin(spoken);
    let ended = std::future::poll_fn(|cx| {
        let _ = spoken.as_mut().poll(cx);
        while let std::task::Poll::Ready(event) = muxer.poll_unpin(cx) {
            if event.is_err() {
                return std::task::Poll::Ready(());
            }
        }
        while let std::task::Poll::Ready(Ok(stream)) = muxer.poll_inbound_unpin(cx) {
            drop(stream);
        }
        std::task::Poll::Pending
    });
    tokio::time::timeout(SOON, ended).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_at_the_door_ends_the_connection_and_nothing_else() {
    let (_a, gateway) = founder("gateway").await;
    let address = mesh_port(&gateway);
    let framed = |payload: Vec<u8>| {
        let mut frame = u32::try_from(payload.len()).expect("short").to_be_bytes().to_vec();
        frame.extend(payload);
        frame
    };
    let mut claims_much = u32::MAX.to_be_bytes().to_vec();
    claims_much.extend(noise(100_000, 1));
    let thrown = [
        vec![],
        vec![0, 0],
        claims_much,
        framed(noise(200, 2)),
        // of another version of the wire format
        framed(std::iter::once(9).chain(noise(200, 3)).collect()),
        // the right version, then noise
        framed(std::iter::once(1).chain(noise(16_000, 4)).collect()),
        framed(noise(500, 5))[..300].to_vec(),
    ];
    let ended = futures::future::join_all(thrown.iter().map(|bytes| rubbish_at_the_door(address, bytes.clone()))).await;
    assert_eq!(ended, vec![true; thrown.len()]);

    let worker = Machine::worker("n2").joining(&token(&gateway, &[Role::Worker]).await);
    let worker = worker.start().await;
    converged(&[&gateway, &worker]).await;
    assert_eq!(gateway.view().members.len(), 2, "nobody came in");
}
