//! What the gateway needs of the rest of the process: a seam, so that the HTTP side is tested without a network.
//! Static: nothing here is boxed on the way of a request.

use std::{future::Future, sync::Arc, time::Duration};

use http::{Request, Response};
use paceline_mesh::{
    Mesh,
    data::{DataClient, PathKind, SendError},
    http::Body,
    mesh::{Revoke, Revoked, RevokedLine, TokenInfo, TokenSpec},
};
use paceline_proto::{
    id::{NodeId, ServiceName, TokenId},
    view::ClusterView,
};

/// The cluster, as a gateway sees it.
pub trait Cluster: Send + Sync + 'static {
    /// The way to the nodes.
    type Client: PeerClient;

    /// What this node believes now. No lock, no await.
    fn view(&self) -> Arc<ClusterView>;
    /// Looks further for a service that the view lacks; returns when it is in the view, or after at most a second.
    fn find(&self, service: &ServiceName) -> impl Future<Output = ()> + Send;
    /// A request to this node failed on the data plane.
    fn request_failed(&self, node: NodeId);
    /// The way to the nodes for a lane.
    fn client(&self, lane: usize) -> Self::Client;
    /// Makes a join token.
    ///
    /// # Errors
    /// In words for the user.
    fn create_token(&self, spec: TokenSpec) -> impl Future<Output = Result<(TokenId, String), String>> + Send;
    /// The join tokens that this node has made.
    fn tokens(&self) -> Vec<TokenInfo>;
    /// Throws a member or a token out.
    ///
    /// # Errors
    /// In words for the user.
    fn revoke(&self, what: Revoke) -> impl Future<Output = Result<Revoked, String>> + Send;
    /// What is revoked.
    fn revocations(&self) -> Vec<RevokedLine>;
}

/// A lane's way to the nodes.
pub trait PeerClient: Clone + Send + Sync + 'static {
    /// Sends a request and waits for the response head; see [`DataClient::send`].
    ///
    /// # Errors
    /// [`SendError`] says whether anything was sent.
    fn send(
        &self,
        node: NodeId,
        service: &ServiceName,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, SendError>> + Send;
    /// How the node is reached now, and the smoothed round trip.
    fn path(&self, node: NodeId) -> Option<(PathKind, Duration)>;
}

impl Cluster for Mesh {
    type Client = DataClient;

    fn view(&self) -> Arc<ClusterView> {
        Mesh::view(self)
    }

    async fn find(&self, service: &ServiceName) {
        Mesh::find(self, service).await;
    }

    fn request_failed(&self, node: NodeId) {
        Mesh::request_failed(self, node);
    }

    fn client(&self, lane: usize) -> DataClient {
        Mesh::client(self, lane)
    }

    async fn create_token(&self, spec: TokenSpec) -> Result<(TokenId, String), String> {
        Mesh::create_token(self, spec).await
    }

    fn tokens(&self) -> Vec<TokenInfo> {
        Mesh::tokens(self)
    }

    async fn revoke(&self, what: Revoke) -> Result<Revoked, String> {
        Mesh::revoke(self, what).await
    }

    fn revocations(&self) -> Vec<RevokedLine> {
        Mesh::revocations(self)
    }
}

impl PeerClient for DataClient {
    async fn send(
        &self,
        node: NodeId,
        service: &ServiceName,
        request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        DataClient::send(self, node, service, request).await
    }

    fn path(&self, node: NodeId) -> Option<(PathKind, Duration)> {
        DataClient::path(self, node)
    }
}
