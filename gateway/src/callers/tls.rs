//! HTTPS with a certificate of one's own, for those without a tunnel: HTTP/2 where ALPN says so, else HTTP/1.1. Plain
//! HTTP is still served to this machine itself: commands and local tunnels need no certificate there.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use paceline_mesh::args::CallerArgs;
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::{
    files::Watched,
    wire::{ALPN_H2, Stream, Wire},
};
use crate::GatewayError;

/// The first byte of every TLS handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
/// Most certificates of a chain.
const CHAIN_MAX: usize = 16;

/// `--tls-cert` and `--tls-key`.
pub(crate) struct Tls {
    chain: Watched,
    key: Watched,
    config: ArcSwap<ServerConfig>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("chain", &self.chain).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Tls {
    /// `None` where neither flag is given.
    ///
    /// # Errors
    /// One is missing, or the two do not fit together.
    pub(crate) fn open(args: &CallerArgs) -> Result<Option<Self>, GatewayError> {
        let (chain, key) = match (&args.tls_cert, &args.tls_key) {
            (None, None) => return Ok(None),
            (Some(chain), Some(key)) => (Watched::new(chain.clone()), Watched::new(key.clone())),
            (Some(_), None) => return Err(GatewayError::Config("--tls-cert needs --tls-key".to_owned())),
            (None, Some(_)) => return Err(GatewayError::Config("--tls-key needs --tls-cert".to_owned())),
        };
        let config = load(&chain, &key).map_err(GatewayError::Config)?;
        Ok(Some(Self { chain, key, config: ArcSwap::from_pointee(config) }))
    }

    /// Follows the files until it is dropped; new connections get the new certificate.
    pub(crate) async fn keep(&self) {
        loop {
            tokio::time::sleep(super::files::LOOK_EVERY).await;
            if !self.chain.is_changed() && !self.key.is_changed() {
                continue;
            }
            match load(&self.chain, &self.key) {
                Ok(config) => {
                    self.config.store(Arc::new(config));
                    tracing::info!(file = %self.chain.path().display(), "the changed certificate is in force");
                }
                // Half of a change too: the other file is yet to come.
                Err(reason) => tracing::warn!(%reason, "the changed certificate cannot be used: the old one stays"),
            }
        }
    }

    /// What hyper is to speak over, and whether it is encrypted; `None` where the client shows no handshake in time.
    pub(crate) async fn accept(&self, wire: Wire, peer: IpAddr, patience: Duration) -> Option<(Stream, bool)> {
        let peer = peer.to_canonical();
        if peer.is_loopback() || wire.tcp().local_addr().is_ok_and(|own| own.ip().to_canonical() == peer) {
            match timeout(patience, first_byte(wire.tcp())).await {
                Ok(Ok(Some(HANDSHAKE))) => {}
                Ok(Ok(Some(_))) => return Some((Stream::Plain(wire), false)),
                _ => return None,
            }
        }
        let acceptor = TlsAcceptor::from(self.config.load_full());
        match timeout(patience, acceptor.accept(wire)).await {
            Ok(Ok(stream)) => Some((Stream::Tls(Box::new(stream)), true)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
            Err(_) => None,
        }
    }
}

async fn first_byte(stream: &TcpStream) -> io::Result<Option<u8>> {
    let mut byte = [0u8; 1];
    Ok((stream.peek(&mut byte).await? == 1).then_some(byte[0]))
}

fn load(chain: &Watched, key: &Watched) -> Result<ServerConfig, String> {
    let (chain_file, key_file) = (chain.path().display(), key.path().display());
    let text = chain.read().map_err(|e| format!("--tls-cert: {e}"));
    let secret = key.read().map_err(|e| format!("--tls-key: {e}"));
    let (text, secret) = (text?, secret?);
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
        .take(CHAIN_MAX)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("--tls-cert {chain_file}: not PEM: {e}"))?;
    if certificates.is_empty() {
        return Err(format!("--tls-cert {chain_file}: no certificate in it"));
    }
    let secret = PrivateKeyDer::from_pem_slice(&secret)
        .map_err(|e| format!("--tls-key {key_file}: no private key in it: {e}"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(certificates, secret)
        .map_err(|e| format!("--tls-cert {chain_file} and --tls-key {key_file}: {e}"))?;
    config.alpn_protocols = vec![ALPN_H2.to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
