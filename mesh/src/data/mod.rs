//! The data plane: quinn connections between gateways and nodes, requests on pooled bidirectional streams.

mod connection;
mod dial;
pub mod exchange;
pub mod lanes;
pub mod link;
pub mod plane;
mod port;
pub mod registry;
mod stream;
pub mod transport;

pub use lanes::Lanes;
pub use plane::{DataConfig, DataPlane, Directory, Judge, Security};

use std::{sync::Arc, time::Duration};

use paceline_proto::id::NodeId;

use crate::http::Body;

/// How a request reaches a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// Same process.
    Local,
    /// The gateway dialled the node's data port.
    Direct,
    /// The node dialled the gateway.
    Reverse,
    /// Through a relay.
    Relayed,
}

/// A request that got no response head from the node.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection to the node: nothing was sent, and here is the request again.
    #[error("cannot reach the node: {reason}")]
    Unreachable {
        /// Why, for the log and the caller.
        reason: String,
        /// Unsent.
        request: Box<::http::Request<Body>>,
    },
    /// The connection broke after (a part of) the request was sent.
    #[error("connection to the node broke: {reason}")]
    Broken {
        /// Why.
        reason: String,
    },
    /// The node gave up the request's stream before its answer was through, and the connection lives: what broke is
    /// beyond the node, at its service.
    #[error("the node broke the request off: {reason}")]
    StreamReset {
        /// Why.
        reason: String,
    },
}

/// A gateway thread's way to the nodes. Lives on one lane; cheap to clone there.
#[derive(Clone)]
pub struct DataClient {
    /// `None` on a node without the gateway role.
    links: Option<Arc<link::LaneLinks>>,
}

impl DataClient {
    /// Sends a request to a node for a service and waits for the response head.
    ///
    /// An open connection is used, else the node's data addresses are raced and after a moment the node is asked to
    /// dial back. No timeout but the hop's own liveness (5 s): first-byte and total deadlines are the caller's.
    /// Dropping the future or the response's body cancels the request at the service.
    ///
    /// # Errors
    /// [`SendError`] says whether anything was sent.
    pub async fn send(
        &self,
        node: NodeId,
        service: &paceline_proto::id::ServiceName,
        request: ::http::Request<Body>,
    ) -> Result<::http::Response<Body>, SendError> {
        match &self.links {
            Some(links) => links.send(node, service, request).await,
            None => {
                Err(SendError::Unreachable { reason: "this node is no gateway".into(), request: Box::new(request) })
            }
        }
    }

    /// How this lane reaches the node now, and the smoothed round trip of that connection.
    pub fn path(&self, node: NodeId) -> Option<(PathKind, Duration)> {
        self.links.as_ref()?.path(node)
    }
}
