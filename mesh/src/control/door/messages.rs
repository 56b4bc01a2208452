//! What is said at the door, and what the door says to this process.

use libp2p::{Multiaddr, PeerId};
use paceline_proto::{
    credential::{Chain, CredentialError},
    id::{ClusterId, Incarnation, NodeId, UnixSeconds, WorkerName},
    wire::Message,
};
use serde::{Deserialize, Serialize};

use super::{ADMISSION, FRAME_BYTES_MAX};
use crate::control::frames::FrameError;
use crate::trust::{Issued, JoinRequest};

/// What each side says first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) cluster: ClusterId,
    /// `None` for a newcomer.
    pub(super) chain: Option<Chain>,
    /// What a newcomer's proof is bound to.
    pub(super) nonce: [u8; 32],
    pub(super) instance: u64,
    pub(super) incarnation: Incarnation,
    /// Tells apart what two members know of who is revoked.
    pub(super) revoked: u64,
    pub(super) unix: UnixSeconds,
}

impl Message for Hello {
    const BYTES_MAX: usize = FRAME_BYTES_MAX;
}

/// A newcomer's second message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Join {
    pub(super) request: JoinRequest,
    pub(super) name: WorkerName,
    /// Whether a person chose the name; a generated one may be changed.
    pub(super) chosen: bool,
}

impl Message for Join {
    const BYTES_MAX: usize = FRAME_BYTES_MAX;
}

/// The verdict on what the other side said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Come in. So many lists of the revoked follow, each a [`SignedList`]: all that the sender has, where the other's
    /// differ.
    Welcome { lists: u8 },
    /// A newcomer's certificate, and the name it shall bear.
    Issued { issued: Box<Issued>, name: WorkerName },
    /// A newcomer is to ask at these multiaddrs.
    Redirect(Vec<String>),
    /// No: whoever asks is revoked, as the lists that follow prove.
    Revoked { reason: String, lists: u8 },
    /// No. `last`: asking again is of no use.
    Refused { reason: String, last: bool },
}

impl Message for Answer {
    const BYTES_MAX: usize = FRAME_BYTES_MAX;
}

/// Why a connection was not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The peer would not have us.
    #[error("refused by the peer: {0}")]
    ByPeer(String),
    /// We would not have the peer.
    #[error("peer refused: {0}")]
    ByUs(String),
    /// Not now: another try may do.
    #[error("refused for now: {0}")]
    Later(String),
    /// The peer is revoked.
    #[error("peer refused: {0}")]
    Revoked(CredentialError),
    /// The peer is of another cluster.
    #[error("peer is of another cluster")]
    OtherCluster,
    /// Nothing in time.
    #[error("no admission within {ADMISSION:?}")]
    Silent,
    /// The connection broke.
    #[error("admission broke: {0}")]
    Broken(String),
    /// No error: a newcomer was served, or serves itself, and comes back as a member.
    #[error("a newcomer was answered")]
    Answered,
}

impl Refused {
    /// Whether another try within a minute is of no use.
    pub(crate) fn lasts(&self) -> bool {
        match self {
            Refused::ByPeer(_) | Refused::ByUs(_) | Refused::Revoked(_) | Refused::OtherCluster => true,
            Refused::Later(_) | Refused::Silent | Refused::Broken(_) | Refused::Answered => false,
        }
    }
}

impl From<FrameError> for Refused {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(e) => Refused::Broken(e.to_string()),
            FrameError::Wire(e) => Refused::ByUs(e.to_string()),
        }
    }
}

/// What the door tells the loop that runs the swarm.
#[derive(Debug)]
pub(crate) enum Told {
    /// A connection was not admitted; `address` where we dialled.
    Refused { peer: PeerId, address: Option<Multiaddr>, why: Refused },
    /// Another process of a connected peer is at the door: the connections with the former are to be closed.
    Successor { peer: PeerId },
    /// A TCP address refused the connection: nobody listens there.
    NobodyThere { peer: PeerId },
    /// To a newcomer: its certificate.
    Issued { by: NodeId, issued: Box<Issued>, name: WorkerName },
    /// To a newcomer: where to ask.
    Redirect(Vec<String>),
    /// To a newcomer, by a member that has proved to be one; `last`: for good.
    NotAdmitted { reason: String, last: bool },
}
