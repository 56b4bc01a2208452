//! One connection, from its handshake to its end: who may open streams on it, and when it must close.

use std::{sync::Arc, time::Duration};

use paceline_proto::{
    credential::Credential,
    id::{Role, UnixSeconds},
};
use quinn::{Connection, Incoming};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    exchange::server::StreamServer,
    plane::Core,
    registry::Registration,
    transport::{STREAMS_MAX, code, words},
};

/// From a peer's first packet to the end of its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// The clock is looked at again at least this often, in case it was set or the machine slept.
const EXPIRY_NAP_MAX: Duration = Duration::from_secs(3600);

/// Accepts a connection on the lane that runs this, judges the peer, and drives the connection to its end.
pub(super) async fn accept(core: Arc<Core>, lane: usize, incoming: Incoming, handshake: OwnedSemaphorePermit) {
    let from = incoming.remote_address();
    let connection = match timeout(HANDSHAKE_TIMEOUT, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%from, reason = words(&error), "data connection refused");
            return;
        }
        Err(_) => {
            tracing::debug!(%from, "data connection did not finish its handshake");
            return;
        }
    };
    drop(handshake);
    let refuse = |code, reason: &str| {
        tracing::warn!(%from, reason, "data connection refused");
        connection.close(code, reason.as_bytes());
    };
    let judge = core.armed.load().judge.clone();
    let credential = match judge(&connection) {
        Ok(credential) => credential,
        Err(error) => return refuse(code::REFUSED, &error.to_string()),
    };
    if !credential.roles.contains(Role::Gateway) && !core.am_gateway {
        return refuse(code::REFUSED, "only a gateway may connect to a node");
    }
    let Some(registration) = core.registry.enter(&credential, &connection, core.am_gateway) else {
        return refuse(code::FULL, "too many data connections");
    };
    // Revoked between the judgement and here: whoever judges all connections anew has not seen this one.
    if let Err(error) = judge(&connection) {
        return refuse(code::REFUSED, &error.to_string());
    }
    drive(core, lane, connection, credential, registration, CancellationToken::new()).await;
}

/// Serves the streams of a gateway, refuses those of others, closes the connection when the peer's certificate ends or
/// nobody needs it any more, and returns when it is closed.
pub(super) async fn drive(
    core: Arc<Core>,
    lane: usize,
    connection: Connection,
    credential: Credential,
    registration: Registration,
    unused: CancellationToken,
) {
    let node = credential.node;
    let is_gateway = credential.roles.contains(Role::Gateway);
    connection.set_max_concurrent_bi_streams(if is_gateway { STREAMS_MAX } else { 0 }.into());
    let server = Arc::new(StreamServer {
        lane,
        services: core.services.clone(),
        gateway: node,
        tasks: core.requests.clone(),
        stop: core.stop.child_token(),
    });
    let mut expired = std::pin::pin!(expiry(credential.not_after));
    loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((send, receive)) if is_gateway => {
                    core.requests.spawn(server.clone().serve(send, receive));
                    continue;
                }
                Ok(_) => connection.close(code::REFUSED, b"only a gateway may open streams"),
                Err(_) => {}
            },
            () = &mut expired => connection.close(code::EXPIRED, b"the peer's certificate has expired"),
            () = unused.cancelled() => connection.close(code::REPLACED, b"replaced by another connection"),
        }
        break;
    }
    let ended = connection.closed().await;
    drop(registration);
    tracing::debug!(node = %node.short(), reason = words(&ended), "data connection ended");
}

/// Resolves at that time of the system's clock.
async fn expiry(not_after: UnixSeconds) {
    loop {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        match Duration::from_secs(not_after.0).checked_sub(now) {
            Some(left) if !left.is_zero() => tokio::time::sleep(left.min(EXPIRY_NAP_MAX)).await,
            _ => return,
        }
    }
}
