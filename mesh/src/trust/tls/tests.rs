//! Each kind of bad peer, dialled and dialling, over quinn on loopback.

use std::{net::SocketAddr, time::Duration};

use paceline_proto::id::NodeId;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{CertificateParams, SanType};

use super::*;
use crate::trust::authority::{
    Authority, new_key,
    tests::{DAY, NOW, forge, node_of, worker},
};

struct End {
    endpoint: quinn::Endpoint,
    node: NodeId,
    root: Root,
    clock: Clock,
}

impl End {
    /// Trusts `authority`, shows a chain of `by`, at most a changed one, at a clock that is this far ahead.
    fn new(
        authority: &Authority,
        by: Option<&Authority>,
        ahead: Duration,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let (key, root) = (new_key(), authority.root().clone());
        let clock = Clock::new(move || UnixSeconds(NOW.0 + ahead.as_secs()));
        let shown = Arc::new(Shown::new(&key).expect("a key"));
        if let Some(by) = by {
            shown.show(&forge(by, &worker(node_of(&key)), DAY, change));
        }
        let server = QuicServerConfig::try_from(server(&root, shown.clone(), &clock).expect("a configuration"));
        let server = quinn::ServerConfig::with_crypto(Arc::new(server.expect("suites")));
        let mut endpoint = quinn::Endpoint::server(server, SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
        let client = QuicClientConfig::try_from(client(&root, shown, &clock).expect("a configuration"));
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(client.expect("suites"))));
        Self { endpoint, node: node_of(&key), root, clock }
    }

    fn good(authority: &Authority) -> Self {
        Self::new(authority, Some(authority), Duration::ZERO, |_| ())
    }

    fn judge(&self, connection: &quinn::Connection) -> Result<Credential, String> {
        peer_credential(connection, &self.root, self.clock.now()).map_err(|e| e.to_string())
    }
}

/// What each side makes of the other: TLS first, then the names. A client's handshake ends before the server has
/// judged it, so the client waits for the server's first stream.
async fn meet(client: &End, server: &End) -> (Result<Credential, String>, Result<Credential, String>) {
    let accept = async {
        let incoming = server.endpoint.accept().await.expect("open");
        let connection = incoming.await.map_err(|e| e.to_string())?;
        let seen = server.judge(&connection)?;
        let mut stream = connection.open_uni().await.map_err(|e| e.to_string())?;
        stream.write_all(b"welcome").await.map_err(|e| e.to_string())?;
        stream.finish().map_err(|e| e.to_string())?;
        // Gone when the client has read it, or has refused.
        connection.closed().await;
        Ok(seen)
    };
    let dial = async {
        let (address, name) =
            (server.endpoint.local_addr().expect("bound"), server.node.dns_name(&server.root.cluster()));
        let connecting = client.endpoint.connect(address, &name).map_err(|e| e.to_string())?;
        let connection = connecting.await.map_err(|e| e.to_string())?;
        let seen = client.judge(&connection)?;
        let mut stream = connection.accept_uni().await.map_err(|e| e.to_string())?;
        assert_eq!(stream.read_to_end(16).await.map_err(|e| e.to_string())?, b"welcome");
        connection.close(0u8.into(), b"");
        Ok(seen)
    };
    tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(dial, accept) }).await.expect("no side hangs")
}

fn authority() -> Authority {
    Authority::found(NodeId::from_bytes([1; 32]), NOW).expect("founded")
}

#[tokio::test]
async fn members_know_each_other() {
    let authority = authority();
    let (client, server) = (End::good(&authority), End::good(&authority));
    let (seen_by_client, seen_by_server) = meet(&client, &server).await;
    assert_eq!(seen_by_client.map(|c| c.node), Ok(server.node));
    assert_eq!(seen_by_server.map(|c| c.node), Ok(client.node));
}

/// The bad end is refused by the good one, whichever of them dials.
async fn refused(good: &End, bad: &End, words: &str) {
    let (_, by_server) = meet(bad, good).await;
    let (by_client, _) = meet(good, bad).await;
    for (side, said) in [("server", by_server), ("client", by_client)] {
        let said = said.expect_err(side);
        assert!(said.contains(words), "the {side} said: {said}");
    }
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let (ours, theirs) = (authority(), authority());
    refused(&End::good(&ours), &End::new(&ours, Some(&theirs), Duration::ZERO, |_| ()), "UnknownIssuer").await;
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let authority = authority();
    let (good, bare) = (End::good(&authority), End::new(&authority, None, Duration::ZERO, |_| ()));
    let (dialled, accepted) = meet(&bare, &good).await;
    assert!(dialled.is_err());
    let said = accepted.expect_err("refused");
    assert!(said.contains("certificate"), "{said}");
    assert!(meet(&good, &bare).await.0.is_err(), "nor can it serve");
}

#[tokio::test]
async fn an_expired_leaf_is_refused() {
    let authority = authority();
    let late = End::new(&authority, Some(&authority), 2 * DAY, |p| p.not_after += time::Duration::days(9));
    let old = End::good(&authority);
    refused(&late, &old, "expired").await;
}

#[tokio::test]
async fn a_leaf_that_bears_another_key_s_name_is_refused() {
    let authority = authority();
    let cluster = authority.root().cluster();
    let other = node_of(&new_key()).dns_name(&cluster);
    let liar = End::new(&authority, Some(&authority), Duration::ZERO, |p| {
        p.subject_alt_names[0] = SanType::DnsName(other.try_into().expect("ASCII"));
    });
    let good = End::good(&authority);
    let (_, by_server) = meet(&liar, &good).await;
    assert!(by_server.expect_err("server").contains("not that of its key"));
    let (by_client, _) = meet(&good, &liar).await;
    assert!(by_client.expect_err("client").contains("not valid for name"));
}

#[tokio::test]
async fn a_leaf_without_roles_is_refused() {
    let authority = authority();
    let nobody = End::new(&authority, Some(&authority), Duration::ZERO, |p| p.subject_alt_names.truncate(1));
    refused(&End::good(&authority), &nobody, "names no role").await;
}

#[tokio::test]
async fn a_renewed_chain_is_shown_by_the_same_configuration() {
    let authority = authority();
    let key = new_key();
    let shown = Shown::new(&key).expect("a key");
    assert!(!shown.has_certs());
    let chains = [(); 2].map(|()| authority.issue(&worker(node_of(&key)), NOW, DAY).expect("issued"));
    for chain in &chains {
        shown.show(chain);
        let now = ResolvesClientCert::resolve(&shown, &[], &[]).expect("shown");
        assert_eq!(now.cert[0].as_ref(), chain.leaf);
    }
    assert_ne!(chains[0], chains[1]);
}

#[test]
fn the_cheapest_suite_comes_first_and_nothing_is_resumed() {
    let suites = provider().cipher_suites.clone();
    assert_eq!(suites[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert!(suites.iter().all(|s| s.tls13().is_some()));
    let (authority, clock) = (authority(), Clock::new(|| NOW));
    let shown = Arc::new(Shown::new(&new_key()).expect("a key"));
    assert_eq!(server(authority.root(), shown, &clock).expect("a configuration").send_tls13_tickets, 0);
}
