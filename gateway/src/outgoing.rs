//! The body of every answer: what the service sends, with the in-flight count held until its end. Not boxed.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use paceline_mesh::http::{Body, BoxError};
use tokio::time::{Sleep, sleep_until};

use crate::{callers::Place, metrics::Flight, socket::Pending};

/// A response's body.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    body: Body,
    /// Dropped with the body: the request is in flight until its last byte is out, or the client is gone.
    _flight: Option<Flight>,
    /// The end of the whole request, where its service has one.
    until: Option<Pin<Box<Sleep>>>,
    /// The same for the client's connection.
    _pending: Option<Pending>,
    /// The same for what its caller may have at once.
    _place: Option<Place>,
}

impl Outgoing {
    /// Broken off at `until`: what is not whole must not look so.
    pub(crate) fn of_service(body: Body, flight: Flight, until: Option<Instant>) -> Self {
        let until = until.map(|until| Box::pin(sleep_until(until.into())));
        Self { body, _flight: Some(flight), until, _pending: None, _place: None }
    }

    pub(crate) fn own(body: Body) -> Self {
        Self { body, _flight: None, until: None, _pending: None, _place: None }
    }

    /// Holds the caller's place until the body is dropped.
    pub(crate) fn hold_place(mut self, place: Place) -> Self {
        self._place = Some(place);
        self
    }

    /// Holds the connection's note until the body is dropped.
    pub(crate) fn hold(mut self, pending: Pending) -> Self {
        self._pending = Some(pending);
        self
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending()
            && let Some(until) = &mut self.until
            && until.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err("the time for the whole request was up".into())));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
