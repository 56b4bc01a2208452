//! Who can serve: the providers of the view, sorted into classes and by distance, made once for each service and view.

use std::{ops::Range, sync::Arc, time::Duration};

use http::HeaderValue;
use paceline_proto::{
    id::{NodeId, ServiceName, Site, WorkerName},
    manifest::Health,
    view::{ClusterView, MemberState, Provider},
};

use super::{
    eject::{Outlier, Outliers, Word},
    terms::Terms,
};
use crate::metrics::ServiceStats;

/// Services that admit fewer requests at once than this are made ready to wait for a place; for others, keeping what a
/// second attempt needs would cost more than it gives.
const TIGHT_BELOW: u32 = 256;

/// How gladly a provider is asked; a later class only where nobody of an earlier one is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Alive and healthy.
    Healthy,
    /// Alive, and says itself that it is degraded.
    Degraded,
    /// Somebody missed its node; it may well be there.
    Suspect,
}

/// How far away a provider is; within a class, a farther one only where the nearer ones are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Distance {
    /// This process.
    Own,
    /// Another one of the same site.
    Site,
    /// Another site.
    Far,
}

/// A provider that may be asked.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    /// The name, as `X-Paceline-Worker` says it.
    pub(crate) header: HeaderValue,
    pub(crate) class: Class,
    pub(crate) distance: Distance,
    pub(crate) outlier: Arc<Outlier>,
    pub(crate) provider: Arc<Provider>,
}

impl Candidate {
    pub(crate) fn name(&self) -> &WorkerName {
        &self.provider.member.name
    }

    /// In this process.
    pub(crate) fn is_local(&self) -> bool {
        self.distance == Distance::Own
    }
}

/// Candidates of one class and distance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) class: Class,
    pub(crate) range: Range<usize>,
}

/// A service's providers, as one view has them.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) service: ServiceName,
    pub(crate) generation: u64,
    /// Best class first, then nearest first.
    pub(crate) candidates: Vec<Candidate>,
    /// The same, as ranges.
    pub(crate) groups: Vec<Group>,
    /// Providers that may not be asked, and why.
    pub(crate) refused: Vec<(Arc<Provider>, Refused)>,
    pub(crate) terms: Terms,
    pub(crate) stats: Arc<ServiceStats>,
    /// Not all providers, but those that a caller's wishes leave.
    pub(crate) narrowed: bool,
    tight: bool,
}

/// Why a provider may not be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It takes no new work.
    Draining,
    /// It does not answer its probe, or is gone.
    Unhealthy,
}

impl Refused {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Refused::Draining => "draining",
            Refused::Unhealthy => "unhealthy",
        }
    }
}

impl Route {
    /// Whether anybody may be asked.
    pub(crate) fn is_usable(&self) -> bool {
        !self.candidates.is_empty()
    }

    /// Whether a second attempt may be worth what it costs to be ready for it.
    pub(crate) fn may_go_on(&self) -> bool {
        self.tight || self.candidates.len() > 1
    }

    /// How many providers may not be asked for this reason.
    pub(crate) fn count(&self, why: Refused) -> usize {
        self.refused.iter().filter(|(_, refused)| *refused == why).count()
    }

    fn sort(&mut self) {
        self.candidates.sort_by_key(|candidate| (candidate.class, candidate.distance, candidate.node));
        let mut begin = 0;
        for same in self.candidates.chunk_by(|a, b| (a.class, a.distance) == (b.class, b.distance)) {
            let end = begin + same.len();
            self.groups.extend(same.first().map(|first| Group { class: first.class, range: begin..end }));
            begin = end;
        }
    }

    /// The same with those alone who fit.
    pub(crate) fn narrow(&self, fits: impl Fn(&Provider) -> bool) -> Self {
        let mut route = Route {
            service: self.service.clone(),
            generation: self.generation,
            candidates: self.candidates.iter().filter(|candidate| fits(&candidate.provider)).cloned().collect(),
            groups: Vec::new(),
            refused: self.refused.iter().filter(|(provider, _)| fits(provider)).cloned().collect(),
            terms: self.terms.clone(),
            stats: self.stats.clone(),
            narrowed: true,
            tight: self.tight,
        };
        route.sort();
        route
    }
}

/// The class of a provider; else why it may not be asked.
///
/// # Errors
/// [`Refused`].
pub(crate) fn class(provider: &Provider) -> Result<Class, Refused> {
    if provider.member.manifest.draining {
        return Err(Refused::Draining);
    }
    match (provider.member.state, provider.service.health) {
        (MemberState::Dead | MemberState::Left, _) | (_, Health::Unhealthy) => Err(Refused::Unhealthy),
        (MemberState::Suspect, _) => Ok(Class::Suspect),
        (MemberState::Alive, Health::Healthy) => Ok(Class::Healthy),
        (MemberState::Alive, Health::Degraded) => Ok(Class::Degraded),
    }
}

/// What is there to sort by, beside the view.
pub(crate) struct Here<'a> {
    /// This process can be asked without the network.
    pub(crate) has_local: bool,
    pub(crate) outliers: &'a Outliers,
    /// Where a service says nothing of it.
    pub(crate) first_byte: Duration,
}

/// Sorts the providers of a service.
pub(crate) fn route(
    view: &ClusterView,
    service: &ServiceName,
    providers: &[Arc<Provider>],
    here: &Here<'_>,
    stats: Arc<ServiceStats>,
) -> Route {
    let site: Option<&Site> = view.members.get(&view.me).map(|me| &me.manifest.site);
    let mut route = Route {
        service: service.clone(),
        generation: view.generation,
        candidates: Vec::with_capacity(providers.len()),
        groups: Vec::new(),
        refused: Vec::new(),
        terms: Terms::of(providers.iter().map(|provider| &provider.service.labels), here.first_byte),
        stats,
        narrowed: false,
        tight: providers.iter().any(|provider| provider.service.max_concurrency < TIGHT_BELOW),
    };
    for provider in providers {
        let local = provider.node == view.me;
        let judged = if local && !here.has_local { Err(Refused::Unhealthy) } else { class(provider) };
        let class = match judged {
            Ok(class) => class,
            Err(why) => {
                route.refused.push((provider.clone(), why));
                continue;
            }
        };
        let (incarnation, version) = provider.member.manifest.order();
        let outlier = here.outliers.get(service, provider.node);
        outlier.heard(Word { incarnation, version, alive: provider.member.is_alive() });
        outlier.admits(provider.service.max_concurrency);
        let distance = match local {
            true => Distance::Own,
            false if site == Some(&provider.member.manifest.site) => Distance::Site,
            false => Distance::Far,
        };
        route.candidates.push(Candidate {
            node: provider.node,
            // A worker's name is printable ASCII: the other arm is never taken.
            header: HeaderValue::from_str(provider.member.name.as_str()).unwrap_or(HeaderValue::from_static("?")),
            class,
            distance,
            outlier,
            provider: provider.clone(),
        });
    }
    route.sort();
    route
}
