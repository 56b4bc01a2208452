//! Members as readers see them: one snapshot each, made anew only when that member changes.
//!
//! A name belongs to one member in the view: where several claim it, the first of those that are there keeps it, by id, and
//! the others are shown with a suffix.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::{NAME_BYTES_MAX, NodeId, WorkerName};
use crate::membership::Row;
use crate::view::Member;

/// Bytes of a suffix: a dash and the first eight characters of the id.
const SUFFIX_BYTES: usize = 9;

/// Members as readers see them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster {
    members: BTreeMap<NodeId, Arc<Member>>,
    // Gone ones come last, so that a newcomer may take their name.
    claims: BTreeMap<WorkerName, BTreeSet<(bool, NodeId)>>,
}

impl Roster {
    /// Takes in what a member's row is now; says whose snapshot is another one.
    pub(crate) fn update(&mut self, node: NodeId, row: Option<&Row>) -> Vec<NodeId> {
        let before = self.members.remove(&node);
        let mut others = BTreeSet::new();
        if let Some(old) = &before {
            others.extend(self.unclaim(&old.manifest.name, node));
        }
        if let Some(row) = row {
            let name = row.manifest.name.clone();
            let claims = self.claims.entry(name.clone()).or_default();
            claims.insert((!row.is_here(), node));
            others.extend(claims.iter().map(|(_, n)| *n));
            let member = Member {
                name,
                roles: row.manifest.roles,
                manifest: Arc::clone(&row.manifest),
                state: row.state,
                since: row.since,
                last_seen: row.last_seen,
                connected: row.linked,
            };
            self.members.insert(node, Arc::new(member));
        }
        others.remove(&node);
        let mut changed = vec![node];
        self.rename(node);
        changed.extend(others.into_iter().filter(|n| self.rename(*n)));
        changed
    }

    /// Everybody, in order.
    pub(crate) fn members(&self) -> &BTreeMap<NodeId, Arc<Member>> {
        &self.members
    }

    fn unclaim(&mut self, name: &WorkerName, node: NodeId) -> Vec<NodeId> {
        let Some(claims) = self.claims.get_mut(name) else { return Vec::new() };
        claims.retain(|(_, n)| *n != node);
        let others = claims.iter().map(|(_, n)| *n).collect();
        if claims.is_empty() {
            self.claims.remove(name);
        }
        others
    }

    /// Gives a member the name that it is shown by; says whether that is another one.
    fn rename(&mut self, node: NodeId) -> bool {
        let Some(member) = self.members.get_mut(&node) else { return false };
        let claimed = &member.manifest.name;
        let first = self.claims.get(claimed).and_then(BTreeSet::first).is_none_or(|(_, n)| *n == node);
        let name = if first { claimed.clone() } else { suffixed(claimed, &node) };
        if member.name == name {
            return false;
        }
        Arc::make_mut(member).name = name;
        true
    }
}

fn suffixed(name: &WorkerName, node: &NodeId) -> WorkerName {
    let kept: String = name.as_str().chars().take(NAME_BYTES_MAX - SUFFIX_BYTES).collect();
    // It has the form of a name, since both parts have.
    WorkerName::new(&format!("{kept}-{}", node.short())).unwrap_or_else(|_| name.clone())
}

#[cfg(test)]
mod tests;
