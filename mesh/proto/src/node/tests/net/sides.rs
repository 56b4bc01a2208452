//! Partitions.

use super::{Net, SILENCE, Under};
use crate::id::NodeId;
use crate::node::LinkLoss;

impl Net {
    /// Puts these machines on a side of their own.
    pub(crate) fn part(&mut self, nodes: &[NodeId], side: u8) {
        for node in nodes {
            self.machines.get_mut(node).expect("a machine").side = side;
        }
        for ((a, b), link) in self.links.clone() {
            if self.machines[&a].side != self.machines[&b].side {
                self.under_way(SILENCE, Under::Lose { a, b, link, loss: LinkLoss::Silent });
            }
        }
    }

    /// Everybody can reach everybody again.
    pub(crate) fn heal(&mut self) {
        self.machines.values_mut().for_each(|m| m.side = 0);
    }
}
