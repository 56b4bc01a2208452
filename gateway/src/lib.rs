//! The gateway: an HTTP front that routes each request to a peer that offers the service.
//!
//! [`Listeners::bind`] takes the port before anything else is changed, [`Gateway::start`] serves on the lanes of the
//! process, [`Gateway::shutdown`] lets requests end. What happens to a request stands in `pipeline`, one step a file:
//! authenticate, look up, select, send, retry, answer. Everything else is asked of [`Cluster`].

mod admin;
mod ask;
pub mod callers;
mod cluster;
mod front;
pub mod labels;
mod lane;
mod listen;
mod metrics;
mod outgoing;
mod pipeline;
mod request_id;
pub mod run;
mod serve;
mod socket;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use paceline_mesh::{Mesh, data::Lanes, http::ServiceHandler};
use tokio::runtime::Handle;

pub use callers::Callers;
pub use cluster::{Cluster, PeerClient};
pub use listen::Listeners;

/// From sending a request to its response head, where nothing else is said.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a gateway is started with.
#[derive(Clone)]
pub struct GatewayConfig {
    /// Who may call.
    pub callers: Arc<Callers>,
    /// The admin key, as it stands in `<data-dir>/admin.key`; empty: nobody has it.
    pub admin_key: String,
    /// From the last byte that was sent of a request to its response head.
    pub first_byte_timeout: Duration,
}

impl std::fmt::Debug for GatewayConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayConfig")
            .field("callers", &self.callers)
            .field("admin_key", &"...")
            .field("first_byte_timeout", &self.first_byte_timeout)
            .finish()
    }
}

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
    /// Off loopback without authentication, or settings that cannot be.
    #[error("{0}")]
    Config(String),
}

/// A running gateway.
pub struct Gateway {
    address: SocketAddr,
    life: serve::Life,
}

impl Gateway {
    /// Serves until [`Gateway::shutdown`].
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn start(
        config: GatewayConfig,
        listeners: Listeners,
        mesh: Mesh,
        lanes: &Lanes,
        local: Option<Arc<dyn ServiceHandler>>,
    ) -> Result<Self, GatewayError> {
        let handles = (0..lanes.count()).map(|lane| lanes.handle(lane).clone()).collect();
        Self::start_on(config, listeners, mesh, handles, local)
    }

    /// The same over any [`Cluster`], with a runtime for each listener.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn start_on<C: Cluster>(
        config: GatewayConfig,
        listeners: Listeners,
        cluster: C,
        runtimes: Vec<Handle>,
        local: Option<Arc<dyn ServiceHandler>>,
    ) -> Result<Self, GatewayError> {
        let address = listeners.address();
        let life = serve::Life::default();
        let sockets = listeners.into_sockets();
        if sockets.len() != runtimes.len() {
            let words = format!("{} listeners for {} lanes", sockets.len(), runtimes.len());
            return Err(GatewayError::Config(words));
        }
        let callers = config.callers.clone();
        let lanes = lane::build(config, address, cluster, sockets.len(), local);
        if let Some(first) = runtimes.first() {
            let _inside = first.enter();
            life.spawn(callers.keep());
        }
        for ((lane, socket), runtime) in lanes.into_iter().zip(sockets).zip(runtimes) {
            serve::spawn(&runtime, lane, socket, &life).map_err(|source| GatewayError::Bind { address, source })?;
        }
        Ok(Self { address, life })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// No new requests; those that run end within `grace`, then everything is closed.
    pub async fn shutdown(self, grace: Duration) {
        self.life.end(grace).await;
    }
}
