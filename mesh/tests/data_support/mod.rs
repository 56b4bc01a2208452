//! A cluster for the tests of the data plane: certificates, nodes and gateways in this process, on real sockets.
#![allow(dead_code)] // each test file uses a part of it

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use paceline_mesh::{
    data::{DataClient, DataConfig, DataPlane, Directory, Lanes, Security},
    http::{Body, ServiceHandler},
};
use paceline_proto::{
    credential::{Credential, CredentialError},
    id::{ClusterId, CredentialHash, NodeId, Role, Roles, ServiceName, UnixSeconds},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::mpsc;

/// No test should wait longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a future, but not for ever.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// Waits until something holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    soon(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            let _ = aws_lc_rs::default_provider().install_default();
            Arc::new(aws_lc_rs::default_provider())
        })
        .clone()
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

/// A root that signs leaves itself: the data plane sees no difference.
pub(crate) struct Authority {
    pub(crate) cluster: ClusterId,
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A member's key and what it was certified for.
pub(crate) struct Identity {
    pub(crate) id: NodeId,
    pub(crate) security: Security,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, key.public_key_raw().len().to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("a root").der().clone();
        Self { cluster: ClusterId::of_root(&root), root, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn member(&self, roles: &[Role], not_after: u64) -> Identity {
        self.certify(&KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key"), roles, not_after)
    }

    pub(crate) fn certify(&self, key: &KeyPair, roles: &[Role], not_after: u64) -> Identity {
        let id = NodeId::from_bytes(key.public_key_raw().try_into().expect("32 bytes"));
        let mut params = CertificateParams::new(vec![id.dns_name(&self.cluster)]).expect("a name");
        for role in roles {
            let uri = format!("spiffe://{}/{role}", self.cluster);
            params.subject_alt_names.push(SanType::URI(uri.try_into().expect("ascii")));
        }
        params.distinguished_name.push(DnType::CommonName, id.short());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = (UNIX_EPOCH + Duration::from_secs(now() - 3600)).into();
        params.not_after = (UNIX_EPOCH + Duration::from_secs(not_after)).into();
        let leaf = params.signed_by(key, &self.issuer).expect("a leaf").der().clone();
        Identity { id, security: self.security(leaf, key) }
    }

    fn security(&self, leaf: CertificateDer<'static>, key: &KeyPair) -> Security {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        let roots = Arc::new(roots);
        let key = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let tls13 = &[&rustls::version::TLS13];
        let mut client = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(tls13)
            .expect("TLS 1.3")
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(vec![leaf.clone()], key())
            .expect("a key that fits");
        client.alpn_protocols = vec![b"paceline/1".to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().expect("a verifier");
        let mut server = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(tls13)
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![leaf], key())
            .expect("a key that fits");
        server.alpn_protocols = vec![b"paceline/1".to_vec()];
        server.send_tls13_tickets = 0;
        let judge = Arc::new(|connection: &quinn::Connection| judge(connection));
        Security { client: Arc::new(client), server: Arc::new(server), judge }
    }
}

fn judge(connection: &quinn::Connection) -> Result<Credential, CredentialError> {
    use x509_parser::{extensions::GeneralName, parse_x509_certificate};
    let malformed = |what: &str| CredentialError::Malformed(what.into());
    let identity = connection.peer_identity().ok_or_else(|| malformed("no certificate"))?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| malformed("not a chain"))?;
    let (_, leaf) = parse_x509_certificate(&chain[0]).map_err(|_| malformed("not X.509"))?;
    let names = leaf.subject_alternative_name().ok().flatten().ok_or_else(|| malformed("no names"))?;
    let (mut node, mut roles) = (None, Roles::default());
    for name in &names.value.general_names {
        match name {
            GeneralName::DNSName(name) => node = name.split('.').next().and_then(|label| label.parse().ok()),
            GeneralName::URI(uri) => {
                if let Some(role) = uri.rsplit('/').next().and_then(|role| role.parse().ok()) {
                    roles = roles.with(role);
                }
            }
            _ => {}
        }
    }
    Ok(Credential {
        node: node.ok_or_else(|| malformed("no node"))?,
        roles,
        issuer: false,
        services: None,
        token: None,
        issued_by: None,
        not_before: UnixSeconds(0),
        not_after: UnixSeconds(leaf.validity().not_after.timestamp() as u64),
        hash: CredentialHash::from_bytes([0; 32]),
    })
}

/// What a gateway knows, and whom it has asked to dial back.
pub(crate) struct Book {
    addresses: Mutex<HashMap<NodeId, Vec<SocketAddr>>>,
    asked: mpsc::Sender<NodeId>,
}

impl Book {
    pub(crate) fn set(&self, node: NodeId, addresses: Vec<SocketAddr>) {
        self.addresses.lock().expect("unpoisoned").insert(node, addresses);
    }
}

impl Directory for Book {
    fn addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        self.addresses.lock().expect("unpoisoned").get(&node).cloned().unwrap_or_default()
    }

