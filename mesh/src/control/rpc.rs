//! Requests between members that are connected: renewal of leaves, and the plea to dial back on the data plane. What the
//! cores say to each other goes by [`super::lines`].

use std::{io, net::SocketAddr, time::Duration};

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use libp2p::{StreamProtocol, request_response as rr};
use paceline_proto::{credential::Chain, wire::Message};
use serde::{Deserialize, Serialize};

use super::frames;
use crate::trust::{Issued, RenewRequest};

/// Most bytes of a request, and of a response.
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// Bound of one exchange.
const EXCHANGE: Duration = Duration::from_secs(5);
/// Exchanges at once on a connection, both directions.
const EXCHANGES_MAX: usize = 64;
/// Most addresses in [`Ask::DialBack`].
pub(crate) const DIAL_BACK_ADDRESSES_MAX: usize = 16;

/// What the driver of a member asks of another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// A new leaf, please.
    Renew(RenewRequest),
    /// The sender's renewed chain: it replaces the one that its connection was admitted by.
    Chain(Chain),
    /// Dial the sender's data port at one of these addresses.
    DialBack(Vec<SocketAddr>),
    /// Connect to the mesh addresses of the sender's manifest, to see whether anybody can.
    Reach,
}

impl Message for Ask {
    const BYTES_MAX: usize = FRAME_BYTES_MAX;
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    /// Arrived; for everything but [`Ask::Renew`].
    Done,
    /// The new leaf.
    Issued(Box<Issued>),
    /// Not done, and why.
    Refused(String),
    /// Nobody answers at the addresses of [`Ask::Reach`].
    Unreached,
}

impl Message for Response {
    const BYTES_MAX: usize = FRAME_BYTES_MAX;
}

/// Reads and writes frames.
#[derive(Clone, Debug, Default)]
pub(crate) struct Codec;

impl rr::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Ask;
    type Response = Response;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Ask>
    where
        T: AsyncRead + Unpin + Send,
    {
        Ok(frames::get(io).await?)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        Ok(frames::get(io).await?)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Ask) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        frames::put(io, &request).await?;
        io.close().await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Response) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        frames::put(io, &response).await?;
        io.close().await
    }
}

/// libp2p's part of it.
pub(crate) type Behaviour = rr::Behaviour<Codec>;

/// The behaviour by this protocol.
pub(crate) fn behaviour(protocol: StreamProtocol) -> Behaviour {
    let config = rr::Config::default().with_request_timeout(EXCHANGE).with_max_concurrent_streams(EXCHANGES_MAX);
    Behaviour::with_codec(Codec, [(protocol, rr::ProtocolSupport::Full)], config)
}
