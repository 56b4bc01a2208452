//! A body that is still coming in on a stream, and what becomes of the stream when it has ended.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::{Frame as Part, SizeHint};

use super::{
    client::Busy,
    reader::{Piece, Reader},
};
use crate::{data::transport::code, http::BoxError};

/// What is left of a body with which its reader is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Nothing,
    /// The end alone: whoever knows the length does not ask for it.
    End,
    Body,
}

/// Where a node finds its reader again when whoever read the request's body is done with it.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<Option<(Reader, Rest)>>);

impl Slot {
    /// The reader, and what it has not read.
    pub(super) fn take(&self) -> Option<(Reader, Rest)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, reader: Reader, rest: Rest) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((reader, rest));
    }
}

/// Who had the reader.
#[derive(Debug)]
pub(super) enum Origin {
    /// A gateway, which reads a response; boxed, for it is the rest of a whole exchange.
    Gateway(Box<Busy>),
    /// A node, which reads a request.
    Node(Arc<Slot>),
}

/// See the module.
#[derive(Debug)]
pub struct StreamBody {
    /// `None` at the end.
    reading: Option<(Reader, Origin)>,
    /// As the head told it.
    left: Option<u64>,
}

/// What a head says of its body's length.
pub(super) fn length(fields: &HeaderMap) -> Option<u64> {
    fields.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl StreamBody {
    pub(super) fn new(reader: Reader, origin: Origin, left: Option<u64>) -> Self {
        Self { reading: Some((reader, origin)), left }
    }

    fn end(&mut self) {
        match self.reading.take() {
            Some((reader, Origin::Gateway(busy))) => busy.done(reader),
            Some((reader, Origin::Node(slot))) => slot.put(reader, Rest::Nothing),
            None => {}
        }
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Part<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some((reader, _)) = &mut this.reading else { return Poll::Ready(None) };
        match ready!(reader.poll_piece(cx)) {
            Ok(Piece::Data(data, last)) => {
                this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                if last {
                    this.end();
                }
                Poll::Ready(Some(Ok(Part::data(data))))
            }
            Ok(Piece::Trailers(trailers)) => {
                this.end();
                Poll::Ready(Some(Ok(Part::trailers(trailers))))
            }
            Ok(Piece::End) => {
                this.end();
                Poll::Ready(None)
            }
            Err(fault) => {
                drop(this.reading.take().map(|(mut reader, origin)| {
                    reader.stop(code::CANCELLED);
                    origin
                }));
                Poll::Ready(Some(Err(io::Error::other(fault).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reading.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.reading, self.left) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Some(left)) => SizeHint::with_exact(left),
            (Some(_), None) => SizeHint::default(),
        }
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        match self.reading.take() {
            // Nobody wants the rest: the other side is told, and stops.
            Some((mut reader, Origin::Gateway(busy))) => {
                reader.stop(code::CANCELLED);
                drop(busy);
            }
            Some((reader, Origin::Node(slot))) => {
                slot.put(reader, if self.left == Some(0) { Rest::End } else { Rest::Body });
            }
            None => {}
        }
    }
}
