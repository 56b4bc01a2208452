//! One connection's two lines: the one that we write to, opened with the first message, and the one that the peer opened.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use futures::{AsyncRead as _, AsyncWrite as _};
use libp2p::{
    Stream, StreamProtocol,
    core::upgrade::ReadyUpgrade,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};

use super::{Traffic, frames::Cutter, queue::Queue};

/// Times that a line is opened anew without a message having gone out in between.
const REOPEN_MAX: u32 = 3;
/// Lines of the peer on one connection that ended with rubbish.
const RUBBISH_MAX: u32 = 3;
/// Bytes read at once.
const READ_BYTES: usize = 4 * 1024;
/// A write buffer that has grown beyond this is given back.
const KEPT_BYTES: usize = 4 * 1024;

/// What a connection tells.
#[derive(Debug)]
pub(crate) enum Seen {
    /// A whole message.
    Frame(Vec<u8>),
    /// No line can be kept open.
    Broken(&'static str),
}

enum Outbound {
    Closed,
    Opening,
    Open(Writer),
    /// Told so; nothing more is tried on this connection.
    Broken,
}

struct Writer {
    stream: Stream,
    buffer: Vec<u8>,
    written: usize,
    unflushed: bool,
}

struct Reader {
    stream: Stream,
    cutter: Cutter,
}

/// The lines of one connection.
pub(crate) struct Handler {
    protocol: StreamProtocol,
    queue: Arc<Queue>,
    traffic: Arc<Traffic>,
    outbound: Outbound,
    inbound: Option<Reader>,
    received: VecDeque<Vec<u8>>,
    failures: u32,
    rubbish: u32,
}

type ToBehaviour = ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, (), Seen>;

impl Handler {
    pub(super) fn new(protocol: StreamProtocol, queue: Arc<Queue>, traffic: Arc<Traffic>) -> Self {
        Self {
            protocol,
            queue,
            traffic,
            outbound: Outbound::Closed,
            inbound: None,
            received: VecDeque::new(),
            failures: 0,
            rubbish: 0,
        }
    }

    /// The next message of the peer. Nothing is read while messages wait for the loop.
    fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Poll<Seen> {
        loop {
            if let Some(message) = self.received.pop_front() {
                self.traffic.received.fetch_add(1, Relaxed);
                self.traffic.received_bytes.fetch_add(message.len() as u64, Relaxed);
                return Poll::Ready(Seen::Frame(message));
            }
            let Some(reader) = &mut self.inbound else { return Poll::Pending };
            let mut chunk = [0; READ_BYTES];
            match ready!(Pin::new(&mut reader.stream).poll_read(cx, &mut chunk)) {
                // the peer opens another when it has something to say
                Ok(0) | Err(_) => self.inbound = None,
                Ok(n) => {
                    if reader.cutter.take(&chunk[..n], &mut self.received).is_err() {
                        self.inbound = None;
                        self.rubbish += 1;
                        if self.rubbish >= RUBBISH_MAX {
                            return Poll::Ready(Seen::Broken("the peer sends what is no message"));
                        }
                    }
                }
            }
        }
    }

    fn poll_outbound(&mut self, cx: &mut Context<'_>) -> Poll<ToBehaviour> {
        loop {
            match &mut self.outbound {
                Outbound::Broken | Outbound::Opening => return Poll::Pending,
                Outbound::Closed if self.failures > REOPEN_MAX => {
                    self.outbound = Outbound::Broken;
                    return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Seen::Broken("no line stays open")));
                }
                Outbound::Closed => {
                    ready!(self.queue.poll_filled(cx));
                    self.outbound = Outbound::Opening;
                    let protocol = SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ());
                    return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
                }
                Outbound::Open(writer) => match ready!(writer.poll(cx, &self.queue, &self.traffic)) {
                    Ok(()) => self.failures = 0,
                    Err(error) => {
                        tracing::debug!(%error, "a line broke");
                        self.failed();
                    }
                },
            }
        }
    }

    fn failed(&mut self) {
        self.outbound = Outbound::Closed;
        self.failures += 1;
        self.traffic.reopened.fetch_add(1, Relaxed);
    }
}

impl Writer {
    /// Ready each time that everything queued so far is on its way.
    fn poll(&mut self, cx: &mut Context<'_>, queue: &Queue, traffic: &Traffic) -> Poll<io::Result<()>> {
        loop {
            if let Some(rest) = self.buffer.get(self.written..).filter(|rest| !rest.is_empty()) {
                match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    n => self.written += n,
                }
                continue;
            }
            self.unflushed |= self.written > 0;
            self.written = 0;
            self.buffer.clear();
            if queue.poll_filled(cx).is_ready() {
                let (count, bytes) = queue.batch(&mut self.buffer);
                traffic.sent.fetch_add(count as u64, Relaxed);
                traffic.sent_bytes.fetch_add(bytes as u64, Relaxed);
                continue;
            }
            self.buffer.shrink_to(KEPT_BYTES);
            if !self.unflushed {
                return Poll::Pending;
            }
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
            return Poll::Ready(Ok(()));
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Seen;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    /// Who is connected is decided by the cores, not by which stream was quiet.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToBehaviour> {
        if let Poll::Ready(seen) = self.poll_inbound(cx) {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(seen));
        }
        self.poll_outbound(cx)
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. })
                if self.rubbish < RUBBISH_MAX =>
            {
                // one at a time: a peer that opens another has given up the one before
                self.inbound = Some(Reader { stream, cutter: Cutter::default() });
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, .. }) => {
                self.outbound = Outbound::Open(Writer { stream, buffer: Vec::new(), written: 0, unflushed: false });
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                tracing::debug!(%error, "no line");
                self.failed();
                if matches!(error, StreamUpgradeError::NegotiationFailed) {
                    self.failures = REOPEN_MAX + 1;
                }
            }
            _ => {}
        }
    }
}
