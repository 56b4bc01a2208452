//! Bytes that no member would send, at the mesh port: the node lives on, and so does its cluster.

mod cluster_support;

use std::{net::SocketAddr, time::Duration};

use cluster_support::{Machine, SOON, converged, founder, service, token, until};
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
