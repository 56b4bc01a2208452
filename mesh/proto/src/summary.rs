//! The heartbeat summary that the leader writes for all: who is there in one hash, and what has changed.
//!
//! Readers believe nothing of it about a member: it tells them that their table differs from the leader's, and they then ask
//! a neighbour for signed records. What [`Reader`] promises: it takes only a rising (term, takeovers, number), and numbers
//! are an author's own ([`crate::lead::Ranks::first_seq`]), so no two summaries with one (term, takeovers, number) are taken.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize, Serializer};

use crate::envelope::Signed;
use crate::id::{ClusterId, ManifestVersion, NodeId, ServiceName, Site, WorkerName};
use crate::lead::{LINE_MAX, Lead, Reason, SEQ_BITS, ShortId, Totals};
use crate::view::MemberState;
use crate::wire::{self, Message};

/// Most bytes of a summary, before it is signed.
pub const SUMMARY_BYTES_MAX: usize = 4 * 1024;
/// Most changes of one summary; what does not fit is found by the hash.
pub const CHANGES_MAX: usize = 64;
/// Every so many summaries, one says of each member whether it is alive.
pub const CHECKPOINT_EVERY: u32 = 30;
/// For how long an earlier hash of this node's table still counts: the leader's may be behind by a message.
const ROOTS_FOR: Duration = Duration::from_secs(5);
/// Most earlier hashes that are kept.
const ROOTS_MAX: usize = 64;

/// What a leader says every interval.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Of the leader.
    pub lead: Lead,
    /// Rises by one with each; begins at the author's own [`crate::lead::Ranks::first_seq`].
    pub seq: u64,
    /// Members alive.
    pub alive: u32,
    /// Members alive or suspect.
    pub members: u32,
    /// Hash of the leader's table, as far as members are there.
    pub root: u64,
    /// What has changed since the last one.
    #[serde(deserialize_with = "wire::list::<_, _, CHANGES_MAX>")]
    pub changes: Vec<Change>,
    /// Who takes over, the first one first.
    #[serde(deserialize_with = "wire::list::<_, _, LINE_MAX>")]
    pub line: Vec<ShortId>,
    /// Whoever is to claim the next term now: the leader's time is over.
    pub next: Option<ShortId>,
    /// Write the stored summary now.
    pub write: Option<WriteOrder>,
    /// Days since 1970 (UTC) that `writes_today` counts for.
    pub day: u32,
    /// Writes of that day, one that is ordered here included.
    pub writes_today: u32,
    /// What tells apart the lists of the revoked ([`crate::revocation::Revocations::mark`]); 0 where there is none.
    pub revocation: u64,
    /// How busy the cluster is.
    pub load: Totals,
    /// In a checkpoint: for each member that is there, in the order of ids, a bit that says whether it is alive (and no
    /// suspect), the lowest bit of a byte first. Empty in others.
    #[serde(with = "wire::bytes")]
    pub bits: Vec<u8>,
}

/// A member that has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Who.
    pub node: ShortId,
    /// Of its manifest.
    pub version: ManifestVersion,
    /// As the leader sees it.
    pub state: MemberState,
}

/// Who is to write the stored summary, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteOrder {
    /// Who.
    pub by: ShortId,
    /// Why.
    pub reason: Reason,
}

impl Message for Summary {
    const BYTES_MAX: usize = SUMMARY_BYTES_MAX;
}

impl Summary {
    /// Whether it says of each member if it is alive.
    pub fn is_checkpoint(&self) -> bool {
        !self.bits.is_empty()
    }

    /// In a checkpoint: whether the member at this place of the order of ids is alive.
    pub fn is_alive(&self, place: usize) -> Option<bool> {
        self.bits.get(place / 8).map(|byte| byte & (1 << (place % 8)) != 0)
    }

    /// What the order among summaries goes by.
    pub fn order(&self) -> (Lead, u64) {
        (self.lead, self.seq)
    }
}

/// Bits as [`Summary::bits`] holds them.
pub fn bits(alive: impl Iterator<Item = bool>) -> Vec<u8> {
    let mut bits = Vec::new();
    for (place, alive) in alive.enumerate() {
        if place % 8 == 0 {
            bits.push(0);
        }
        if let (true, Some(byte)) = (alive, bits.last_mut()) {
            *byte |= 1 << (place % 8);
        }
    }
    bits
}

/// Numbers the summaries of this node while it leads, and gathers what they tell.
#[derive(Debug, Default)]
pub struct Writer {
    lead: Lead,
    seq: u64,
    count: u32,
    changes: BTreeMap<NodeId, (ManifestVersion, MemberState)>,
}

impl Writer {
    /// A new leading: numbers begin above `first_seq`, and the first summary is a checkpoint.
    pub fn start(&mut self, lead: Lead, first_seq: u64) {
        *self = Self { lead, seq: first_seq, count: 0, changes: BTreeMap::new() };
    }

