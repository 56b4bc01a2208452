//! Who can serve: the providers of the view, sorted into classes, made once for each service and view.

use std::sync::Arc;

use http::HeaderValue;
use paceline_proto::{
    id::{NodeId, ServiceName, WorkerName},
    manifest::Health,
    view::{ClusterView, MemberState, Provider},
};

use super::eject::{Outlier, Outliers, Word};
use crate::metrics::ServiceStats;

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

/// A provider that may be asked.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    pub(crate) name: WorkerName,
    /// The name, as `X-Paceline-Worker` says it.
    pub(crate) header: HeaderValue,
    pub(crate) class: Class,
    /// In this process.
    pub(crate) local: bool,
    pub(crate) outlier: Arc<Outlier>,
}

/// A service's providers, as one view has them.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) service: ServiceName,
    pub(crate) generation: u64,
    /// Best class first.
    pub(crate) candidates: Vec<Candidate>,
    /// Providers that may not be asked: they take no new work.
    pub(crate) draining: usize,
    /// Providers that may not be asked: they do not answer their probe.
    pub(crate) unhealthy: usize,
    pub(crate) stats: Arc<ServiceStats>,
}

impl Route {
    /// Whether anybody may be asked.
    pub(crate) fn is_usable(&self) -> bool {
        !self.candidates.is_empty()
    }
}

/// The class of a provider; `None` where it may not be asked.
pub(crate) fn class(provider: &Provider) -> Option<Class> {
    if provider.member.manifest.draining {
        return None;
    }
    match (provider.member.state, provider.service.health) {
        (MemberState::Dead | MemberState::Left, _) | (_, Health::Unhealthy) => None,
        (MemberState::Suspect, _) => Some(Class::Suspect),
        (MemberState::Alive, Health::Healthy) => Some(Class::Healthy),
        (MemberState::Alive, Health::Degraded) => Some(Class::Degraded),
    }
}

/// Sorts the providers of a service. `has_local`: this process can be asked without the network.
pub(crate) fn route(
    view: &ClusterView,
    service: &ServiceName,
    providers: &[Arc<Provider>],
    has_local: bool,
    outliers: &Outliers,
    stats: Arc<ServiceStats>,
) -> Route {
    let mut route = Route {
        service: service.clone(),
        generation: view.generation,
        candidates: Vec::with_capacity(providers.len()),
        draining: 0,
        unhealthy: 0,
        stats,
    };
    for provider in providers {
        let local = provider.node == view.me;
        let Some(class) = class(provider).filter(|_| !local || has_local) else {
            match provider.member.manifest.draining {
                true => route.draining += 1,
                false => route.unhealthy += 1,
            }
            continue;
        };
        let (incarnation, version) = provider.member.manifest.order();
        let outlier = outliers.get(service, provider.node);
        outlier.heard(Word { incarnation, version, alive: provider.member.is_alive() });
        route.candidates.push(Candidate {
            node: provider.node,
            name: provider.member.name.clone(),
            // A worker's name is printable ASCII: the other arm is never taken.
            header: HeaderValue::from_str(provider.member.name.as_str()).unwrap_or(HeaderValue::from_static("?")),
            class,
            local,
            outlier,
        });
    }
    route.candidates.sort_by_key(|candidate| (candidate.class, candidate.node));
    route
}
