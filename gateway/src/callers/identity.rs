//! Who a caller is, once known: a name for logs, what they may do, and what they have used up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use paceline_mesh::args::Rate;

use super::{rate::Bucket, scope::Scope};

/// An API key, or the subject of a JWT.
#[derive(Debug)]
pub(crate) struct Identity {
    /// For services and logs: `key:ID`, `jwt:SUBJECT`; a valid header value.
    pub(crate) label: String,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) account: Arc<Account>,
}

/// What a caller has used up; a JWT subject keeps theirs when they come with the next JWT.
#[derive(Debug)]
pub(crate) struct Account {
    bucket: Option<Bucket>,
    running: AtomicU32,
    running_max: u32,
    requests: AtomicU64,
}

/// Why a caller gets no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    /// Their rate is used up for so long.
    Rate(Duration),
    /// So many requests run, as many as may.
    Places(u32),
}

/// A request's place among those of its caller, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Account>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
    }
}

impl Account {
    pub(crate) fn new(rate: Option<Rate>, running_max: u32) -> Self {
        Self { bucket: rate.map(Bucket::new), running: AtomicU32::new(0), running_max, requests: AtomicU64::new(0) }
    }

    /// Takes a place, and one of the rate.
    ///
    /// # Errors
    /// What is used up.
    pub(crate) fn enter(self: &Arc<Self>, now: Instant) -> Result<Place, Spent> {
        let before = self.running.fetch_add(1, Relaxed);
        let place = Place(self.clone());
        if before >= self.running_max {
            return Err(Spent::Places(self.running_max));
        }
        if let Some(bucket) = &self.bucket {
            bucket.take(now).map_err(Spent::Rate)?;
        }
        self.requests.fetch_add(1, Relaxed);
        Ok(place)
    }

    /// Requests that were let in, since the process started.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_and_the_refused_take_none() {
        let account = Arc::new(Account::new(Some("3/h".parse().expect("a rate")), 1));
        let now = Instant::now();
        let first = account.enter(now).expect("free");
        for _ in 0..5 {
            assert_eq!(account.enter(now).map(drop), Err(Spent::Places(1)));
        }
        drop(first);
        drop(account.enter(now).expect("free again"));
        drop(account.enter(now).expect("the third of the rate"));
        assert!(matches!(account.enter(now).map(drop), Err(Spent::Rate(_))));
        assert_eq!((account.running.load(Relaxed), account.requests()), (0, 3));
    }
}