    fn ask_dial_back(&self, node: NodeId) {
        let _ = self.asked.try_send(node);
    }
}

type Answer = dyn Fn(ServiceName, Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync;

/// Services as closures.
#[derive(Clone, Default)]
pub(crate) struct Services(BTreeMap<&'static str, Arc<Answer>>);

impl Services {
    pub(crate) fn with<F, Fut>(mut self, name: &'static str, answer: F) -> Self
    where
        F: Fn(Request<Body>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        self.0.insert(name, Arc::new(move |_, request| Box::pin(answer(request))));
        self
    }
}

impl ServiceHandler for Services {
    fn call(&self, _: usize, service: ServiceName, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        match self.0.get(service.as_str()) {
            Some(answer) => answer(service, request),
            None => Box::pin(async { paceline_mesh::http::NodeError::NoSuchService.response("no such service") }),
        }
    }
}

/// A data plane with lanes of its own.
pub(crate) struct Process {
    pub(crate) id: NodeId,
    pub(crate) plane: DataPlane,
    pub(crate) book: Arc<Book>,
    pub(crate) asked: mpsc::Receiver<NodeId>,
    pub(crate) lanes: Arc<Lanes>,
}

impl Process {
    pub(crate) fn start(
        authority: &Authority,
        identity: &Identity,
        am_gateway: bool,
        services: Option<Services>,
        lanes: usize,
    ) -> Self {
        let lanes = Lanes::start(lanes).expect("lanes");
        let (tx, asked) = mpsc::channel(64);
        let book = Arc::new(Book { addresses: Mutex::default(), asked: tx });
        let plane = DataPlane::start(DataConfig {
            me: identity.id,
            cluster: authority.cluster,
            lanes: lanes.clone(),
            socket: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"),
            security: identity.security.clone(),
            am_gateway,
            services: services.map(|services| Arc::new(services) as Arc<dyn ServiceHandler>),
            directory: book.clone(),
        })
        .expect("a data plane");
        Self { id: identity.id, plane, book, asked, lanes }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.plane.local_address()
    }

    /// Sends a request from the first lane.
    pub(crate) fn send(
        &self,
        node: NodeId,
        service: &str,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, paceline_mesh::data::SendError>> + use<> {
        send(&self.lanes, self.plane.client(0), node, service, request)
    }
}

/// Sends a request on the first lane; dropping the future drops the request.
pub(crate) fn send(
    lanes: &Lanes,
    client: DataClient,
    node: NodeId,
    service: &str,
    request: Request<Body>,
) -> impl Future<Output = Result<Response<Body>, paceline_mesh::data::SendError>> + use<> {
    let service = ServiceName::new(service).expect("a name");
    let mut task = OnLane(lanes.handle(0).spawn(async move { client.send(node, &service, request).await }));
    async move { (&mut task.0).await.expect("no panic") }
}

struct OnLane<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for OnLane<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A gateway and a node that it may dial.
pub(crate) fn pair(services: Services) -> (Process, Process) {
    let authority = Authority::new();
    let worker = authority.member(&[Role::Worker], now() + 3600);
    let gateway = authority.member(&[Role::Gateway], now() + 3600);
    let node = Process::start(&authority, &worker, false, Some(services), 2);
    let gateway = Process::start(&authority, &gateway, true, None, 2);
    gateway.book.set(node.id, vec![node.address()]);
    (gateway, node)
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::builder().uri(path).body(Body::Empty).expect("a request")
}

/// A UDP path between two sides that can go dark.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    dark: tokio::sync::watch::Sender<bool>,
}

impl Wire {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let near = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let far = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = near.local_addr().expect("bound");
        let (dark, is_dark) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            let (mut a, mut b) = (vec![0; 65536], vec![0; 65536]);
            let mut caller = None;
            loop {
                tokio::select! {
                    Ok((n, from)) = near.recv_from(&mut a) => {
                        caller = Some(from);
                        if !*is_dark.borrow() {
                            let _ = far.send_to(&a[..n], target).await;
                        }
                    }
                    Ok((n, _)) = far.recv_from(&mut b) => {
                        let dark = *is_dark.borrow();
                        if let (Some(caller), false) = (caller, dark) {
                            let _ = near.send_to(&b[..n], caller).await;
                        }
                    }
                }
            }
        });
        Self { address, dark }
    }

    pub(crate) fn go_dark(&self) {
        self.dark.send_replace(true);
    }
}
