//! Looking further for a service that the view lacks: once for all who wait for it, and not again for a second after
//! it was not found, so that nobody can make the cluster work by asking for names that do not exist.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use paceline_proto::id::ServiceName;
use tokio::{sync::watch, time::timeout};

use crate::{cluster::Cluster, lane::lock};

/// Longest wait for the cluster's answer.
const FIND_TIMEOUT: Duration = Duration::from_secs(1);
/// A name that was not found is not looked for again within this.
const MISSED_FOR: Duration = Duration::from_secs(1);
/// Most names that are remembered or looked for at once; beyond it, a name is not looked for.
const NAMES_MAX: usize = 256;

enum Search {
    Running(watch::Receiver<()>),
    Missed(Instant),
}

/// The searches of all lanes.
#[derive(Default)]
pub(crate) struct Finder(Mutex<BTreeMap<ServiceName, Search>>);

enum Part<'a> {
    Leads(Leader<'a>),
    Follows(watch::Receiver<()>),
    Nothing,
}

/// Ends the search when it is dropped, also where its caller has gone away.
struct Leader<'a> {
    finder: &'a Finder,
    service: &'a ServiceName,
    _followers: watch::Sender<()>,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        lock(&self.finder.0).insert(self.service.clone(), Search::Missed(Instant::now()));
    }
}

impl Finder {
    /// Returns when the search is over, whatever it found, after at most [`FIND_TIMEOUT`].
    pub(crate) async fn find<C: Cluster>(&self, cluster: &C, service: &ServiceName) {
        match self.part(service, Instant::now()) {
            Part::Nothing => {}
            Part::Leads(_leader) => drop(timeout(FIND_TIMEOUT, cluster.find(service)).await),
            // An error is the leader's end.
            Part::Follows(mut leader) => drop(timeout(FIND_TIMEOUT, leader.changed()).await),
        }
    }

    fn part<'a>(&'a self, service: &'a ServiceName, now: Instant) -> Part<'a> {
        let mut searches = lock(&self.0);
        match searches.get(service) {
            Some(Search::Running(leader)) => return Part::Follows(leader.clone()),
            Some(Search::Missed(at)) if now.saturating_duration_since(*at) < MISSED_FOR => return Part::Nothing,
            _ => {}
        }
        if searches.len() >= NAMES_MAX {
            searches.retain(|_, search| match search {
                Search::Running(_) => true,
                Search::Missed(at) => now.saturating_duration_since(*at) < MISSED_FOR,
            });
            if searches.len() >= NAMES_MAX {
                return Part::Nothing;
            }
        }
        let (followers, leader) = watch::channel(());
        searches.insert(service.clone(), Search::Running(leader));
        Part::Leads(Leader { finder: self, service, _followers: followers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::service;

    #[test]
    fn one_leads_the_others_follow_and_a_miss_is_remembered() {
        let finder = Finder::default();
        let (a, b) = (service("a"), service("b"));
        let now = Instant::now();
        let leader = finder.part(&a, now);
        assert!(matches!(leader, Part::Leads(_)));
        assert!(matches!(finder.part(&a, now), Part::Follows(_)));
        assert!(matches!(finder.part(&b, now), Part::Leads(_)));
        drop(leader);
        assert!(matches!(finder.part(&a, Instant::now()), Part::Nothing));
        assert!(matches!(finder.part(&a, Instant::now() + MISSED_FOR), Part::Leads(_)));
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        let finder = Finder::default();
        let names: Vec<_> = (0..=NAMES_MAX).map(|i| service(&format!("n{i}"))).collect();
        let now = Instant::now();
        let held: Vec<_> = names[..NAMES_MAX].iter().map(|n| finder.part(n, now)).collect();
        assert!(matches!(finder.part(&names[NAMES_MAX], now), Part::Nothing));
        drop(held);
        assert!(matches!(finder.part(&names[NAMES_MAX], Instant::now() + MISSED_FOR), Part::Leads(_)));
    }
}
