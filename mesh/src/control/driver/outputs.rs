//! Carries out what the core asks for.

use std::{sync::Arc, time::Instant};

use libp2p::{Multiaddr, PeerId, gossipsub, kad, swarm::DialError, swarm::dial_opts::DialOpts};
use paceline_proto::{
    conduct::CUT_FOR,
    id::NodeId,
    node::{DialFailure, Event, Input, LinkLoss, Output, ProviderKey, Verdict},
    view::{ClusterView, MemberState},
};

use super::{Asked, Driver, PROVIDE_WIDELY_AFTER, QUERIES_MAX, Timer, UNSENT_MAX};
use crate::control::{
    addresses,
    behaviour::{PROVIDER_RENEWAL, kad_key},
    jittered,
    lines::FRAME_BYTES_MAX,
    node_of, peer_of,
    rpc::{Ask, DIAL_BACK_ADDRESSES_MAX},
};

/// Requests whose answer is open; what comes on top is lost, as a message may be.
const ASKED_MAX: usize = 1024;

impl Driver {
    /// Carries out every output, then publishes the view once where it has changed.
    pub(super) fn pump(&mut self) {
        while let Some(output) = self.node.poll_output() {
            self.carry_out(output);
        }
        self.shared.counts.probes(self.node.probes());
        if std::mem::take(&mut self.dirty) {
            let view = Arc::new(self.node.view());
            self.drop_dead_ends(&view);
            self.shared.view.store(Arc::clone(&view));
            self.shared.views.send_replace(view);
        }
    }

