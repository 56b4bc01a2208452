//! Substreams of a connection that no swarm drives yet.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox};

use super::Refused;

pub(super) async fn open(mux: &mut StreamMuxerBox) -> Result<SubstreamBox, Refused> {
    poll_fn(|cx| {
        let opened = mux.poll_outbound_unpin(cx);
        if opened.is_pending() {
            let _ = mux.poll_unpin(cx);
        }
        opened
    })
    .await
    .map_err(|e| Refused::Broken(e.to_string()))
}

pub(super) async fn accept(mux: &mut StreamMuxerBox) -> Result<SubstreamBox, Refused> {
    poll_fn(|cx| {
        let accepted = mux.poll_inbound_unpin(cx);
        if accepted.is_pending() {
            let _ = mux.poll_unpin(cx);
        }
        accepted
    })
    .await
    .map_err(|e| Refused::Broken(e.to_string()))
}

/// Runs a future that touches only substreams while the muxer is polled: yamux moves no byte otherwise.
pub(super) async fn driven<T>(
    mux: &mut StreamMuxerBox,
    future: impl Future<Output = Result<T, Refused>>,
) -> Result<T, Refused> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = future.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            match mux.poll_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => {
                    // what has arrived before the end may still complete the exchange
                    return match future.as_mut().poll(cx) {
                        Poll::Ready(result) => Poll::Ready(result),
                        Poll::Pending => Poll::Ready(Err(Refused::Broken(e.to_string()))),
                    };
                }
            }
        }
    })
    .await
}
