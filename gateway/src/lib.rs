//! The gateway: an HTTP front that routes each request to a peer that offers the service.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use paceline_mesh::{Bind, Mesh, data::Lanes, http::ServiceHandler};

/// What a gateway is started with.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Serve callers off loopback without credentials.
    pub insecure_no_auth: bool,
    /// The admin key, as it stands in `<data-dir>/admin.key`.
    pub admin_key: String,
    /// From sending a request to its response head.
    pub first_byte_timeout: Duration,
}

/// Listening sockets, bound before anything else is changed.
pub struct Listeners {}

/// A gateway that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The HTTP port is taken or cannot be bound.
    #[error("cannot bind --http {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
    /// Off loopback without authentication.
    #[error("{0}")]
    Config(String),
}

impl Listeners {
    /// Binds one SO_REUSEPORT listener for each lane; an explicit port that is taken is an error, a default one gives
    /// way to a free one with a warning. Off loopback it refuses unless `insecure_no_auth`.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn bind(_http: Bind, _lanes: usize, _insecure_no_auth: bool) -> Result<Self, GatewayError> {
        unimplemented!()
    }

    /// Where they listen.
    pub fn address(&self) -> SocketAddr {
        unimplemented!()
    }
}

/// A running gateway.
pub struct Gateway {}

impl Gateway {
    /// Serves until [`Gateway::shutdown`].
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn start(
        _config: GatewayConfig,
        _listeners: Listeners,
        _mesh: Mesh,
        _lanes: &Lanes,
        _local: Option<Arc<dyn ServiceHandler>>,
    ) -> Result<Self, GatewayError> {
        unimplemented!()
    }

    /// No new requests; those that run end within `grace`, then everything is closed.
    pub async fn shutdown(self, _grace: Duration) {
        unimplemented!()
    }
}
