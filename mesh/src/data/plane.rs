//! The data plane of one node: its data port, the connections of its lanes, and the streams that it serves.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use paceline_proto::{
    credential::{Credential, CredentialError},
    id::{ClusterId, NodeId},
};

use super::{DataClient, Lanes};
use crate::http::ServiceHandler;

/// Judges the certificate chain of a connection whose handshake is done.
pub type Judge = Arc<dyn Fn(&quinn::Connection) -> Result<Credential, CredentialError> + Send + Sync>;

/// What the data plane proves itself with and judges others by; replaced as a whole when the leaf is renewed.
#[derive(Clone)]
pub struct Security {
    /// For dialling: the own chain, the cluster's root, ALPN `paceline/1`, resumption off.
    pub client: Arc<rustls::ClientConfig>,
    /// For accepting: the same, client certificates demanded, no tickets.
    pub server: Arc<rustls::ServerConfig>,
    /// Says who the other side is.
    pub judge: Judge,
}

/// What the data plane asks the control plane. Called on lanes: must not block.
pub trait Directory: Send + Sync + 'static {
    /// Where the node's data port may be reached, best first; empty where nothing is known.
    fn addresses(&self, node: NodeId) -> Vec<SocketAddr>;

    /// Sends the node a control message that asks it to dial this node's data port; at most once a second for a node.
    fn ask_dial_back(&self, node: NodeId);
}

/// What a data plane is started with.
pub struct DataConfig {
    /// This node.
    pub me: NodeId,
    /// Its cluster: peers are dialled by their DNS name in it.
    pub cluster: ClusterId,
    /// Where connections, streams and requests live.
    pub lanes: Arc<Lanes>,
    /// The data port, bound by the caller.
    pub socket: std::net::UdpSocket,
    /// Certificates.
    pub security: Security,
    /// Whether this node opens streams (it then has an endpoint for each lane).
    pub am_gateway: bool,
    /// Serves the streams that gateways open; `None` answers each request with `no-such-service`.
    pub services: Option<Arc<dyn ServiceHandler>>,
    /// The control plane's knowledge.
    pub directory: Arc<dyn Directory>,
}

/// A running data plane. Cheap to clone.
#[derive(Clone)]
pub struct DataPlane {}

impl DataPlane {
    /// Starts to accept on the data port.
    ///
    /// # Errors
    /// The socket, or a gateway lane's own, cannot be used.
    pub fn start(_config: DataConfig) -> std::io::Result<Self> {
        unimplemented!()
    }

    /// Where the data port is bound.
    pub fn local_address(&self) -> SocketAddr {
        unimplemented!()
    }

    /// The way to the nodes for a gateway lane.
    pub fn client(&self, _lane: usize) -> DataClient {
        unimplemented!()
    }

    /// New certificates, from the next connection on; links made under the old ones are replaced as they are used.
    ///
    /// # Errors
    /// The configuration lacks TLS 1.3 or an initial cipher suite of QUIC.
    pub fn set_security(&self, _security: Security) -> Result<(), String> {
        unimplemented!()
    }

    /// Dials a gateway that asked for it, and serves the streams that it opens. Returns at once; one dial for a
    /// gateway at a time.
    pub fn dial_back(&self, _gateway: NodeId, _addresses: Vec<SocketAddr>) {
        unimplemented!()
    }

    /// Closes every connection with a node: it is dead, gone or revoked.
    pub fn disconnect(&self, _node: NodeId, _reason: &str) {
        unimplemented!()
    }

    /// Refuses new connections and streams, lets requests end for at most `grace`, then closes everything.
    pub async fn shutdown(&self, _grace: Duration) {
        unimplemented!()
    }
}
