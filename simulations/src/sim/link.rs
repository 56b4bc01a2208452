//! Links as the nodes see them: reliable, ordered streams, on which loss shows as delay.
//!
//! A transmission that is lost is sent again 0.2 s later, then 0.4 s after that, then 0.8 s (TCP's timeout, doubled each
//! time), and all that was sent after it waits for it. Whoever has lost one [`ATTEMPTS_MAX`] times in a row gives the link up.

use std::collections::VecDeque;
use std::time::Duration;

use paceline_proto::node::LinkLoss;

use super::HostId;
use super::gossip::MessageId;

/// The first time without an acknowledgement; doubled at each further one.
pub const RETRY: Duration = Duration::from_millis(200);
/// So many in a row end the link.
pub const ATTEMPTS_MAX: u32 = 7;

/// What travels.
#[derive(Clone, Debug)]
pub enum Payload {
    /// A message of the node's own.
    Direct(Vec<u8>),
    /// A gossip message, and whether it is one that passes the memory of duplicates.
    Gossip(MessageId, bool),
    /// Gossipsub's IHAVE.
    Have(Vec<MessageId>),
    /// Gossipsub's IWANT.
    Want(Vec<MessageId>),
    /// The other end is closed: how the reader sees it.
    End(LinkLoss),
}

/// One direction.
#[derive(Debug, Default)]
pub struct Stream {
    /// When the last one arrives: none arrives before it.
    pub last: Duration,
    /// What was lost and will be sent again, with all that waits behind it.
    pub stuck: Option<Stuck>,
}

/// What waits for a transmission to succeed.
#[derive(Debug)]
pub struct Stuck {
    /// In order.
    pub waiting: VecDeque<Payload>,
    /// How often the first was lost.
    pub lost: u32,
}

/// A connection between two hosts.
#[derive(Debug)]
pub struct Link {
    /// The dialler and the one that was dialled.
    pub ends: [HostId; 2],
    /// Which of them still have it.
    pub open: [bool; 2],
    /// What each of them sends.
    pub streams: [Stream; 2],
}

impl Link {
    /// Both ends open.
    pub fn new(dialler: HostId, dialled: HostId) -> Self {
        Self { ends: [dialler, dialled], open: [true; 2], streams: [Stream::default(), Stream::default()] }
    }

    /// Which end a host is.
    pub fn end_of(&self, host: HostId) -> usize {
        usize::from(self.ends[1] == host)
    }
}

/// How long after the n-th loss in a row it is sent again.
pub fn retry_after(lost: u32) -> Duration {
    RETRY * (1 << (lost.max(1) - 1).min(ATTEMPTS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_at_the_times_of_tcp() {
        let sum = |n: u32| (1..=n).map(retry_after).sum::<Duration>().as_millis();
        assert_eq!([sum(1), sum(2), sum(3), sum(7)], [200, 600, 1_400, 25_400]);
        let link = Link::new(4, 9);
        assert_eq!((link.end_of(4), link.end_of(9)), (0, 1));
    }
}
