//! Questions to a node itself ([`Ask`]): short answers within a bound, or none.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use paceline_mesh::http::{
    Body,
    ask::{ANSWER_BYTES_MAX, Ask, NODE},
};
use paceline_proto::id::{NodeId, ServiceName};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    cluster::{Cluster, PeerClient as _},
    lane::Shared,
};

/// How long a node may take to say whether a service is on its way up; its caller has waited far longer.
const STARTING_MAX: Duration = Duration::from_secs(1);
/// How long the words of a node's own error may take to come.
const WORDS_MAX: Duration = Duration::from_millis(500);
/// Most bytes of them.
const WORDS_BYTES_MAX: usize = 4096;

/// Who is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Peer {
    /// The worker of this process.
    Local,
    /// Another node.
    Node(NodeId),
}

/// Asks on the lane that calls; `None` is a node that cannot be reached, does not know the question, or takes too long.
pub(crate) async fn ask<C: Cluster>(
    shared: &Shared<C>,
    lane: usize,
    peer: Peer,
    question: &Ask,
    limit: Duration,
) -> Option<Bytes> {
    let asked = async {
        let name = ServiceName::new(NODE).ok()?;
        let response = match peer {
            Peer::Local => shared.local.as_ref()?.call(lane, name, question.request()).await,
            Peer::Node(node) => shared.clients.get(lane)?.send(node, &name, question.request()).await.ok()?,
        };
        if response.status() != StatusCode::OK {
            return None;
        }
        bounded(response, ANSWER_BYTES_MAX).await
    };
    timeout(limit, asked).await.ok().flatten()
}

/// Whether a service on demand is on its way up there. A node that does not say so has a service that is silent.
pub(crate) async fn is_starting<C: Cluster>(
    shared: &Shared<C>,
    lane: usize,
    peer: Peer,
    service: &ServiceName,
) -> bool {
    let answer = ask(shared, lane, peer, &Ask::Starting(service.clone()), STARTING_MAX).await;
    let answer = answer.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    answer.is_some_and(|answer| answer["starting"] == true)
}

/// The words of an answer that is a node's own, where they come soon.
pub(crate) async fn error_of(response: Response<Body>) -> Option<String> {
    let bytes = timeout(WORDS_MAX, bounded(response, WORDS_BYTES_MAX)).await.ok()??;
    let answer: Value = serde_json::from_slice(&bytes).ok()?;
    answer["error"].as_str().map(str::to_owned)
}

async fn bounded(response: Response<Body>, bytes_max: usize) -> Option<Bytes> {
    Some(Limited::new(response.into_body(), bytes_max).collect().await.ok()?.to_bytes())
}
