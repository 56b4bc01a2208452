//! Requests between members that are connected: direct messages of the cores (acknowledged, so that backpressure
//! exists), renewal of leaves, and the plea to dial back on the data plane.

use std::{io, net::SocketAddr, time::Duration};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{StreamProtocol, request_response as rr};
use paceline_proto::{credential::Chain, id::ClusterId, wire::Message};
use serde::{Deserialize, Serialize};

use super::frames;
use crate::trust::{Issued, RenewRequest};

/// Most bytes of a message of the cores.
pub(crate) const DIRECT_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of any other request, and of a response.
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// First byte of a request: the bytes of the cores follow as they are, or an encoded [`Ask`].
const TAG_DIRECT: u8 = 0;
const TAG_ASK: u8 = 1;
/// Bound of one exchange.
const EXCHANGE: Duration = Duration::from_secs(5);
/// Exchanges at once on a connection, both directions.
const EXCHANGES_MAX: usize = 64;
/// Most addresses in [`Ask::DialBack`].
pub(crate) const DIAL_BACK_ADDRESSES_MAX: usize = 16;

/// What a member sends to another.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    /// A message of the cores, which judge its bytes themselves.
    Direct(Vec<u8>),
    /// A request of the driver.
    Ask(Ask),
}

/// What the driver of a member asks of another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// A new leaf, please.
    Renew(RenewRequest),
    /// The sender's renewed chain: it replaces the one that its connection was admitted by.
    Chain(Chain),
    /// Dial the sender's data port at one of these addresses.
    DialBack(Vec<SocketAddr>),
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
}

impl Message for Response {
    const BYTES_MAX: usize = FRAME_BYTES_MAX;
}

/// Reads and writes frames.
#[derive(Clone, Debug, Default)]
pub(crate) struct Codec;

impl rr::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Response;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut tag = [0];
        io.read_exact(&mut tag).await?;
        match tag[0] {
            TAG_DIRECT => Ok(Request::Direct(frames::get_bytes(io, DIRECT_BYTES_MAX).await?)),
            TAG_ASK => Ok(Request::Ask(frames::get(io).await?)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        Ok(frames::get(io).await?)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Request) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        match request {
            Request::Direct(bytes) => {
                io.write_all(&[TAG_DIRECT]).await?;
                frames::put_bytes(io, &bytes, DIRECT_BYTES_MAX).await?;
            }
            Request::Ask(ask) => {
                io.write_all(&[TAG_ASK]).await?;
                frames::put(io, &ask).await?;
            }
        }
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

/// The behaviour for a cluster.
pub(crate) fn behaviour(cluster: &ClusterId) -> io::Result<Behaviour> {
    let protocol =
        StreamProtocol::try_from_owned(format!("/paceline/{}/rpc/1", cluster.short())).map_err(io::Error::other)?;
    let config = rr::Config::default().with_request_timeout(EXCHANGE).with_max_concurrent_streams(EXCHANGES_MAX);
    Ok(Behaviour::with_codec(Codec, [(protocol, rr::ProtocolSupport::Full)], config))
}
