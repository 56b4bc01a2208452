//! How QUIC is set up: windows, liveness, sockets, and the certificates of the moment.

use std::{sync::Arc, time::Duration};

use quinn::{
    ClientConfig, Connection, IdleTimeout, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};

use super::plane::{Judge, Security};

/// Streams that a gateway may have open on one connection, at work or waiting.
pub const STREAMS_MAX: u32 = 1024;

/// A packet each second keeps a connection alive.
pub const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// A connection that was silent for this long is gone, with all its streams: with [`KEEP_ALIVE`] a dark or hung peer
/// is left within 5 s.
pub const IDLE_TIMEOUT: VarInt = VarInt::from_u32(3_800);

/// Bytes of one stream that may wait for a slow reader. What a stream can move in a round trip, too: 25 MB/s at 10 ms.
pub const STREAM_WINDOW_BYTES: VarInt = VarInt::from_u32(256 << 10);

/// Bytes of all streams of a connection that may wait for slow readers: those of all that there can be, so that however
/// many stall, none takes another's.
pub const CONNECTION_WINDOW_BYTES: VarInt = VarInt::from_u32(STREAMS_MAX * (256 << 10));

/// Bytes of a connection that are sent and not yet acknowledged, at most.
pub const SEND_WINDOW_BYTES: u64 = 16 << 20;

/// Lost handshake packets are repeated after about three times this; quinn's own 333 ms would cost a second.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Connections that wait for the accept loop, and the bytes that may wait with each and with all of them.
const INCOMING_MAX: usize = 1024;
const INCOMING_BYTES_MAX: u64 = 16 << 10;
const INCOMING_BYTES_TOTAL_MAX: u64 = 4 << 20;

/// Codes of closed connections and reset streams.
pub mod code {
    use quinn::VarInt;

    /// The process ends.
    pub const BYE: VarInt = VarInt::from_u32(0);
    /// Whoever wanted the stream does not any more, or it broke further on.
    pub const CANCELLED: VarInt = VarInt::from_u32(1);
    /// The peer may not do that.
    pub const REFUSED: VarInt = VarInt::from_u32(2);
    /// A certificate has come to its end.
    pub const EXPIRED: VarInt = VarInt::from_u32(3);
    /// Another connection has taken this one's place.
    pub const REPLACED: VarInt = VarInt::from_u32(4);
    /// Too many connections.
    pub const FULL: VarInt = VarInt::from_u32(5);
    /// The control plane holds the peer for dead, gone or revoked.
    pub const GONE: VarInt = VarInt::from_u32(6);
}

fn transport(peer_streams: u32) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(peer_streams.into())
        .max_concurrent_uni_streams(0u32.into())
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(IDLE_TIMEOUT)))
        .initial_rtt(INITIAL_RTT)
        .stream_receive_window(STREAM_WINDOW_BYTES)
        .receive_window(CONNECTION_WINDOW_BYTES)
        .send_window(SEND_WINDOW_BYTES);
    Arc::new(config)
}

/// A [`Security`] as quinn takes it.
pub(super) struct Armed {
    /// For a gateway that dials a node: the node may open no streams, until it turns out to be a gateway too.
    pub(super) dial: ClientConfig,
    /// For a node that dials a gateway, which opens streams at once.
    pub(super) dial_back: ClientConfig,
    /// For the data port.
    pub(super) accept: ServerConfig,
    pub(super) judge: Judge,
}

impl Armed {
    pub(super) fn new(security: Security) -> Result<Self, String> {
        let client = QuicClientConfig::try_from(security.client).map_err(|error| error.to_string())?;
        let server = QuicServerConfig::try_from(security.server).map_err(|error| error.to_string())?;
        let mut dial = ClientConfig::new(Arc::new(client));
        let mut dial_back = dial.clone();
        dial.transport_config(transport(0));
        dial_back.transport_config(transport(STREAMS_MAX));
        let mut accept = ServerConfig::with_crypto(Arc::new(server));
        accept
            .transport_config(transport(STREAMS_MAX))
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(INCOMING_BYTES_MAX)
            .incoming_buffer_size_total(INCOMING_BYTES_TOTAL_MAX);
        Ok(Self { dial, dial_back, accept, judge: security.judge })
    }
}

/// Why a connection ended, in words for logs and callers.
pub(super) fn words(error: &quinn::ConnectionError) -> String {
    match error {
        quinn::ConnectionError::TimedOut => "it fell silent".into(),
        quinn::ConnectionError::LocallyClosed => "closed by this side".into(),
        quinn::ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            format!("closed by the peer: {}", String::from_utf8_lossy(&close.reason))
        }
        other => other.to_string(),
    }
}

/// Why a connection has ended, if it has.
pub(super) fn ended(connection: &Connection) -> Option<String> {
    connection.close_reason().as_ref().map(words)
}