    /// Data connections to a process that is no more are closed at once: requests on them fail or move now, not when
    /// the connection has been silent for long enough.
    fn drop_dead_ends(&self, next: &ClusterView) {
        for (node, before) in &self.shared.view.load().members {
            let Some(after) = next.members.get(node) else { continue };
            if Arc::ptr_eq(before, after) {
                continue;
            }
            if after.state == MemberState::Dead && before.state != MemberState::Dead {
                self.data.disconnect(*node, "it is dead");
            } else if after.manifest.instance != before.manifest.instance {
                self.data.disconnect(*node, "it has started anew");
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Publish(bytes) => self.publish(bytes),
            Output::Send { to, bytes } => self.send(&to, bytes),
            Output::Verdict { id, verdict } => {
                let Some((message, from)) = self.verdicts.remove(&id) else { return };
                let acceptance = match verdict {
                    Verdict::Accept => gossipsub::MessageAcceptance::Accept,
                    Verdict::Ignore => gossipsub::MessageAcceptance::Ignore,
                    Verdict::Reject => gossipsub::MessageAcceptance::Reject,
                };
                self.swarm.behaviour_mut().gossip.report_message_validation_result(&message, &from, acceptance);
            }
            Output::Dial { peer, addresses } => self.dial(&peer, &addresses),
            Output::Close { peer, reason } => self.close_peer(&peer, &reason),
            Output::Bar { peer, reason } => self.bar(&peer, reason),
            Output::Provide(key) => {
                self.provide(&key);
                self.provided.insert(key);
                let soon = Instant::now() + jittered(PROVIDE_WIDELY_AFTER);
                let widely = self.timers.entry(Timer::ProvideWidely).or_insert(soon);
                *widely = soon.min(*widely);
            }
            Output::Unprovide(key) => {
                self.swarm.behaviour_mut().kad.stop_providing(&kad_key(&key));
                self.provided.remove(&key);
            }
            Output::FindProviders(key) => self.find_providers(key),
            Output::PersistIncarnation(incarnation) => self.set_incarnation(incarnation),
            Output::PersistClaim(claim) => self.persist_claim(&claim),
            Output::PersistRevoked(lists) => self.persist_revoked(&lists),
            Output::StoreSummary(bytes) => self.store_summary(bytes),
            Output::FindSummary => self.find_summary(),
            Output::Write(summary) => self.write(*summary),
            Output::Changed => self.dirty = true,
            Output::Event(event) => self.on_event(&event),
            Output::Fatal(fatal) => self.fail(fatal.to_string()),
        }
    }

    /// A member that is held for dead has most likely ended without a word, whatever its system still says for it.
    fn close_peer(&mut self, node: &NodeId, reason: &str) {
        let Some(peer) = peer_of(node) else { return };
        let gone = self.node.member(node).is_some_and(|m| m.state == MemberState::Dead);
        tracing::debug!(%peer, %reason, "closing");
        self.links.closing_peer(&peer, if gone { LinkLoss::Silent } else { LinkLoss::Closed });
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    /// Lets go of a member that misbehaves, and keeps it out for a while.
    fn bar(&mut self, node: &NodeId, reason: &str) {
        let Some(peer) = peer_of(node) else { return };
        let name = self.node.member(node).map_or_else(|| node.short(), |member| member.name.to_string());
        tracing::warn!(worker = name, reason, for_s = CUT_FOR.as_secs(), "a member is cut off");
        self.door.bar(peer);
        self.links.closing_peer(&peer, LinkLoss::Closed);
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    fn on_event(&mut self, event: &Event) {
        self.shared.counts.event(event);
        match event {
            Event::State { node, from, to } => {
                self.save_peers_soon();
                let name = self.node.member(node).map(|member| member.name.to_string());
                let name = name.unwrap_or_else(|| node.short());
                match from {
                    None => tracing::info!(worker = name, state = word(*to), "a member is new here"),
                    Some(from) => tracing::info!(worker = name, from = word(*from), to = word(*to), "a member changed"),
                }
                if matches!(to, MemberState::Dead | MemberState::Left)
                    && let Some(peer) = peer_of(node)
                {
                    self.swarm.behaviour_mut().kad.remove_peer(&peer);
                }
            }
            Event::Manifest { node } => {
                self.save_peers_soon();
                tracing::debug!(node = %node.short(), "manifest");
            }
            Event::Leader { leader, term, takeovers } => {
                tracing::info!(leader = %leader.short(), term, takeovers, "another leader");
            }
            Event::Alarm(words) => tracing::error!("{words}"),
            Event::Refused { peer, reason } => tracing::warn!(node = %peer.short(), %reason, "a message was refused"),
        }
    }

    fn publish(&mut self, bytes: Vec<u8>) {
        let published = self.swarm.behaviour_mut().gossip.publish(self.topic.clone(), bytes.clone());
        match published {
            Ok(_) | Err(gossipsub::PublishError::Duplicate) => {}
            // whoever connects first is told how things are then, and tells everybody
            Err(gossipsub::PublishError::NoPeersSubscribedToTopic) if self.links.is_empty() => {}
            // it goes out when a neighbour subscribes; the exchange of digests would repair a loss
            Err(gossipsub::PublishError::NoPeersSubscribedToTopic | gossipsub::PublishError::AllQueuesFull(_)) => {
                if self.unsent.len() == UNSENT_MAX {
                    self.unsent.pop_front();
                }
                self.unsent.push_back(bytes);
            }
            Err(e) => tracing::warn!(error = %e, "gossip not sent"),
        }
    }

    /// A neighbour subscribed: what waited goes out.
    pub(super) fn publish_unsent(&mut self) {
        for bytes in std::mem::take(&mut self.unsent) {
            self.publish(bytes);
        }
    }

    fn send(&mut self, to: &NodeId, bytes: Vec<u8>) {
        if bytes.len() > FRAME_BYTES_MAX {
            tracing::error!(bytes = bytes.len(), max = FRAME_BYTES_MAX, "a message is too long to be sent");
            return;
        }
        if let Some(peer) = peer_of(to) {
            let view = &self.shared.view;
            self.swarm.behaviour_mut().lines.send(peer, bytes, || addresses::to_dial(&view.load(), to));
        }
    }

    /// Sends a request, dialling first where needed.
    pub(super) fn ask(&mut self, peer: PeerId, node: &NodeId, request: Ask, what: Asked) {
        if self.asked.len() >= ASKED_MAX && matches!(what, Asked::Told) {
            tracing::debug!(%peer, "too many requests are open, one more is dropped");
            return;
        }
        let rpc = &mut self.swarm.behaviour_mut().rpc;
        let id = if self.links.contains(&peer) {
            rpc.send_request(&peer, request)
        } else {
            rpc.send_request_with_addresses(&peer, request, addresses::to_dial(&self.shared.view.load(), node))
        };
        self.asked.insert(id, what);
    }

    pub(super) fn ask_dial_back(&mut self, node: &NodeId) {
        let Some((_, data)) = &self.told_addresses else { return };
        let at = data.iter().copied().take(DIAL_BACK_ADDRESSES_MAX).collect();
        if let Some(peer) = peer_of(node) {
            self.ask(peer, node, Ask::DialBack(at), Asked::Told);
        }
    }

    fn dial(&mut self, node: &NodeId, texts: &[String]) {
        let Some(peer) = peer_of(node) else { return };
        if self.links.contains(&peer) {
            return;
        }
        let list: Vec<Multiaddr> =
            texts.iter().filter_map(|a| a.parse().ok()).map(|a| addresses::split_peer(a).0).collect();
        if !self.wanted.begin(peer, &list) {
            return;
        }
        let options = DialOpts::peer_id(peer).addresses(list).extend_addresses_through_behaviour().build();
        match self.swarm.dial(options) {
            // the one under way tells
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(e) => {
                tracing::debug!(%peer, error = %e, "no dial");
                self.wanted.end(&peer);
                self.dial_failed(&peer, DialFailure::Unreachable);
            }
        }
    }

    pub(super) fn dial_failed(&mut self, peer: &PeerId, failure: DialFailure) {
        if let Some(peer) = node_of(peer) {
            self.input(Input::DialFailed { peer, failure });
        }
    }

    fn provide(&mut self, key: &ProviderKey) -> Option<kad::QueryId> {
        let query = self.swarm.behaviour_mut().kad.start_providing(kad_key(key));
        query.inspect_err(|e| tracing::warn!(?key, error = ?e, "not advertised in Kademlia")).ok()
    }

    /// The routing table has grown: records of ours belong there too.
    pub(super) fn provide_all(&mut self) {
        self.provided_at = Some(Instant::now());
        for key in self.provided.clone() {
            self.provide(&key);
        }
    }

    /// Renews them, also at those who are not connected.
    pub(super) fn provide_widely(&mut self) {
        self.timers.insert(Timer::ProvideWidely, Instant::now() + jittered(PROVIDER_RENEWAL));
        for key in self.provided.clone() {
            if let Some(query) = self.provide(&key) {
                self.swarm.behaviour_mut().kad.look_widely(query);
            }
        }
    }

    fn find_providers(&mut self, key: ProviderKey) {
        if self.queries.len() >= QUERIES_MAX {
            tracing::debug!(?key, "too many Kademlia queries are open");
            return;
        }
        let kad = &mut self.swarm.behaviour_mut().kad;
        let id = kad.get_providers(kad_key(&key));
        kad.look_widely(id);
        self.queries.insert(id, key);
    }
}

const fn word(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Dead => "dead",
        MemberState::Left => "left",
    }
}