    /// A member has changed.
    pub fn changed(&mut self, node: NodeId, version: ManifestVersion, state: MemberState) {
        if self.changes.len() < CHANGES_MAX || self.changes.contains_key(&node) {
            self.changes.insert(node, (version, state));
        }
    }

    /// Whether the next one is a checkpoint.
    pub fn is_checkpoint_due(&self) -> bool {
        self.count.is_multiple_of(CHECKPOINT_EVERY)
    }

    /// The next summary: `rest` with its number, its leading and what has changed.
    pub fn write(&mut self, rest: Summary) -> Summary {
        // The author's numbers end where another's begin: at one a second, after half a year of one leading.
        let last = self.seq | ((1 << SEQ_BITS) - 1);
        self.seq = self.seq.saturating_add(1).min(last);
        self.count = self.count.wrapping_add(1);
        let changes = std::mem::take(&mut self.changes);
        let changes = changes.iter().map(|(n, (version, state))| Change {
            node: ShortId::of(n),
            version: *version,
            state: *state,
        });
        Summary { lead: self.lead, seq: self.seq, changes: changes.collect(), ..rest }
    }
}

/// A summary that was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// What it says.
    pub summary: Arc<Summary>,
    /// As signed.
    pub record: Arc<Signed>,
    /// When it came.
    pub at: Instant,
}

/// Takes summaries, and compares them with this node's own table.
#[derive(Debug, Default)]
pub struct Reader {
    last: Option<Taken>,
    root: u64,
    // Earlier hashes, and until when each held; the latest last.
    roots: VecDeque<(u64, Instant)>,
    in_step: bool,
}

impl Reader {
    /// Whether it comes after all that were taken.
    pub fn is_new(&self, summary: &Summary) -> bool {
        self.last.as_ref().is_none_or(|last| summary.order() > last.summary.order())
    }

    /// Whether it bears the number of the one that was taken last.
    pub fn is_number_taken(&self, summary: &Summary) -> bool {
        self.last.as_ref().is_some_and(|last| summary.order() == last.summary.order())
    }

    /// Takes a summary, if it is new; says whether it was.
    pub fn take(&mut self, summary: Summary, record: Arc<Signed>, now: Instant) -> bool {
        if !self.is_new(&summary) {
            return false;
        }
        self.last = Some(Taken { summary: Arc::new(summary), record, at: now });
        self.in_step = false;
        self.compare(now);
        true
    }

    /// The last one that was taken.
    pub fn last(&self) -> Option<&Taken> {
        self.last.as_ref()
    }

    /// The last one, if this author wrote it while it led so: of two that claim the same turn, only one stays.
    pub fn last_of(&self, lead: Lead, author: &NodeId) -> Option<&Taken> {
        self.last.as_ref().filter(|last| last.summary.lead == lead && last.record.author == *author)
    }

    /// The hash of this node's table is this one now.
    pub fn root_is(&mut self, root: u64, now: Instant) {
        if root != self.root {
            self.roots.push_back((std::mem::replace(&mut self.root, root), now));
            if self.roots.len() > ROOTS_MAX {
                self.roots.pop_front();
            }
        }
    }

    /// Compares again; says whether this node's table is, or just was, the leader's.
    pub fn compare(&mut self, now: Instant) -> bool {
        if let Some(last) = &self.last
            && !self.in_step
        {
            let (wanted, since) = (last.summary.root, last.at.min(now));
            while self.roots.front().is_some_and(|(_, until)| *until + ROOTS_FOR < since) {
                self.roots.pop_front();
            }
            self.in_step = self.root == wanted || self.roots.iter().any(|(root, _)| *root == wanted);
        }
        self.in_step
    }

    /// Whether the last summary said what this node knew.
    pub fn is_in_step(&self) -> bool {
        self.in_step
    }
}

/// What the sinks store, as JSON: the one thing that readers outside the cluster see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredSummary {
    /// Which cluster, as text.
    #[serde(serialize_with = "as_text")]
    pub cluster_id: ClusterId,
    /// Of the leader.
    pub term: u64,
    /// Of the leader.
    pub takeovers: u32,
    /// Of the summary.
    pub seq: u64,
    /// The leader's name.
    pub leader: WorkerName,
    /// By the writer's clock, in seconds since 1970.
    pub written_at_unix: u64,
    /// Writes of this UTC day, this one included.
    pub writes_today: u32,
    /// Why it is written now: `routine`, `death`, `service`, `leader`.
    pub reason: &'static str,
    /// Everybody, in the order of names.
    pub members: Vec<StoredMember>,
}

/// One member in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredMember {
    /// `--name`.
    pub id: WorkerName,
    /// `--site`.
    pub site: Site,
    /// As the writer's failure detector sees it.
    pub status: MemberState,
    /// The healthy ones of its services.
    pub services: Vec<ServiceName>,
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[cfg(test)]
mod tests;
