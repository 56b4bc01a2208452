//! Connections, and what two connected nodes tell each other.

use std::sync::Arc;
use std::time::Duration;

use super::{CONNECT_EVERY, CONNECT_SELDOM, CONNECT_SOON, Event, Node, Output, ProviderKey, SEEN_EVERY, Timer};
use crate::Now;
use crate::credential::Chain;
use crate::id::{NodeId, Role};
use crate::manifest::Manifest;
use crate::membership::{self, Loss};
use crate::message::{Direct, Item, SentChain, WANTS_MAX, Want, pushes};
use crate::sync::Span;

/// Most members that one exchange asks for.
const WANTED_MAX: usize = 1_024;
/// Most members that one exchange offers.
const OFFERED_MAX: usize = 1_024;
/// Exchanges with new neighbours, at once and a second: where many connect at once, gossip brings the rest.
pub(super) const EXCHANGES: (u32, u32) = (4, 1);
/// Most provider hints that are followed at once.
const HINTS_MAX: usize = 16;
/// A key is not looked up in Kademlia again within this time.
const FIND_AGAIN: Duration = Duration::from_secs(1);
/// How often gateways are looked for in Kademlia while none is known.
const FIND_GATEWAYS_EVERY: Duration = Duration::from_secs(30);
/// An exchange that hit a bound is followed by another one this soon.
const SYNC_SOON: Duration = Duration::from_secs(1);

/// How the last connection to a peer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLoss {
    /// FIN or RST: the process has most likely ended.
    Reset,
    /// Silence.
    Silent,
    /// We closed it, or it did in good order (too many connections).
    Closed,
}

/// Why a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// Nobody listens there.
    Refused,
    /// No answer, no route, or no address known.
    Unreachable,
}

