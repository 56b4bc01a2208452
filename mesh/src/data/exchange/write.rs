//! Writes a message to a QUIC stream: the head together with what is at hand of the body, then the body as it comes, its
//! bytes handed to quinn without a copy.

use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame as Part};
use http_body_util::BodyExt as _;
use quinn::{SendStream, WriteError};

use super::frame::{DATA_BYTES_MAX, Frame, HEADER_BYTES, Kind, TooLong, Writer};
use crate::{
    data::transport::code,
    http::{Body, BoxError},
};

/// Data up to this is copied behind its frame's header: cheaper than a piece of its own.
const COPIED_BYTES_MAX: usize = 512;
/// Pieces of a body that are at hand are handed over together, from so many bytes on no further ones.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// Why a message could not be written to its end.
#[derive(Debug, thiserror::Error)]
pub(in crate::data) enum WriteFault {
    #[error("{0}")]
    Lost(#[from] WriteError),
    /// The body's own error, not the stream's.
    #[error("{0}")]
    Body(BoxError),
    #[error("{0}")]
    TooLong(#[from] TooLong),
}

impl WriteFault {
    /// Whether the other side wants nothing more of this stream.
    pub(in crate::data) fn is_stopped(&self) -> bool {
        matches!(self, WriteFault::Lost(WriteError::Stopped(_)))
    }
}

/// The sending half of a stream. Dropped in the middle of a message it is reset, so that one that was cut short is never
/// taken for a whole one (quinn alone would finish it); else it is finished.
#[derive(Debug)]
pub(super) struct SendHalf {
    /// `None` only after [`SendHalf::into_raw`].
    inner: Option<SendStream>,
    between: bool,
    /// Something of the last message was taken by the stream.
    begun: bool,
}

impl SendHalf {
    pub(super) fn new(inner: SendStream) -> Self {
        Self { inner: Some(inner), between: true, begun: false }
    }

    /// Whether something of the last message may have gone out.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    async fn put(&mut self, mut pieces: &mut [Bytes]) -> Result<(), WriteFault> {
        let stream = self.inner.as_mut().ok_or(WriteError::ClosedStream)?;
        while !pieces.is_empty() {
            let written = stream.write_chunks(pieces).await?;
            self.begun = true;
            pieces = &mut pieces[written.chunks..];
        }
        Ok(())
    }

    /// Resolves when the other side wants nothing more of this stream, or is gone: known at once, also while nothing is
    /// sent.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let stopped = self.inner.as_ref().map(SendStream::stopped);
        async move {
            if let Some(stopped) = stopped
                && !matches!(stopped.await, Ok(None))
            {
                return;
            }
            // It has received everything.
            std::future::pending().await
        }
    }

    /// Ends the stream, and waits until the other side has everything, or is gone.
    pub(super) async fn finish(mut self) {
        if let Some(mut stream) = self.inner.take_if(|_| self.between)
            && stream.finish().is_ok()
        {
            let _ = stream.stopped().await;
        }
    }

    /// The stream, for other bytes than messages.
    pub(super) fn into_raw(mut self) -> Option<SendStream> {
        self.inner.take()
    }

    /// Gives up in the middle of a message.
    pub(super) fn abandon(&mut self) {
        self.between = false;
    }

    /// Writes a message: a head that is written but for its end, and the body.
    pub(super) async fn message(&mut self, head: Writer, body: Body) -> Result<(), WriteFault> {
        (self.between, self.begun) = (false, false);
        self.write(head, body).await?;
        self.between = true;
        Ok(())
    }

    async fn write(&mut self, head: Writer, mut body: Body) -> Result<(), WriteFault> {
        let none = body.is_end_stream();
        // What is at hand of the body goes out with the head.
        let mut next = if none { Poll::Ready(None) } else { futures::poll!(body.frame()) };
        let mut batch = Batch::new(head.finish(Kind::Head, matches!(next, Poll::Ready(None))));
        if matches!(next, Poll::Ready(None)) {
            return self.put(&mut batch.take()).await;
        }
        loop {
            let part = match next {
                Poll::Ready(part) => part,
                Poll::Pending => {
                    self.put(&mut batch.take()).await?;
                    body.frame().await
                }
            };
            let last = match part.transpose().map_err(WriteFault::Body)?.map(Part::into_data) {
                None => {
                    batch.data(Bytes::new(), true);
                    true
                }
                Some(Ok(data)) => {
                    let last = body.is_end_stream();
                    batch.data(data, last);
                    last
                }
                Some(Err(trailers)) => {
                    batch.trailers(trailers)?;
                    true
                }
            };
            if last || batch.bytes >= BATCH_BYTES_MAX {
                self.put(&mut batch.take()).await?;
            }
            if last {
                return Ok(());
            }
            next = futures::poll!(body.frame());
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if let Some(stream) = self.inner.as_mut().filter(|_| !self.between) {
            // Fails only where the stream has ended anyway.
            let _ = stream.reset(code::CANCELLED);
        }
    }
}

/// Frames that go out together.
struct Batch {
    pieces: Vec<Bytes>,
    /// What is small, in one piece.
    tail: BytesMut,
    /// Of all of them.
    bytes: usize,
}

impl Batch {
    fn new(head: BytesMut) -> Self {
        Self { pieces: Vec::new(), bytes: head.len(), tail: head }
    }

    fn data(&mut self, mut data: Bytes, last: bool) {
        loop {
            let piece = data.split_to(data.len().min(DATA_BYTES_MAX));
            let frame = Frame { kind: Kind::Data, last: last && data.is_empty(), length: piece.len() };
            self.bytes += HEADER_BYTES + piece.len();
            self.tail.extend_from_slice(&frame.bytes());
            if piece.len() <= COPIED_BYTES_MAX {
                self.tail.extend_from_slice(&piece);
            } else {
                self.pieces.push(self.tail.split().freeze());
                self.pieces.push(piece);
            }
            if data.is_empty() {
                return;
            }
        }
    }

    /// What is neither data nor trailers is none of ours, and ends the message all the same.
    fn trailers(&mut self, part: Part<Bytes>) -> Result<(), TooLong> {
        let fields = part.into_trailers().unwrap_or_default();
        self.tail.extend_from_slice(&Writer::trailers(&fields)?.finish(Kind::Trailers, true));
        Ok(())
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.bytes = 0;
        let mut pieces = std::mem::take(&mut self.pieces);
        if !self.tail.is_empty() {
            pieces.push(self.tail.split().freeze());
        }
        pieces
    }
}
