//! A node's side of a stream: reads a request, has it served, writes the answer, and then the next one.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header::UPGRADE};
use paceline_proto::id::{NodeId, ServiceName};
use quinn::{RecvStream, SendStream};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    body::{Origin, Rest, Slot, StreamBody, length},
    frame::{self, Malformed, Writer},
    reader::{ReadFault, Reader},
    write::SendHalf,
};
use crate::{
    data::{stream::QuicStream, transport::code},
    http::{Body, NodeError, ServiceHandler, upgrade},
};

/// From the first byte of a head to its last. Between two requests a stream may idle as long as its gateway likes, which
/// may have only so many.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// From the last byte of a body to its end.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// What the streams of a connection are served with.
pub(in crate::data) struct StreamServer {
    /// The lane that this runs on.
    pub(in crate::data) lane: usize,
    /// `None`: everything is refused.
    pub(in crate::data) services: Option<Arc<dyn ServiceHandler>>,
    /// The gateway at the other end.
    pub(in crate::data) gateway: NodeId,
    /// Owns the tasks of upgraded streams.
    pub(in crate::data) tasks: TaskTracker,
    /// Idle streams end, and new requests are refused. The connection's own: the streams of all would share a lock.
    pub(in crate::data) stop: CancellationToken,
}

impl StreamServer {
    /// Serves a stream until its end, which is the gateway's to say, or this node's stop.
    pub(in crate::data) async fn serve(self: Arc<Self>, send: SendStream, receive: RecvStream) {
        let (mut send, mut reader) = (SendHalf::new(send), Reader::new(receive));
        let (mut gone, mut stop) = (pin!(send.gone()), pin!(self.stop.cancelled()));
        loop {
            let head = tokio::select! {
                biased;
                head = next(&mut reader) => head,
                () = stop.as_mut() => Ok(None),
                () = gone.as_mut() => return,
            };
            let (last, payload) = match head {
                Ok(Some(head)) => head,
                Ok(None) => {
                    reader.stop(code::BYE);
                    return send.finish().await;
                }
                Err(fault) => {
                    tracing::trace!(%fault, "stream ended");
                    return send.abandon();
                }
            };
            let whole = if last { Some(Bytes::new()) } else { reader.whole_body() };
            let (service, mut request) = match understood(payload, whole.as_ref()) {
                Ok(understood) => understood,
                Err(fault) => {
                    tracing::debug!(%fault, "a gateway's request is not understood");
                    return send.abandon();
                }
            };
            let (rest, slot) = match whole {
                Some(bytes) => {
                    *request.body_mut() = Body::full(bytes);
                    (Some(reader), None)
                }
                None => {
                    let slot = Arc::<Slot>::default();
                    let told = length(request.headers());
                    let body = StreamBody::new(reader, Origin::Node(slot.clone()), told);
                    *request.body_mut() = Body::Stream(Box::new(body));
                    (None, Some(slot))
                }
            };
            let switch = if request.headers().contains_key(UPGRADE) {
                let (promise, switch) = upgrade::Switch::soon();
                request.extensions_mut().insert(switch);
                Some(promise)
            } else {
                None
            };
            let requested = upgrade::requested(&request);
            let mut response = tokio::select! {
                biased;
                response = self.answer(service, request) => response,
                () = gone.as_mut() => return send.abandon(),
            };
            let join = upgrade::accepted(requested, &mut response);
            let head = match Writer::response(&response) {
                Ok(head) => head,
                Err(error) => {
                    response = NodeError::BadResponse.response(&format!("the service's answer: {error}"));
                    match Writer::response(&response) {
                        Ok(head) => head,
                        Err(_) => return send.abandon(),
                    }
                }
            };
            let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            let body = if switched { Body::Empty } else { response.into_body() };
            let written = tokio::select! {
                biased;
                written = send.message(head, body) => written,
                () = gone.as_mut() => return,
            };
            if let Err(fault) = written {
                tracing::trace!(%fault, "an answer broke off");
                return;
            }
            let back = match slot {
                None => rest,
                Some(slot) => match slot.take() {
                    Some((reader, Rest::Nothing)) => Some(reader),
                    // It follows at once, and then the stream is as good as new.
                    Some((mut reader, Rest::End)) => {
                        let ended = timeout(END_TIMEOUT, reader.end()).await;
                        ended.is_ok_and(|ended| ended.is_ok()).then_some(reader)
                    }
                    Some((mut reader, Rest::Body)) => {
                        // Nobody wants the rest of the request.
                        reader.stop(code::CANCELLED);
                        None
                    }
                    None => None,
                },
            };
            match (back, switched) {
                (Some(back), false) => reader = back,
                (Some(back), true) => {
                    let (ahead, receive) = back.into_raw();
                    if let (Some(promise), Some(send)) = (switch, send.into_raw()) {
                        // Where nobody waits for it, the stream is dropped, which resets it.
                        let _ = promise.send(Box::new(QuicStream::accepted(send, receive, ahead)));
                    }
                    if let Some(join) = join {
                        self.tasks.spawn(async move {
                            if let Err(error) = join.await {
                                tracing::trace!(%error, "upgraded connection ended");
                            }
                        });
                    }
                    return;
                }
                (None, _) => return send.finish().await,
            }
        }
    }

    async fn answer(&self, service: ServiceName, request: Request<Body>) -> http::Response<Body> {
        if self.stop.is_cancelled() {
            return NodeError::Overloaded.response("this node is stopping");
        }
        match &self.services {
            Some(services) => match services.admits(&service, &self.gateway) {
                Ok(()) => services.call(self.lane, service, request).await,
                Err(reason) => NodeError::NotAllowed.response(&reason),
            },
            None => NodeError::NoSuchService.response("this node offers no services"),
        }
    }
}

/// The next request's head, as long as it takes to begin.
async fn next(reader: &mut Reader) -> Result<Option<(bool, Bytes)>, ReadFault> {
    if !reader.begins().await? {
        return Ok(None);
    }
    timeout(HEAD_TIMEOUT, reader.head()).await.unwrap_or(Err(ReadFault::Cut))
}

/// A head whose body is at hand as a whole, if it is: what it tells of the length must be true.
fn understood(payload: Bytes, whole: Option<&Bytes>) -> Result<(ServiceName, Request<Body>), Malformed> {
    let (service, request) = frame::request(payload)?;
    let told = length(request.headers());
    if let (Some(told), Some(whole)) = (told, whole)
        && told != whole.len() as u64
    {
        return Err(Malformed::Order);
    }
    Ok((service, request.map(|()| Body::Empty)))
}