impl Node {
    pub(super) fn link_up(&mut self, peer: NodeId, chain: Chain, now: Now) {
        let reason = match self.learn_chain(Arc::new(chain), now) {
            Ok(credential) if credential.node == peer => None,
            Ok(_) => Some("another node's credential".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = reason {
            self.outputs.push_back(Output::Event(Event::Refused { peer, reason: reason.clone() }));
            self.outputs.push_back(Output::Close { peer, reason });
            return;
        }
        self.connect.linked(peer, now.at);
        self.watch_link(peer, true, now);
        self.membership.handle_input(membership::Input::LinkUp(peer), now.at);
        self.lead_links(now);
        self.tell_best(peer, now);
        if self.own.gossip {
            self.push_own(peer);
        }
        // One exchange serves both sides.
        if self.me < peer {
            if self.exchanges.take(1, now.at) {
                self.send(peer, &Direct::Digest(self.table.digest()));
            } else {
                self.timers.set_by(Timer::Sync, now.at + SYNC_SOON);
            }
        }
        self.connect_soon(now);
    }

    pub(super) fn link_down(&mut self, peer: NodeId, loss: LinkLoss, now: Now) {
        self.meters.remove(&peer);
        self.connect.unlinked(&peer);
        self.watch_link(peer, false, now);
        let parted = self.released.remove(&peer).is_some();
        let loss = match loss {
            LinkLoss::Reset if parted => Loss::Closed,
            // Whoever slept does not know which side let go.
            _ if self.detector.is_sceptical() => Loss::Closed,
            LinkLoss::Reset => Loss::Reset,
            LinkLoss::Silent => Loss::Silent,
            LinkLoss::Closed => Loss::Closed,
        };
        match loss {
            // Connections also break where two nodes close one of several, or are too slow to set one up: only a port at
            // which nobody listens any more, or a silence, says that the process is gone.
            Loss::Reset => _ = self.membership.handle_input(membership::Input::Cautious(true), now.at),
            Loss::Closed => self.connect.turned_away(peer, &mut self.rng, now.at),
            Loss::Silent => {}
        }
        self.membership.handle_input(membership::Input::LinkDown { peer, loss }, now.at);
        self.lead_links(now);
        self.connect_soon(now);
    }

    pub(super) fn dial_failed(&mut self, peer: NodeId, failure: DialFailure, now: Now) {
        self.connect.failed(peer, &mut self.rng, now.at);
        self.timers.set_by(Timer::Connect, now.at + CONNECT_EVERY);
        if self.detector.is_sceptical() {
            return;
        }
        let refused = failure == DialFailure::Refused;
        self.membership.handle_input(membership::Input::Cautious(false), now.at);
        self.membership.handle_input(membership::Input::DialFailed { peer, refused }, now.at);
    }

    /// Dials a member, unless that is under way.
    pub(super) fn dial(&mut self, peer: NodeId, now: Now) {
        if self.connect.start(peer, now.at) {
            self.output_dial(peer);
        }
    }

    pub(super) fn connect_soon(&mut self, now: Now) {
        let soon = self.rng.around(CONNECT_SOON);
        self.timers.set_by(Timer::Connect, now.at + soon);
    }

    pub(super) fn look_for_connections(&mut self, now: Now) {
        let wanted = self.wanted(now);
        for peer in self.connect.plan(&wanted, &mut self.rng, now.at) {
            self.output_dial(peer);
        }
        let missing = self.connect.is_short() || self.arrivals.are_many(now.at);
        let surplus = self.let_go(now);
        if !self.membership.links().is_empty() && !self.connect.knows_a_gateway() {
            let key = ProviderKey::Role(Role::Gateway);
            if self.finds.get(&key).is_none_or(|at| *at + FIND_GATEWAYS_EVERY <= now.at) {
                self.find(key, now);
            }
        }
        let again = self.rng.around(if missing || surplus { CONNECT_EVERY } else { CONNECT_SELDOM });
        self.timers.set(Timer::Connect, now.at + again);
    }

    pub(super) fn carry_over_last_seen(&mut self, now: Now) {
        let links: Vec<_> = self.membership.links().iter().copied().collect();
        for peer in links {
            self.membership.seen(&peer, now.at);
            if self.membership.get(&peer).is_some() {
                self.refresh(peer);
            }
        }
        self.timers.set(Timer::Seen, now.at + SEEN_EVERY);
    }

    pub(super) fn sync_with_a_neighbour(&mut self, now: Now) {
        let links: Vec<_> = self.membership.links().iter().copied().collect();
        // What the leader's summary says is already what this node knows.
        let in_step = self.lead.is_in_step(&self.timing, now);
        if let Some(peer) = self.rng.pick(&links).filter(|_| !in_step) {
            self.send(peer, &Direct::Digest(self.table.digest()));
        }
        let again = self.rng.around(self.timing.sync);
        self.timers.set(Timer::Sync, now.at + again);
    }

    pub(super) fn answer_digest(&mut self, from: NodeId, digest: &[u64], now: Now) {
        for spans in self.table.answer(digest, now.at) {
            self.send(from, &Direct::Entries(spans));
        }
    }

    pub(super) fn compare(&mut self, from: NodeId, spans: &[Span], now: Now) {
        // Not even this node itself is left out: what others know of it and it does not, another process has said.
        let mut difference = self.table.compare(spans, now.at);
        if difference.wants.len() > WANTED_MAX || difference.offers.len() > OFFERED_MAX {
            self.timers.set_by(Timer::Sync, now.at + SYNC_SOON);
        }
        let wants: Vec<_> = difference.wants.into_iter().take(WANTED_MAX).collect();
        self.ask_for(from, wants, now);
        // The other side asks for what it has not been told meanwhile, or asked of somebody else.
        difference.offers.truncate(OFFERED_MAX);
        for spans in self.table.offer(&difference.offers, now.at) {
            self.send(from, &Direct::Entries(spans));
        }
    }

    /// Asks a peer for members that nobody was asked for just now.
    pub(super) fn ask_for(&mut self, peer: NodeId, members: Vec<NodeId>, now: Now) {
        let wants: Vec<_> =
            members.into_iter().filter(|node| self.asked.ask(*node, now.at)).map(Want::Member).collect();
        for wants in wants.chunks(WANTS_MAX) {
            self.send(peer, &Direct::Pull(wants.to_vec()));
        }
    }

    pub(super) fn answer_pull(&mut self, from: NodeId, mut wants: Vec<Want>, now: Now) {
        wants.sort_unstable();
        wants.dedup();
        let items: Vec<_> = wants
            .iter()
            .filter_map(|want| match want {
                Want::Member(node) => self.item_of(node, now),
                Want::Chain(hash) => self.credentials.of_hash(hash, now.unix).map(|k| chain_only(&k.chain)),
                Want::Author(node) => self.credentials.of_node(node, now.unix).map(|k| chain_only(&k.chain)),
            })
            .collect();
        for push in pushes(items) {
            self.send(from, &push);
        }
    }

    pub(super) fn push_own(&mut self, peer: NodeId) {
        // Without its chain, which the peer has seen at the door, or asks for.
        let records = vec![Arc::clone(&self.own.record)];
        for push in pushes([Item { records, ..Item::default() }]) {
            self.send(peer, &push);
        }
    }

    /// Looks for providers in Kademlia, unless that was just done.
    pub(super) fn find(&mut self, key: ProviderKey, now: Now) {
        self.finds.retain(|_, at| *at + FIND_GATEWAYS_EVERY > now.at);
        if self.finds.get(&key).is_none_or(|at| *at + FIND_AGAIN <= now.at) {
            self.finds.insert(key.clone(), now.at);
            self.outputs.push_back(Output::FindProviders(key));
        }
    }

    /// Asks those that are said to provide something for their own word, where this node lacks it.
    pub(super) fn providers(&mut self, key: &ProviderKey, nodes: &[NodeId]) {
        let known = |node: &NodeId| {
            self.membership.get(node).is_some_and(|row| {
                row.is_here()
                    && match key {
                        ProviderKey::Service(name) => row.manifest.service(name.as_str()).is_some(),
                        ProviderKey::Role(role) => row.manifest.roles.contains(*role),
                    }
            })
        };
        let mut hints: Vec<_> = nodes.iter().filter(|n| **n != self.me && !known(n)).copied().collect();
        hints.sort_unstable();
        hints.dedup();
        hints.truncate(HINTS_MAX);
        for node in hints {
            self.send(node, &Direct::Pull(vec![Want::Member(node)]));
        }
    }

    /// Somebody told its own manifest, and it was not new: where another process under its key said what is known
    /// instead, it hears that, and can tell by it that its data directory was cloned.
    pub(super) fn tell_of_namesake(&mut self, author: NodeId, manifest: &Manifest, now: Now) {
        let known = self.membership.get(&author).filter(|row| row.is_here());
        if known.is_some_and(|row| row.manifest.instance != manifest.instance) {
            for push in pushes(self.item_of(&author, now)) {
                self.send(author, &push);
            }
        }
    }

    /// All about a member, as another needs it to believe it.
    fn item_of(&self, node: &NodeId, now: Now) -> Option<Item> {
        if *node == self.me {
            let record = Arc::clone(&self.own.record);
            return Some(Item {
                chains: vec![SentChain(Arc::clone(&self.own.chain))],
                records: vec![record],
                gone_s: 0,
            });
        }
        let row = self.membership.get(node)?;
        let chain = &self.credentials.of_hash(&row.manifest.credential, now.unix)?.chain;
        let mut item =
            Item { chains: vec![SentChain(Arc::clone(chain))], records: vec![Arc::clone(&row.record)], gone_s: 0 };
        if let (false, Some(proof)) = (row.is_here(), &row.proof) {
            if proof.author != *node
                && let Some(known) = self.credentials.of_node(&proof.author, now.unix)
            {
                item.chains.push(SentChain(Arc::clone(&known.chain)));
            }
            item.records.push(Arc::clone(proof));
            let gone = now.at.saturating_duration_since(row.since).as_secs();
            item.gone_s = u32::try_from(gone).unwrap_or(u32::MAX);
        }
        Some(item)
    }

    fn output_dial(&mut self, peer: NodeId) {
        let addresses = self.membership.get(&peer).map(|r| r.manifest.mesh_addresses.clone()).unwrap_or_default();
        self.outputs.push_back(Output::Dial { peer, addresses });
    }
}

fn chain_only(chain: &Arc<Chain>) -> Item {
    Item { chains: vec![SentChain(Arc::clone(chain))], ..Item::default() }
}
