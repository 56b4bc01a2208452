//! TLS of the data plane: mutual, TLS 1.3 only, judged by the stock webpki verifiers.
//!
//! What webpki cannot ask for is asked after the handshake, by [`peer_credential`]: without it, nobody is anybody.
//! Resumption is off on both sides, because a resumed session outlives its certificate.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use ed25519_dalek::SigningKey;
use paceline_proto::{
    credential::{Chain, Credential, CredentialError, Root},
    id::UnixSeconds,
};
use rustls::{
    CipherSuite, ClientConfig, RootCertStore, ServerConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use super::{clock::Clock, disk::pkcs8};

/// The application protocol of data connections.
pub const ALPN: &[u8] = b"paceline/1";

/// aws-lc-rs with the suites of TLS 1.3, AES-128-GCM first: the cheapest on machines with AES instructions.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|s| s.tls13().is_some());
    provider.cipher_suites.sort_by_key(|s| s.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// Makes [`provider`] the process's default, for the libraries that ask for one. Another that is set already stays.
pub fn install_provider() {
    // The error says only that there is one.
    let _ = CryptoProvider::install_default((*provider()).clone());
}

/// Judges the peer of a data connection: all that the handshake alone does not prove.
///
/// # Errors
/// Why the connection is to be closed.
pub fn peer_credential(
    connection: &quinn::Connection,
    root: &Root,
    now: UnixSeconds,
) -> Result<Credential, CredentialError> {
    let malformed = |why: &str| CredentialError::Malformed(why.to_owned());
    let identity = connection.peer_identity().ok_or_else(|| malformed("the peer showed none"))?;
    let certificates =
        identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| malformed("the peer showed none"))?;
    match certificates.as_slice() {
        [leaf, intermediate] => root.judge(&Chain { leaf: leaf.to_vec(), intermediate: intermediate.to_vec() }, now),
        other => Err(CredentialError::Malformed(format!("{} certificates, not leaf and issuer", other.len()))),
    }
}

/// The chain that this node shows now: swapped at renewal, so that the configurations stay the same.
pub(crate) struct Shown {
    current: ArcSwapOption<CertifiedKey>,
    key: Arc<dyn rustls::sign::SigningKey>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shown(chain: {})", self.current.load().is_some())
    }
}

impl Shown {
    /// Shows nothing yet.
    ///
    /// # Errors
    /// None for an Ed25519 key.
    pub(crate) fn new(key: &SigningKey) -> Result<Self, rustls::Error> {
        let key = PrivateKeyDer::Pkcs8(pkcs8(key).to_vec().into());
        Ok(Self { current: ArcSwapOption::empty(), key: provider().key_provider.load_private_key(key)? })
    }

    /// Shows this chain from now on.
    pub(crate) fn show(&self, chain: &Chain) {
        let chain = vec![chain.leaf.clone().into(), chain.intermediate.clone().into()];
        self.current.store(Some(Arc::new(CertifiedKey::new(chain, self.key.clone()))));
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }

    fn has_certs(&self) -> bool {
        self.current.load().is_some()
    }
}

/// The dialling side; the server name is the DNS name of the node that is meant.
///
/// # Errors
/// A root that rustls does not take.
pub(crate) fn client(root: &Root, shown: Arc<Shown>, clock: &Clock) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(anchors(root)?)
        .with_client_cert_resolver(shown);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The accepting side; a client without a certificate is refused.
///
/// # Errors
/// A root that rustls does not take.
pub(crate) fn server(root: &Root, shown: Arc<Shown>, clock: &Clock) -> Result<ServerConfig, rustls::Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(anchors(root)?), provider())
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn anchors(root: &Root) -> Result<RootCertStore, rustls::Error> {
    let mut anchors = RootCertStore::empty();
    anchors.add(CertificateDer::from(root.der()))?;
    Ok(anchors)
}

#[cfg(test)]
mod tests;
