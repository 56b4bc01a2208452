//! A bidirectional QUIC stream as one object that reads and writes, for connections that were upgraded.
//!
//! Only a stream that was shut down ends cleanly at the other side: dropped in any other state it is reset, so that a
//! body that was cut short is never taken for a complete one. (quinn alone would finish a dropped stream.)

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::DropGuard;

use super::transport::code;

/// Most bytes that one vectored write gathers into a chunk of quinn's.
const GATHER_BYTES_MAX: usize = 64 * 1024;

enum End {
    Open,
    /// Finished; resolves when the other side has it all, or does not want it any more.
    Finishing(Pin<Box<dyn Future<Output = ()> + Send + Sync>>),
    Done,
}

/// Both halves of a stream.
pub(super) struct QuicStream {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    /// Read before this was a stream of bytes.
    ahead: VecDeque<Bytes>,
    lingers: bool,
    end: End,
    /// Tells whoever opened the connection that it is still in use.
    _lease: Option<Arc<DropGuard>>,
}

impl QuicStream {
    /// A stream that this side has opened. Its shutdown does not wait for the other side: who cancels is not held up
    /// by what it has sent before.
    pub(super) fn opened(
        send: quinn::SendStream,
        receive: quinn::RecvStream,
        ahead: VecDeque<Bytes>,
        lease: Option<Arc<DropGuard>>,
    ) -> Self {
        Self { send, receive, ahead, lingers: false, end: End::Open, _lease: lease }
    }

    /// A stream that the other side has opened. Its shutdown is done when the other side has received everything:
    /// closing the connection before would lose the end of a response.
    pub(super) fn accepted(send: quinn::SendStream, receive: quinn::RecvStream, ahead: VecDeque<Bytes>) -> Self {
        Self { send, receive, ahead, lingers: true, end: End::Open, _lease: None }
    }
}

impl AsyncRead for QuicStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(piece) = this.ahead.front_mut() else {
            return AsyncRead::poll_read(Pin::new(&mut this.receive), cx, buf);
        };
        buf.put_slice(&piece.split_to(piece.len().min(buf.remaining())));
        if piece.is_empty() {
            this.ahead.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.get_mut().send), cx, buf)
    }

    /// quinn copies each write into a chunk of its own, so the slices are gathered into one: one copy, one lock of the
    /// connection.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        let Some(first) = filled.next() else { return Poll::Ready(Ok(0)) };
        if filled.next().is_none() || first.len() >= GATHER_BYTES_MAX {
            return self.poll_write(cx, first);
        }
        let total = slices.iter().map(|slice| slice.len()).sum::<usize>().min(GATHER_BYTES_MAX);
        let mut gathered = Vec::with_capacity(total);
        for slice in slices {
            let left = total - gathered.len();
            gathered.extend_from_slice(&slice[..slice.len().min(left)]);
        }
        let mut chunks = [Bytes::from(gathered)];
        // Nothing of it was written while this is pending, so the future need not outlive the call.
        let written = pin!(self.get_mut().send.write_chunks(&mut chunks)).poll(cx);
        written.map(|result| result.map(|written| written.bytes).map_err(Into::into))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // quinn sends by itself what was written.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let End::Open = this.end {
            // A stream that the other side has stopped already is as good as finished.
            let _ = this.send.finish();
            if !this.lingers {
                this.end = End::Done;
                return Poll::Ready(Ok(()));
            }
            let received = this.send.stopped();
            this.end = End::Finishing(Box::pin(async move {
                let _ = received.await;
            }));
        }
        if let End::Finishing(received) = &mut this.end {
            ready!(received.as_mut().poll(cx));
            this.end = End::Done;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for QuicStream {
    fn drop(&mut self) {
        if let End::Open = self.end {
            // Fails only where the stream has ended anyway.
            let _ = self.send.reset(code::CANCELLED);
        }
        // Without this, the other side could go on sending a body that nobody reads; where all was read it does nothing.
        let _ = self.receive.stop(code::CANCELLED);
    }
}
