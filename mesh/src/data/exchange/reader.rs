//! Reads messages from a QUIC stream: heads whole, bodies in pieces as they come, never more at once than a few packets.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use quinn::{ReadError, RecvStream};

use super::frame::{self, Frame, HEADER_BYTES, Kind, Malformed};

/// Pieces that are taken from quinn at once: one is what a packet carried.
const PIECES_MAX: usize = 32;
/// Pieces of a body are joined up to this: each piece that goes on costs more than the copy.
const JOIN_BYTES_MAX: usize = 64 * 1024;

/// Why nothing more can be read.
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::data) enum ReadFault {
    #[error("{0}")]
    Lost(#[from] ReadError),
    #[error("the peer does not keep to the protocol: {0}")]
    Malformed(#[from] Malformed),
    #[error("the stream ended in the middle of a message")]
    Cut,
}

/// A piece of a body.
#[derive(Debug)]
pub(super) enum Piece {
    /// Some of it, and whether it is the end.
    Data(Bytes, bool),
    /// The end.
    Trailers(HeaderMap),
    /// The end.
    End,
}

/// One direction of a stream, as messages.
#[derive(Debug)]
pub(in crate::data) struct Reader {
    receive: RecvStream,
    /// Read, and not yet understood.
    ahead: VecDeque<Bytes>,
    /// A frame whose header was read, and what is left of its payload.
    frame: Option<Frame>,
}

impl Reader {
    pub(super) fn new(receive: RecvStream) -> Self {
        Self { receive, ahead: VecDeque::new(), frame: None }
    }

    /// Whether it stands between two messages.
    pub(super) fn is_between(&self) -> bool {
        self.frame.is_none() && self.ahead.is_empty()
    }

    /// Refuses whatever is still to come.
    pub(super) fn stop(&mut self, code: quinn::VarInt) {
        // Fails only where all was read.
        let _ = self.receive.stop(code);
    }

    /// The stream itself, and what was read ahead of its time.
    pub(super) fn into_raw(self) -> (VecDeque<Bytes>, RecvStream) {
        (self.ahead, self.receive)
    }

    /// Takes more from the stream; `false` is its end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ReadFault>> {
        let mut pieces = [const { Bytes::new() }; PIECES_MAX];
        // Nothing was taken while this is pending, so the future need not outlive the call.
        let read = ready!(pin!(self.receive.read_chunks(&mut pieces)).poll(cx))?;
        let Some(count) = read else { return Poll::Ready(Ok(false)) };
        self.ahead.extend(pieces.into_iter().take(count));
        Poll::Ready(Ok(true))
    }

    fn held(&self) -> usize {
        self.ahead.iter().map(Bytes::len).sum()
    }

    /// `length` bytes in one piece, where so many were read.
    fn take(&mut self, length: usize) -> Option<Bytes> {
        let front = self.ahead.front_mut();
        if let Some(front) = front.filter(|front| front.len() > length) {
            return Some(front.split_to(length));
        }
        if length == 0 {
            return Some(Bytes::new());
        }
        if self.ahead.front().is_some_and(|front| front.len() == length) {
            return self.ahead.pop_front();
        }
        if self.held() < length {
            return None;
        }
        let mut joined = BytesMut::with_capacity(length);
        while joined.len() < length {
            let piece = self.take_up_to(length - joined.len())?;
            joined.extend_from_slice(&piece);
        }
        Some(joined.freeze())
    }

    /// What is at the front, but no more than `length` bytes.
    fn take_up_to(&mut self, length: usize) -> Option<Bytes> {
        let front = self.ahead.front_mut()?;
        if front.len() > length {
            return Some(front.split_to(length));
        }
        self.ahead.pop_front()
    }

    fn take_header(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some(header) = self.take(HEADER_BYTES) else { return Ok(None) };
        Frame::read(header[..].try_into().map_err(|_| Malformed::Short)?).map(Some)
    }

    /// Waits until something of the next message is here; `false` where the stream has ended instead.
    pub(super) async fn begins(&mut self) -> Result<bool, ReadFault> {
        if !self.is_between() {
            return Ok(true);
        }
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// The next message's head: whether the message ends with it, and its payload. `None` where the stream has ended
    /// instead. Nothing is lost when the future is dropped.
    pub(super) async fn head(&mut self) -> Result<Option<(bool, Bytes)>, ReadFault> {
        poll_fn(|cx| self.poll_head(cx)).await
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<(bool, Bytes)>, ReadFault>> {
        loop {
            if self.frame.is_none() {
                self.frame = self.take_header()?;
            }
            if let Some(frame) = self.frame {
                if frame.kind != Kind::Head {
                    return Poll::Ready(Err(Malformed::Order.into()));
                }
                if let Some(payload) = self.take(frame.length) {
                    self.frame = None;
                    // Its own memory: quinn's belongs to a whole batch of packets.
                    return Poll::Ready(Ok(Some((frame.last, Bytes::copy_from_slice(&payload)))));
                }
            }
            if !ready!(self.poll_fill(cx))? {
                return Poll::Ready(if self.is_between() { Ok(None) } else { Err(ReadFault::Cut) });
            }
        }
    }

    /// Where a whole body is here already, in one frame that ends the message: that body.
    pub(super) fn whole_body(&mut self) -> Option<Bytes> {
        let front = self.ahead.front()?;
        let header = front.get(..HEADER_BYTES)?.try_into().ok()?;
        let frame = Frame::read(header).ok().filter(|frame| frame.kind == Kind::Data && frame.last)?;
        if frame.length > JOIN_BYTES_MAX || self.held() < HEADER_BYTES + frame.length {
            return None;
        }
        self.take(HEADER_BYTES)?;
        self.take(frame.length)
    }

    /// The end of a message whose body was read.
    ///
    /// # Errors
    /// There is more of it.
    pub(super) async fn end(&mut self) -> Result<(), ReadFault> {
        match poll_fn(|cx| self.poll_piece(cx)).await? {
            Piece::End | Piece::Trailers(_) => Ok(()),
            Piece::Data(..) => Err(Malformed::Order.into()),
        }
    }

    /// The next piece of the message's body.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, ReadFault>> {
        let mut joined = Joined::default();
        loop {
            if self.frame.is_none() {
                self.frame = self.take_header()?;
            }
            match self.frame {
                Some(Frame { kind: Kind::Head, .. }) => return Poll::Ready(Err(Malformed::Order.into())),
                Some(Frame { kind: Kind::Trailers, length, .. }) => {
                    if let Some(data) = joined.some() {
                        return Poll::Ready(Ok(Piece::Data(data, false)));
                    }
                    if let Some(payload) = self.take(length) {
                        self.frame = None;
                        let trailers = frame::trailers(Bytes::copy_from_slice(&payload))?;
                        return Poll::Ready(Ok(Piece::Trailers(trailers)));
                    }
                }
                Some(Frame { kind: Kind::Data, last, length }) => {
                    let mut left = length;
                    while left > 0 && joined.length() < JOIN_BYTES_MAX {
                        let Some(piece) = self.take_up_to(left.min(JOIN_BYTES_MAX - joined.length())) else { break };
                        left -= piece.len();
                        joined.push(piece, left);
                    }
                    let done = left == 0;
                    self.frame = (!done).then_some(Frame { kind: Kind::Data, last, length: left });
                    if done && last {
                        return Poll::Ready(Ok(joined.some().map_or(Piece::End, |data| Piece::Data(data, true))));
                    }
                    if joined.length() >= JOIN_BYTES_MAX {
                        return Poll::Ready(Ok(Piece::Data(joined.some().unwrap_or_default(), false)));
                    }
                    if done {
                        continue;
                    }
                }
                None => {}
            }
            // What is here goes on at once; more is taken along where more is here.
            match self.poll_fill(cx) {
                Poll::Ready(Ok(true)) => {}
                other => {
                    if let Some(data) = joined.some() {
                        // What else there was to say is said again at the next call.
                        return Poll::Ready(Ok(Piece::Data(data, false)));
                    }
                    return match ready!(other) {
                        Ok(_) => Poll::Ready(Err(ReadFault::Cut)),
                        Err(fault) => Poll::Ready(Err(fault)),
                    };
                }
            }
        }
    }
}

/// Pieces that follow one another: copied only when there is more than one.
#[derive(Default)]
struct Joined {
    first: Bytes,
    all: BytesMut,
}

impl Joined {
    /// `hint`: how much more may follow.
    fn push(&mut self, piece: Bytes, hint: usize) {
        if self.length() == 0 {
            self.first = piece;
            return;
        }
        if self.all.is_empty() {
            let room = (self.first.len() + piece.len() + hint).min(JOIN_BYTES_MAX).max(self.first.len() + piece.len());
            self.all.reserve(room);
            self.all.extend_from_slice(&self.first);
            self.first = Bytes::new();
        }
        self.all.extend_from_slice(&piece);
    }

    fn length(&self) -> usize {
        self.first.len() + self.all.len()
    }

    fn some(&mut self) -> Option<Bytes> {
        if self.length() == 0 {
            return None;
        }
        Some(if self.all.is_empty() { std::mem::take(&mut self.first) } else { self.all.split().freeze() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_in_order_and_a_single_one_is_not_copied() {
        let mut joined = Joined::default();
        assert!(joined.some().is_none());
        let one = Bytes::from_static(b"one");
        joined.push(one.clone(), 0);
        assert_eq!(joined.some().map(|bytes| bytes.as_ptr()), Some(one.as_ptr()));
        for piece in ["a", "bc", "def"] {
            joined.push(Bytes::from_static(piece.as_bytes()), 3);
        }
        assert_eq!((joined.length(), joined.some()), (6, Some(Bytes::from_static(b"abcdef"))));
        assert_eq!(joined.length(), 0);
    }
}
