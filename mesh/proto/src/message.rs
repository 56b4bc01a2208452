//! What nodes send each other: gossip that goes to everybody, and direct messages between two.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::credential::{CHAIN_BYTES_MAX, Chain};
use crate::detector::Probe;
use crate::envelope::Signed;
use crate::heartbeat::{Beat, Report};
use crate::id::{CredentialHash, NodeId};
use crate::revocation::SignedList;
use crate::sync::{BUCKETS, Span};
use crate::wire::{self, MESSAGE_BYTES_MAX, Message};

/// Most bytes of a gossip message.
pub const GOSSIP_BYTES_MAX: usize = 16 * 1024;
/// Most records that one [`Direct::Pull`] may ask for.
pub const WANTS_MAX: usize = 256;
/// Most items of one [`Direct::Push`].
pub const ITEMS_MAX: usize = 256;
/// Most spans of one [`Direct::Entries`].
pub const SPANS_MAX: usize = 2 * BUCKETS;

/// To everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gossip {
    /// A chain that is new.
    Credential(SentChain),
    /// A record that is new.
    Record(Arc<Signed>),
    /// A list of the revoked that is new.
    Revoked(SignedList),
}

/// Between two nodes, one way; each may be lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direct {
    /// What I know, in [`BUCKETS`] hashes: answered by entries of the buckets that differ.
    Digest(#[serde(deserialize_with = "wire::list::<_, _, BUCKETS>")] Vec<u64>),
    /// All that I know in these ranges: answered by a pull and a push of what differs.
    Entries(#[serde(deserialize_with = "wire::list::<_, _, SPANS_MAX>")] Vec<Span>),
    /// Send me these: answered by pushes.
    Pull(#[serde(deserialize_with = "wire::list::<_, _, WANTS_MAX>")] Vec<Want>),
    /// What you lack.
    Push(#[serde(deserialize_with = "wire::list::<_, _, ITEMS_MAX>")] Vec<Item>),
    /// Are you there, or is somebody else?
    Probe(Probe),
    /// A member's light heartbeat, to the leader or its sub-leader.
    Beat(Beat),
    /// The heartbeats of those that a sub-leader gathers, to the leader.
    Report(Report),
    /// How a write that the leader ordered has ended.
    Written(Written),
    /// I need our connection no more: its end is no sign of mine. Answered by closing it.
    Farewell,
    /// My lists of the revoked have this mark: send yours if they have another.
    AskRevoked(u64),
    /// One of my lists of the revoked.
    Revoked(SignedList),
}

/// How a write of the stored summary has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Whether the store has it.
    pub stored: bool,
    /// Writes of this UTC day that the store itself knows of, where it could be read.
    pub writes_today: Option<u32>,
}

/// What a pull asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Want {
    /// All about a member.
    Member(NodeId),
    /// A chain.
    Chain(CredentialHash),
    /// The chain of a record's author.
    Author(NodeId),
}

/// Records that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Of the records' authors.
    #[serde(deserialize_with = "wire::list::<_, _, 2>")]
    pub chains: Vec<SentChain>,
    /// A manifest, the record of its end, or both.
    #[serde(deserialize_with = "wire::list::<_, _, 2>")]
    pub records: Vec<Arc<Signed>>,
    /// For how long the member has been gone, in seconds; 0 where it is not.
    pub gone_s: u32,
}

impl Message for Gossip {
    const BYTES_MAX: usize = GOSSIP_BYTES_MAX;
}

impl Message for Direct {
    const BYTES_MAX: usize = MESSAGE_BYTES_MAX;
}

/// A chain on its way; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentChain(pub Arc<Chain>);

#[derive(Serialize, Deserialize)]
struct Certificates {
    #[serde(with = "wire::bytes")]
    leaf: Vec<u8>,
    #[serde(with = "wire::bytes")]
    intermediate: Vec<u8>,
}

impl Serialize for SentChain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Certificates { leaf: self.0.leaf.clone(), intermediate: self.0.intermediate.clone() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SentChain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Certificates { leaf, intermediate } = Certificates::deserialize(deserializer)?;
        if leaf.len().saturating_add(intermediate.len()) > CHAIN_BYTES_MAX {
            return Err(D::Error::custom("chain too long"));
        }
        Ok(Self(Arc::new(Chain { leaf, intermediate })))
    }
}

/// Splits items over as few pushes as their sizes allow.
pub(crate) fn pushes(items: impl IntoIterator<Item = Item>) -> Vec<Direct> {
    // The tag of the message and the length of the list.
    const FRAME_BYTES: usize = 16;
    let mut pushes = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), FRAME_BYTES);
    for item in items {
        // An item that cannot be encoded cannot be sent; two chains and two records always fit.
        let Some(size) = wire::size_of(&item).filter(|n| FRAME_BYTES + n <= MESSAGE_BYTES_MAX) else { continue };
        if bytes + size > MESSAGE_BYTES_MAX || batch.len() == ITEMS_MAX {
            pushes.push(Direct::Push(std::mem::take(&mut batch)));
            bytes = FRAME_BYTES;
        }
        bytes += size;
        batch.push(item);
    }
    if !batch.is_empty() {
        pushes.push(Direct::Push(batch));
    }
    pushes
}
