//! Strangers at every port: random, oversized and truncated bytes. The cluster goes on undisturbed.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use common::service::Service;
use common::{Folder, Paceline};
use rand::{RngExt, SeedableRng, rngs::StdRng};

fn mesh_port(p: &Paceline) -> SocketAddr {
    let all = p.runtime["mesh"].as_array().expect("addresses");
    let tcp = all.iter().filter_map(|a| a.as_str()).find(|a| a.contains("/tcp/")).expect("TCP");
    let words: Vec<&str> = tcp.split('/').collect();
    format!("{}:{}", words[2], words[4]).parse().expect("address")
}

/// Sends bytes in pieces; the other side may close whenever it likes.
fn throw(address: SocketAddr, bytes: &[u8]) {
    if let Ok(mut s) = TcpStream::connect(address) {
        let _ = s.set_write_timeout(Some(Duration::from_secs(2)));
        let _ = s.set_read_timeout(Some(Duration::from_millis(50)));
        let _ = s.write_all(bytes);
        let _ = s.read(&mut [0; 1024]);
    }
}

fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|v| v.parse::<u64>().ok()).expect("number") / 1024
}

#[test]
fn bytes_of_strangers_do_no_harm() {
    let folder = Folder::new();
    let notes = Service::echo("notes");
    let up = Paceline::start("up", &folder.path("up"), &[]);
    let node = Paceline::start(
        "node",
        &folder.path("n"),
        &["--name", "n", "--join", &up.join_token(), "--service", &format!("notes={}", notes.url())],
    );
    up.wait_healthy("notes", 1);
    let (before_up, before_node) = (resident_mib(up.pid()), resident_mib(node.pid()));

    let mut rng = StdRng::seed_from_u64(7);
    let mut random = |n: usize| {
        let mut v = vec![0; n];
        rng.fill(&mut v[..]);
        v
    };
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let data: SocketAddr = node.runtime["data"].as_str().expect("data").parse().expect("address");
    let data_up: SocketAddr = up.runtime["data"].as_str().expect("data").parse().expect("address");
    let http: SocketAddr = up.runtime["http"].as_str().expect("http").parse().expect("address");
    // a QUIC long header of an unknown version, and a plausible Initial, truncated
    let long_header = [&[0xc0, 0xff, 0, 0, 1, 8][..], &[1; 8], &[8], &[2; 8], &[0; 1180]].concat();
    let initial = [&[0xc3, 0, 0, 0, 1, 8][..], &[1; 8], &[0], &[0], &[0x44, 0x9e], &[7; 100]].concat();
    for round in 0..40 {
        for target in [mesh_port(&up), mesh_port(&node), data, data_up] {
            for size in [1, 19, 1200, 1472, 60_000] {
                let _ = udp.send_to(&random(size), target);
            }
            let _ = udp.send_to(&long_header, target);
            let _ = udp.send_to(&initial, target);
        }
        for target in [mesh_port(&up), mesh_port(&node)] {
            throw(target, &random(1 + round * 97));
            throw(target, b"\x13/multistream/1.0.0\n\x07/noise\n");
            throw(target, &[0xff; 64]);
        }
        throw(http, &random(512));
        throw(http, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999999999999\r\n\r\n");
        throw(
            http,
            b"POST /api/service/notes/x HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        );
        throw(http, b"GET /api/service/notes/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    }
    throw(mesh_port(&up), &random(1 << 20));
    throw(http, &[b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ".as_slice(), &vec![b'a'; 1 << 20], b"\r\n\r\n"].concat());
    throw(http, &[b"GET /".as_slice(), &vec![b'a'; 1 << 20], b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"].concat());
    let many: Vec<u8> = (0..5000).flat_map(|i| format!("X-{i}: y\r\n").into_bytes()).collect();
    throw(http, &[b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n".as_slice(), &many, b"\r\n"].concat());

    // connections that never speak are not waited for by anybody else
    let silent: Vec<TcpStream> = (0..100).filter_map(|_| TcpStream::connect(mesh_port(&up)).ok()).collect();
    assert_eq!(up.get("/api/service/notes/x").text(), "notes GET /x ");
    let late = Service::echo("late");
    let joiner = Paceline::start(
        "node",
        &folder.path("late"),
        &["--name", "late", "--join", &up.join_token(), "--service", &format!("late={}", late.url())],
    );
    up.wait_healthy("late", 1);
    drop(silent);

    assert_eq!(up.worker("n").expect("member")["status"], "healthy");
    let (after_up, after_node) = (resident_mib(up.pid()), resident_mib(node.pid()));
    assert!(after_up < before_up + 64, "{before_up} -> {after_up} MiB");
    assert!(after_node < before_node + 64, "{before_node} -> {after_node} MiB");
    for p in [joiner, node, up] {
        assert!(p.terminate().success());
    }
}

#[test]
fn callers_through_a_proxy_need_a_key() {
    let folder = Folder::new();
    let docs = folder.with_file("docs", "a.txt", b"a");
    let up = Paceline::start("up", &folder.path("up"), &["--serve", &format!("files={docs}")]);
    let url = format!("{}/api/service/files/a.txt", up.http());
    let key = format!("Bearer {}", up.admin_key());
    let strangers: [&[(&str, &str)]; 6] = [
        &[("host", "example.org")],
        &[("x-forwarded-for", "203.0.113.9")],
        &[("forwarded", "for=203.0.113.9")],
        &[("cf-connecting-ip", "203.0.113.9")],
        &[("origin", "https://example.org")],
        &[("host", "127.0.0.1.example.org")],
    ];
    for headers in strangers {
        let refused = common::get_with(&url, headers).expect("answer");
        assert_eq!(refused.status, 401, "{headers:?}");
        assert!(refused.json()["error"].as_str().is_some_and(|e| !e.contains(&key)), "{}", refused.text());
        let mut with_key = headers.to_vec();
        with_key.push(("authorization", &key));
        assert_eq!(common::get_with(&url, &with_key).expect("answer").status, 200, "{headers:?}");
        let wrong = [headers, &[("authorization", "Bearer wrong")]].concat();
        assert_eq!(common::get_with(&url, &wrong).expect("answer").status, 401, "{headers:?}");
    }
    // making tokens always needs the key, on loopback too
    let tokens = format!("{}/api/admin/tokens", up.http());
    let refused = common::post(&tokens, b"{}", &[("content-type", "application/json")]).expect("answer");
    assert!([401, 403].contains(&refused.status), "{}", refused.status);
}
