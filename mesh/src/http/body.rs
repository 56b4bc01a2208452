//! One body type for every hop: streamed, never buffered, and without a box on the usual path.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::client::Checkin;
use crate::data::exchange::body::StreamBody;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streamed body: what hyper received, bytes at hand, or anything else boxed. Never buffered.
///
/// Trailers pass. A body that was cut short ends with an error, never as if it were complete.
#[derive(Debug, Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes at hand, given out once.
    Full(Option<Bytes>),
    /// As hyper receives it.
    Incoming(Incoming),
    /// As hyper receives it on a pooled connection, which goes back to its pool when the body has ended; dropped
    /// before that, the connection is closed and the sender of the body sees it.
    Pooled(PooledBody),
    /// From the other side of a hop between gateway and node.
    Stream(Box<StreamBody>),
    /// Anything else.
    Boxed(http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>),
}

/// See [`Body::Pooled`].
#[derive(Debug)]
pub struct PooledBody {
    incoming: Incoming,
    checkin: Option<Checkin>,
}

impl PooledBody {
    pub(super) fn new(incoming: Incoming, checkin: Checkin) -> Self {
        Self { incoming, checkin: Some(checkin) }
    }
}

impl Body {
    /// Bytes at hand.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Body::Full(Some(bytes.into()))
    }

    /// Any other body.
    pub fn boxed<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Body::Boxed(http_body_util::combinators::UnsyncBoxBody::new(http_body_util::BodyExt::map_err(body, Into::into)))
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        if http_body::Body::is_end_stream(&incoming) { Body::Empty } else { Body::Incoming(incoming) }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => {
                Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
            }
            Body::Incoming(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Body::Pooled(pooled) => {
                let frame = ready!(Pin::new(&mut pooled.incoming).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) if frame.is_data() && !pooled.incoming.is_end_stream() => {}
                    Some(Err(_)) => pooled.checkin = None,
                    // The last data, the trailers or the end: consumers need not poll again after any of these.
                    _ => {
                        if let Some(checkin) = pooled.checkin.take() {
                            checkin.done();
                        }
                    }
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Body::Stream(body) => Pin::new(&mut **body).poll_frame(cx),
            Body::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Body::Incoming(incoming) => incoming.is_end_stream(),
            Body::Pooled(pooled) => pooled.incoming.is_end_stream(),
            Body::Stream(body) => body.is_end_stream(),
            Body::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::Incoming(incoming) => incoming.size_hint(),
            Body::Pooled(pooled) => pooled.incoming.size_hint(),
            Body::Stream(body) => body.size_hint(),
            Body::Boxed(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn bytes_at_hand_come_once_and_with_their_size() {
        let body = Body::full("abc");
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(!body.is_end_stream());
        assert_eq!(body.collect().await.expect("no error").to_bytes(), "abc");
        assert!(Body::full("").is_end_stream());
        assert!(Body::Empty.collect().await.expect("no error").to_bytes().is_empty());
    }

    #[tokio::test]
    async fn any_body_fits_in() {
        let body = Body::boxed(Full::new(Bytes::from_static(b"xyz")));
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(body.collect().await.expect("no error").to_bytes(), "xyz");
    }
}
