//! What is sent, counted: in bytes of the nodes' own messages, and in bytes on the wire by an estimate that is stated here.
//!
//! The estimate of a frame: IPv4 20, TCP with timestamps 32, Noise 18 (length and tag), Yamux 12, our length prefix 2, and
//! half an acknowledgement of its own (52 / 2), since every second one rides on an answer: 110 bytes. Gossipsub adds its
//! protobuf frame and the topic's name (19 bytes): 28. A dial costs both sides a TCP, Noise and Yamux handshake, identify,
//! and the two chains of the door. Yamux measures the round trip of each link every 10 s: a ping of each side, and an answer
//! of the other.

use std::collections::BTreeMap;
use std::ops::Sub;

use serde::Serialize;

/// On the wire, beside the bytes of a message.
pub const FRAME_BYTES: u64 = 110;
/// Of gossipsub, besides.
pub const GOSSIP_BYTES: u64 = 28;
/// One id in gossipsub's IHAVE and IWANT.
pub const MESSAGE_ID_BYTES: u64 = 34;
/// Each side of a dial that is answered.
pub const DIAL_BYTES: u64 = 3_500;
/// What each side of a link sends in [`LINK_EVERY_S`] for its measurement, in segments: a ping, and an answer that bears the
/// acknowledgement.
pub const LINK_BYTES: u64 = 2 * (20 + 32 + 18 + 12) + 52;
/// Between two measurements of a link, in seconds.
pub const LINK_EVERY_S: u64 = 10;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Gossip of a chain.
    Credential,
    /// Gossip of a manifest.
    Manifest,
    /// Gossip of a suspicion, a death or a goodbye.
    Evidence,
    /// Gossip of a leader's claim.
    Claim,
    /// Gossip of a summary.
    Summary,
    /// Probes and their answers.
    Probe,
    /// Heartbeats, and reports of many of them.
    Beat,
    /// Digests, entries, pulls and pushes.
    Sync,
    /// Gossipsub's own (IHAVE, IWANT, and the copies asked for by it).
    Control,
    /// Handshakes.
    Dial,
    /// Yamux's measurements of links.
    Link,
    /// Anything else.
    Other,
}

/// Messages and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Messages.
    pub messages: u64,
    /// Their own bytes.
    pub bytes: u64,
    /// With the overhead of the wire.
    pub wire_bytes: u64,
}

impl Count {
    /// One more.
    pub fn add(&mut self, bytes: u64, overhead: u64) {
        self.messages += 1;
        self.bytes += bytes;
        self.wire_bytes += bytes + overhead;
    }
}

impl Sub for Count {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            messages: self.messages - other.messages,
            bytes: self.bytes - other.bytes,
            wire_bytes: self.wire_bytes - other.wire_bytes,
        }
    }
}

/// Of one host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    /// What it sent.
    pub sent: Count,
    /// What reached it.
    pub got: Count,
}

/// Of all hosts.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// By host.
    pub hosts: Vec<Meter>,
    /// What all sent, by what it was about.
    pub classes: BTreeMap<Class, Count>,
    /// Gossip messages that came again.
    pub duplicates: u64,
    /// Gossip messages that came first.
    pub firsts: u64,
}

impl Traffic {
    /// A host has kept so many links for so many seconds.
    pub fn keep_links(&mut self, host: super::HostId, links: u64, seconds: u64) {
        let wire_bytes = LINK_BYTES * links * seconds / LINK_EVERY_S;
        let messages = 2 * links * seconds / LINK_EVERY_S;
        let meter = &mut self.hosts[host as usize];
        for count in [&mut meter.sent, &mut meter.got, self.classes.entry(Class::Link).or_default()] {
            count.messages += messages;
            count.wire_bytes += wire_bytes;
        }
    }

    /// Bytes on the wire that all hosts have sent.
    pub fn wire_bytes(&self) -> u64 {
        self.hosts.iter().map(|h| h.sent.wire_bytes).sum()
    }
}
