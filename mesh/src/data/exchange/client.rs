//! A gateway's side of a stream: one request after the other, each answered before the next.

use std::{pin::pin, sync::Arc, task::Poll};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use paceline_proto::id::ServiceName;
use quinn::{RecvStream, SendStream};
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

use super::{
    body::{Origin, StreamBody, length},
    frame::{self, Malformed, Writer},
    reader::{ReadFault, Reader},
    write::{SendHalf, WriteFault},
};
use crate::{
    data::stream::QuicStream,
    http::{
        Body,
        pool::{Open, Pool, Pooled},
        upgrade::Switch,
    },
};

/// Heads with a status of 1xx that may come before the answer.
const INTERIM_MAX: usize = 16;

/// A stream that stands between two requests.
#[derive(Debug)]
pub(in crate::data) struct Stream {
    send: SendHalf,
    reader: Reader,
    held: Held,
}

/// What lives as long as the stream.
#[derive(Debug)]
struct Held {
    _open: Open<Stream>,
    /// Tells whoever opened the connection that it is still in use.
    lease: Option<Arc<DropGuard>>,
}

impl Pooled for Stream {
    fn is_usable(&self) -> bool {
        // Whether the other side has closed it is seen by the next request, which then goes out again.
        true
    }
}

/// Why there is no response head.
#[derive(Debug, thiserror::Error)]
pub(in crate::data) enum Fault {
    #[error(transparent)]
    Read(ReadFault),
    #[error(transparent)]
    Write(WriteFault),
    /// Before the request was looked at.
    #[error("the node has closed the stream")]
    Closed,
}

/// A request without an answer.
#[derive(Debug)]
pub(in crate::data) struct CallError {
    pub(in crate::data) fault: Fault,
    /// The request, where the node has certainly not seen it and it is still whole.
    pub(in crate::data) unsent: Option<Box<Request<Body>>>,
}

impl From<Malformed> for CallError {
    fn from(malformed: Malformed) -> Self {
        ReadFault::from(malformed).into()
    }
}

impl From<WriteFault> for CallError {
    fn from(fault: WriteFault) -> Self {
        Self { fault: Fault::Write(fault), unsent: None }
    }
}

impl From<ReadFault> for CallError {
    fn from(fault: ReadFault) -> Self {
        Self { fault: Fault::Read(fault), unsent: None }
    }
}

/// How the request's body fares.
#[derive(Debug)]
enum Upload {
    Done(SendHalf),
    Running(Task),
    /// The node wants no more of it, and answers all the same.
    Unwanted,
}

