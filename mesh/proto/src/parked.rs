//! Records whose author's chain is still to come: a small, bounded lot, emptied after [`PARKED_FOR`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::envelope::Signed;
use crate::id::{CredentialHash, NodeId};
use crate::message::Want;

/// How long a record waits: as long as a gossip message may wait for its verdict.
pub(crate) const PARKED_FOR: Duration = Duration::from_secs(3);
/// Most records of all authors.
pub(crate) const PARKED_MAX: usize = 512;
/// Most records of one author.
pub(crate) const PARKED_PER_AUTHOR: usize = 4;

/// A record that waits; `T` is how it came.
#[derive(Debug)]
pub(crate) struct Parked<T> {
    pub(crate) record: Arc<Signed>,
    pub(crate) via: T,
    needs: Needs,
    until: Instant,
}

/// What a record waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// This very chain.
    Chain(CredentialHash),
    /// Any chain of its author.
    Author(NodeId),
}

impl Needs {
    pub(crate) fn want(self) -> Want {
        match self {
            Needs::Chain(hash) => Want::Chain(hash),
            Needs::Author(node) => Want::Author(node),
        }
    }
}

/// The lot.
#[derive(Debug)]
pub(crate) struct Lot<T> {
    // In the order of `until`.
    parked: VecDeque<Parked<T>>,
}

impl<T> Default for Lot<T> {
    fn default() -> Self {
        Self { parked: VecDeque::new() }
    }
}

impl<T> Lot<T> {
    /// Parks a record; hands `via` back where there is no room for it.
    pub(crate) fn park(&mut self, record: Arc<Signed>, needs: Needs, via: T, now: Instant) -> Result<(), T> {
        let of_author = self.parked.iter().filter(|p| p.record.author == record.author).count();
        if self.parked.len() >= PARKED_MAX || of_author >= PARKED_PER_AUTHOR {
            return Err(via);
        }
        self.parked.push_back(Parked { record, via, needs, until: now + PARKED_FOR });
        Ok(())
    }

    /// Takes what waited for this chain.
    pub(crate) fn release(&mut self, author: &NodeId, hash: &CredentialHash) -> Vec<Parked<T>> {
        self.take(|p| match p.needs {
            Needs::Chain(h) => h == *hash,
            Needs::Author(node) => node == *author,
        })
    }

    /// Takes what has waited too long.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Parked<T>> {
        self.take(|p| p.until <= now)
    }

    /// When the first one has waited too long.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.parked.front().map(|p| p.until)
    }

    fn take(&mut self, which: impl Fn(&Parked<T>) -> bool) -> Vec<Parked<T>> {
        let (taken, kept): (VecDeque<_>, _) = std::mem::take(&mut self.parked).into_iter().partition(which);
        self.parked = kept;
        taken.into()
    }
}
