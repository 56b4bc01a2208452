//! Service -> providers, kept up to date a member at a time.
//!
//! Dead and departed members offer nothing; suspects still do.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{NodeId, ServiceName};
use crate::view::{Member, MemberState, Provider};

/// Who offers what.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    services: BTreeMap<ServiceName, Vec<Arc<Provider>>>,
    offers: BTreeMap<NodeId, Vec<ServiceName>>,
}

impl Registry {
    /// Takes in what a member is now, `None` where it is not listed any more; says whether a service is new, or is offered by
    /// nobody any more.
    pub fn update(&mut self, node: NodeId, member: Option<&Arc<Member>>) -> bool {
        let mut other_services = false;
        let here = member.filter(|m| matches!(m.state, MemberState::Alive | MemberState::Suspect));
        let offered: Vec<_> =
            here.map(|m| m.manifest.services.iter().map(|s| s.name.clone()).collect()).unwrap_or_default();
        for name in self.offers.remove(&node).unwrap_or_default() {
            if !offered.contains(&name) {
                other_services |= self.withdraw(&name, &node);
            }
        }
        let Some(member) = here.filter(|_| !offered.is_empty()) else { return other_services };
        for service in &member.manifest.services {
            let provider = Arc::new(Provider { node, member: Arc::clone(member), service: service.clone() });
            let providers = self.services.entry(service.name.clone()).or_default();
            other_services |= providers.is_empty();
            match providers.binary_search_by_key(&node, |p| p.node) {
                Ok(at) => {
                    if let Some(slot) = providers.get_mut(at) {
                        *slot = provider;
                    }
                }
                Err(at) => providers.insert(at, provider),
            }
        }
        self.offers.insert(node, offered);
        other_services
    }

    /// All services that somebody offers, their providers in the order of their ids.
    pub fn services(&self) -> &BTreeMap<ServiceName, Vec<Arc<Provider>>> {
        &self.services
    }

    /// Says whether nobody offers it any more.
    fn withdraw(&mut self, name: &ServiceName, node: &NodeId) -> bool {
        let Some(providers) = self.services.get_mut(name) else { return false };
        providers.retain(|p| p.node != *node);
        let none = providers.is_empty();
        if none {
            self.services.remove(name);
        }
        none
    }
}

#[cfg(test)]
mod tests;