/// Ends with whoever waits for it.
#[derive(Debug)]
struct Task(JoinHandle<Result<Upload, WriteFault>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The rest of an exchange whose response is still coming in. Dropped, the exchange is cancelled.
#[derive(Debug)]
pub(super) struct Busy {
    upload: Upload,
    held: Held,
    pool: Arc<Pool<Stream>>,
}

impl Busy {
    /// The response is through: the stream goes back, once the request is through as well.
    pub(super) fn done(self, reader: Reader) {
        let Self { upload, held, pool } = self;
        if !reader.is_between() {
            return;
        }
        match upload {
            Upload::Done(send) => pool.put(Stream { send, reader, held }),
            // The answer came before the end of the request's body: rare. The task ends with the stream.
            Upload::Running(mut task) if tokio::runtime::Handle::try_current().is_ok() => {
                tokio::spawn(async move {
                    if let Ok(Ok(Upload::Done(send))) = (&mut task.0).await {
                        pool.put(Stream { send, reader, held });
                    }
                });
            }
            Upload::Running(_) | Upload::Unwanted => {}
        }
    }
}

impl Stream {
    pub(in crate::data) fn new(
        send: SendStream,
        receive: RecvStream,
        pool: &Arc<Pool<Stream>>,
        lease: Option<Arc<DropGuard>>,
    ) -> Self {
        Self { send: SendHalf::new(send), reader: Reader::new(receive), held: Held { _open: pool.count(), lease } }
    }

    /// Sends a request and waits for the response head; the stream goes to the pool when both are through. Dropping the
    /// future or the response's body cancels the request at the node.
    ///
    /// # Errors
    /// [`CallError`], with the request where it may go out again.
    pub(in crate::data) async fn call(
        self,
        pool: &Arc<Pool<Stream>>,
        service: &ServiceName,
        request: Request<Body>,
    ) -> Result<Response<Body>, CallError> {
        let Self { mut send, mut reader, held } = self;
        let method = request.method().clone();
        let head = match Writer::request(&request, service) {
            Ok(head) => head,
            Err(error) => return Err(WriteFault::from(error).into()),
        };
        // One that is whole stays in our hands until its answer: it may have to go out again.
        let again = match request.body() {
            Body::Empty => Some(Body::Empty),
            Body::Full(bytes) => Some(Body::Full(bytes.clone())),
            _ => None,
        };
        let (mut upload, whole) = match again {
            Some(body) => match send.message(head, body).await {
                Ok(()) => (Upload::Done(send), Some(request)),
                Err(fault) => {
                    let unsent = (!send.has_begun()).then(|| Box::new(request));
                    return Err(CallError { fault: Fault::Write(fault), unsent });
                }
            },
            None => {
                // One that is streamed cannot go out again: a stream that the node has given up is seen before.
                if futures::poll!(pin!(send.gone())).is_ready() {
                    return Err(CallError { fault: Fault::Closed, unsent: Some(Box::new(request)) });
                }
                (upload(send, head, request.into_body()).await?, None)
            }
        };
        for _ in 0..=INTERIM_MAX {
            let Some((last, payload)) = answer(&mut reader, &mut upload).await? else {
                return Err(CallError { fault: Fault::Closed, unsent: whole.map(Box::new) });
            };
            let (head, ()) = frame::response(payload)?.into_parts();
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                let (Upload::Done(send), true) = (upload, last) else { return Err(Malformed::Order.into()) };
                let Some(send) = send.into_raw() else { return Err(Malformed::Order.into()) };
                let (ahead, receive) = reader.into_raw();
                let mut response = Response::from_parts(head, Body::Empty);
                let stream = QuicStream::opened(send, receive, ahead, held.lease);
                response.extensions_mut().insert(Switch::here(stream));
                return Ok(response);
            }
            if head.status.is_informational() {
                continue;
            }
            let told = length(&head.headers);
            let busy = Busy { upload, held, pool: pool.clone() };
            let body = match if last { Some(Default::default()) } else { reader.whole_body() } {
                Some(bytes) => {
                    let bare = last && (method == Method::HEAD || head.status == StatusCode::NOT_MODIFIED);
                    if !bare && told.is_some_and(|told| told != bytes.len() as u64) {
                        return Err(Malformed::Order.into());
                    }
                    busy.done(reader);
                    Body::full(bytes)
                }
                None => Body::Stream(Box::new(StreamBody::new(reader, Origin::Gateway(Box::new(busy)), told))),
            };
            return Ok(Response::from_parts(head, body));
        }
        Err(Malformed::Order.into())
    }
}

/// The next head that comes in. A request's body that breaks off ends the exchange before any answer counts.
async fn answer(reader: &mut Reader, upload: &mut Upload) -> Result<Option<(bool, Bytes)>, CallError> {
    while let Upload::Running(task) = upload {
        tokio::select! {
            biased;
            end = &mut task.0 => match end {
                Ok(end) => *upload = end?,
                Err(_) => *upload = Upload::Unwanted,
            },
            head = reader.head() => return Ok(head?),
        }
    }
    Ok(reader.head().await?)
}

/// Sends a request whose body is still coming in: as far as it goes at once, and the rest in a task.
async fn upload(mut send: SendHalf, head: Writer, body: Body) -> Result<Upload, WriteFault> {
    let mut writing = Box::pin(async move {
        match send.message(head, body).await {
            Ok(()) => Ok(Upload::Done(send)),
            Err(fault) if fault.is_stopped() => Ok(Upload::Unwanted),
            Err(fault) => Err(fault),
        }
    });
    match futures::poll!(writing.as_mut()) {
        Poll::Ready(end) => end,
        Poll::Pending => Ok(Upload::Running(Task(tokio::spawn(writing)))),
    }
}
