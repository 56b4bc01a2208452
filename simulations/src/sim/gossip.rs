//! Gossip messages under way, each kept once for all hosts, and who has seen it; the bounds of gossipsub's mesh.
//!
//! The mesh is modelled as gossipsub keeps it with the driver's bounds (`paceline_proto::carrier`): neighbours grafted at
//! once while there are fewer than the least, pruned above the most; forwarding only after the verdict; at each heartbeat
//! IHAVE to some others for what came since the last one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use paceline_proto::carrier::GOSSIP_DUPLICATES;
use paceline_proto::envelope::Kind;
use paceline_proto::id::NodeId;

use super::HostId;
use super::traffic::Class;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u32);

/// A gossip message.
#[derive(Debug)]
pub struct Message {
    /// Its bytes.
    pub bytes: Arc<[u8]>,
    /// What it is about.
    pub class: Class,
    /// About whom, by whom, and what it says; nothing for a chain, nor where nobody asks.
    pub about: Option<(NodeId, NodeId, Kind)>,
    born: Duration,
    // A bit for each host.
    seen: Vec<u64>,
}

/// All messages that may still be under way.
#[derive(Debug, Default)]
pub struct Messages {
    all: Vec<Option<Message>>,
    by_bytes: HashMap<Arc<[u8]>, MessageId>,
    oldest: usize,
    /// Whether to find out about whom each one is.
    pub looks_into: bool,
}

impl Messages {
    /// The message of these bytes; a new one, if they have not been seen for [`GOSSIP_DUPLICATES`].
    pub fn intern(&mut self, bytes: Vec<u8>, now: Duration) -> MessageId {
        self.forget(now);
        let bytes: Arc<[u8]> = bytes.into();
        if let Some(id) = self.by_bytes.get(&bytes) {
            return *id;
        }
        let id = MessageId(self.all.len() as u32);
        self.by_bytes.insert(Arc::clone(&bytes), id);
        let class = class_of_gossip(&bytes);
        let about = self.looks_into.then(|| super::world::about(&bytes)).flatten();
        self.all.push(Some(Message { bytes, class, about, born: now, seen: Vec::new() }));
        id
    }

    /// A message, unless it is forgotten.
    pub fn get(&self, id: MessageId) -> Option<&Message> {
        self.all.get(id.0 as usize)?.as_ref()
    }

    /// Whether a host has seen it; forgotten ones count as seen.
    pub fn has_seen(&self, id: MessageId, host: HostId) -> bool {
        let (word, bit) = (host as usize / 64, host % 64);
        self.get(id).is_none_or(|m| m.seen.get(word).is_some_and(|w| w >> bit & 1 == 1))
    }

    /// Notes that a host has seen it; says whether that is new.
    pub fn see(&mut self, id: MessageId, host: HostId) -> bool {
        let (word, bit) = (host as usize / 64, host % 64);
        let Some(Some(message)) = self.all.get_mut(id.0 as usize) else { return false };
        if message.seen.len() <= word {
            message.seen.resize(word + 1, 0);
        }
        let new = message.seen[word] >> bit & 1 == 0;
        message.seen[word] |= 1 << bit;
        new
    }

    /// A process ends: its memory is gone.
    pub fn forget_host(&mut self, host: HostId) {
        let (word, bit) = (host as usize / 64, host % 64);
        for message in self.all[self.oldest..].iter_mut().flatten() {
            if let Some(seen) = message.seen.get_mut(word) {
                *seen &= !(1 << bit);
            }
        }
    }

    fn forget(&mut self, now: Duration) {
        while let Some(slot) = self.all.get_mut(self.oldest) {
            match slot {
                Some(message) if message.born + GOSSIP_DUPLICATES > now => break,
                _ => {
                    if let Some(message) = slot.take() {
                        self.by_bytes.remove(&message.bytes);
                    }
                    self.oldest += 1;
                }
            }
        }
    }
}

/// What a gossip message is about, by its tags alone: the version, the kind of message, the author, the kind of record.
fn class_of_gossip(bytes: &[u8]) -> Class {
    const KIND_AT: usize = 2 + 32;
    match (bytes.get(1), bytes.get(KIND_AT)) {
        (Some(0), _) => Class::Credential,
        (Some(1), Some(0)) => Class::Manifest,
        (Some(1), Some(1..=3)) => Class::Evidence,
        (Some(1), Some(4)) => Class::Claim,
        (Some(1), Some(5)) => Class::Summary,
        _ => Class::Other,
    }
}

/// What a direct message is about, by its tags alone.
pub fn class_of_direct(bytes: &[u8]) -> Class {
    match bytes.get(1) {
        Some(0..=3) => Class::Sync,
        Some(4) => Class::Probe,
        Some(_) => Class::Beat,
        None => Class::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paceline_proto::detector::Probe;
    use paceline_proto::envelope::{Claim, Signed};
    use paceline_proto::id::Incarnation;
    use paceline_proto::message::{Direct, Gossip};
    use paceline_proto::wire;

    #[test]
    fn equal_bytes_are_one_message_until_it_is_forgotten() {
        let mut all = Messages::default();
        let s = Duration::from_secs;
        let a = all.intern(vec![1, 1, 7], s(0));
        assert_eq!(all.intern(vec![1, 1, 7], s(100)), a);
        assert!(all.see(a, 70) && !all.see(a, 70) && all.has_seen(a, 70) && !all.has_seen(a, 69));
        all.forget_host(70);
        assert!(!all.has_seen(a, 70));
        let b = all.intern(vec![1, 1, 7], s(121));
        assert!(b != a && all.get(a).is_none() && all.has_seen(a, 1));
    }

    #[test]
    fn tags_say_what_a_message_is_about() {
        let mut rng = super::super::rng::Rng::new(1);
        let authority = super::super::authority::Authority::new(&mut rng).expect("a cluster");
        let key = super::super::authority::key(&mut rng);
        let leave = Claim::Leave { incarnation: Incarnation(1) };
        let record = Arc::new(Signed::new(&leave, &key, &authority.cluster()).expect("short"));
        let bytes = wire::encode(&Gossip::Record(record)).expect("short");
        assert_eq!(class_of_gossip(&bytes), Class::Evidence);
        let ping = wire::encode(&Direct::Probe(Probe::Ping { nonce: 3 })).expect("short");
        assert_eq!(class_of_direct(&ping), Class::Probe);
        assert_eq!(class_of_direct(&wire::encode(&Direct::Digest(vec![1])).expect("short")), Class::Sync);
    }
}
