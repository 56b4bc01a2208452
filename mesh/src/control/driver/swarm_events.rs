//! Turns what the swarm reports into inputs of the core.

use std::time::Instant;

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    gossipsub, identify,
    kad::{self, store::RecordStore as _},
    mdns, request_response as rr,
    swarm::{ConnectionId, SwarmEvent},
};
use paceline_proto::{
    id::{NodeId, Role},
    manifest::SERVICES_MAX,
    node::{DialFailure, GossipId, Input, LinkLoss},
};

use super::{Asked, Driver, PROVIDE_AFTER, PROVIDE_PAUSE, SURPLUS_AFTER, Timer, VERDICTS_MAX};
use crate::control::{
    behaviour::BehaviourEvent,
    dials::{brief, neighbour},
    lines,
    links::Up,
    node_of,
    rpc::{Ask, Response},
};

/// Most keys that one peer may provide: its services and roles, and as many that it has just left.
const KEYS_PER_PEER: usize = 2 * (SERVICES_MAX + Role::ALL.len());
/// Most addresses of a peer that go into the routing table.
const ROUTED_ADDRESSES_MAX: usize = 8;

type RpcEvent = rr::Event<Ask, Response>;

impl Driver {
    pub(super) fn on_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                if endpoint.is_dialer() {
                    self.entries.answered(endpoint.get_remote_address(), peer_id);
                }
                self.wanted.end(&peer_id);
                self.link_up(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, endpoint, cause, .. } => {
                let lost = self.links.down(&peer_id, connection_id, &endpoint, cause.as_ref());
                if let (Some(loss), Some(peer)) = (lost, node_of(&peer_id)) {
                    tracing::debug!(node = %peer.short(), ?loss, "link down");
                    self.input(Input::LinkDown { peer, loss });
                    self.door.present.clear(&peer_id);
                    self.kept_keys.remove(&peer_id);
                    if self.links.is_empty() {
                        self.entries.hurry();
                        self.timers.insert(Timer::Entries, Instant::now());
                    }
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                tracing::debug!(%peer, reason = %brief(&error), "dial failed");
                if !self.links.contains(&peer)
                    && let Some(refused) = self.wanted.end(&peer)
                {
                    let failure = if refused { DialFailure::Refused } else { DialFailure::Unreachable };
                    self.dial_failed(&peer, failure);
                }
            }
            // before the start is over, all addresses are told at once
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. }
                if self.told_addresses.is_some() =>
            {
                self.tell_addresses();
            }
            SwarmEvent::ListenerClosed { reason: Err(e), addresses, .. } => {
                tracing::error!(error = %e, ?addresses, "a listener of the mesh port closed");
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener of the mesh port"),
            _ => {}
        }
    }

    fn link_up(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let passed = self.door.admitted.get(peer, endpoint.get_remote_address());
        let (Some(node), Some(passed)) = (node_of(&peer), passed) else {
            tracing::error!(%peer, "a connection that did not pass the door is closed");
            self.links.closing(connection, LinkLoss::Closed);
            self.swarm.close_connection(connection);
            return;
        };
        self.shared.counts.connection();
        // revoked between the door and here
        if let Err(why) = self.trust.stands(&passed.credential) {
            tracing::debug!(%peer, %why, "closing");
            self.links.closing(connection, LinkLoss::Closed);
            self.swarm.close_connection(connection);
            return;
        }
        match self.links.up(peer, connection, endpoint, passed.credential, passed.instance) {
            Up::More => {
                let soon = Instant::now() + SURPLUS_AFTER;
                self.timers.entry(Timer::Surplus).or_insert(soon);
            }
            Up::OfAnotherProcess => {
                self.swarm.close_connection(connection);
                return;
            }
            Up::First => {
                tracing::debug!(node = %node.short(), "link up");
                self.door.present.set(peer, passed.instance);
                self.input(Input::LinkUp { peer: node, chain: passed.chain });
                self.close_expired();
                if self.renewing_is_due() {
                    self.timers.insert(Timer::Renew, Instant::now());
                }
            }
        }
        if endpoint.is_listener() {
            self.was_dialled();
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(event) => self.on_gossip(event),
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Rpc(event) => self.on_rpc(event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.route(peer_id, info.listen_addrs);
            }
            BehaviourEvent::Lines(lines::Event::Received { peer, bytes }) => {
                if let Some(from) = node_of(&peer).filter(|_| self.links.contains(&peer)) {
                    self.input(Input::Direct { from, bytes });
                }
            }
            BehaviourEvent::Lines(lines::Event::Broken { peer, connection, reason }) => {
                tracing::warn!(%peer, reason, "closing a connection of no use");
                self.links.closing(connection, LinkLoss::Closed);
                self.swarm.close_connection(connection);
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(peers)) => self.on_neighbours(peers),
            _ => {}
        }
    }

    /// A connected peer goes into Kademlia's routing table by the addresses that it listens at.
    fn route(&mut self, peer: PeerId, listens: Vec<Multiaddr>) {
        if !self.links.contains(&peer) {
            return;
        }
        for address in listens.into_iter().take(ROUTED_ADDRESSES_MAX) {
            self.swarm.behaviour_mut().kad.add_address(&peer, address);
        }
    }

    fn on_neighbours(&mut self, peers: Vec<(PeerId, Multiaddr)>) {
        let now = Instant::now();
        for (peer, address) in peers {
            let Ok(address) = address.with_p2p(peer) else { continue };
            self.entries.add_neighbour(address.clone());
            if self.links.contains(&peer) || self.strangers.contains(&peer, now) {
                continue;
            }
            let _ = self.swarm.dial(neighbour(peer, address));
        }
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let Some(from) = node_of(&propagation_source) else { return };
                if self.verdicts.len() >= VERDICTS_MAX {
                    self.verdicts.pop_first();
                }
                let id = GossipId(self.next_gossip);
                self.next_gossip += 1;
                self.verdicts.insert(id, (message_id, propagation_source));
                self.input(Input::Gossip { from, id, bytes: message.data });
            }
            gossipsub::Event::Subscribed { .. } => self.publish_unsent(),
            _ => {}
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::RoutingUpdated { is_new_peer: true, .. } => {
                let soon = Instant::now() + PROVIDE_AFTER;
                let soon = self.provided_at.map_or(soon, |at| soon.max(at + PROVIDE_PAUSE));
                self.timers.entry(Timer::Provide).or_insert(soon);
            }
            // libp2p lets only the provider itself add its record; others' records are not for us to keep
            kad::Event::InboundRequest { request: kad::InboundRequest::AddProvider { record: Some(record) } }
                if self.links.contains(&record.provider) =>
            {
                let keys = self.kept_keys.entry(record.provider).or_default();
                if keys.len() >= KEYS_PER_PEER && !keys.contains(&record.key) {
                    tracing::debug!(provider = %record.provider, "a provider record too many was not kept");
                    return;
                }
                keys.insert(record.key.clone());
                if let Err(e) = self.swarm.behaviour_mut().kad.store_mut().add_provider(record) {
                    tracing::debug!(error = ?e, "a provider record was not kept");
                }
            }
            kad::Event::OutboundQueryProgressed {
                id, result: kad::QueryResult::GetProviders(result), step, ..
            } => {
                let found = match result {
                    Ok(kad::GetProvidersOk::FoundProviders { providers, .. }) => providers,
                    _ => Default::default(),
                };
                let Some(key) = self.queries.get(&id).cloned() else { return };
                if step.last {
                    self.queries.remove(&id);
                }
                let nodes: Vec<NodeId> = {
                    let mut nodes: Vec<NodeId> = found.iter().filter_map(node_of).collect();
                    nodes.sort_unstable();
                    nodes
                };
                for peer in found {
                    if peer != *self.swarm.local_peer_id() && !self.links.contains(&peer) {
                        // the query knows its addresses as long as it runs
                        let _ = self.swarm.dial(peer);
                    }
                }
                if !nodes.is_empty() || step.last {
                    self.input(Input::Providers { key, nodes });
                }
            }
            kad::Event::InboundRequest { request: kad::InboundRequest::PutRecord { record: Some(record), .. } } => {
                self.keep_record(record);
            }
            kad::Event::OutboundQueryProgressed { id, result: kad::QueryResult::GetRecord(result), step, .. } => {
                self.on_summary_found(id, result, step.last);
            }
            _ => {}
        }
    }

    fn on_rpc(&mut self, event: RpcEvent) {
        match event {
            rr::Event::Message { peer, message: rr::Message::Request { request, channel, .. }, .. } => {
                self.on_request(peer, request, channel);
            }
            rr::Event::Message { peer, message: rr::Message::Response { request_id, response }, .. } => {
                match self.asked.remove(&request_id) {
                    Some(Asked::Renewal) => self.on_renewal_answer(&peer, response),
                    Some(Asked::Reach) => self.on_reach_answer(&response),
                    Some(Asked::Told) | None => {}
                }
            }
            rr::Event::OutboundFailure { peer, request_id, error, .. } => match self.asked.remove(&request_id) {
                Some(Asked::Renewal) => self.renewal_failed(&error.to_string()),
                _ => tracing::debug!(%peer, %error, "a message was lost"),
            },
            rr::Event::InboundFailure { .. } | rr::Event::ResponseSent { .. } => {}
        }
    }

    fn on_request(&mut self, peer: PeerId, request: Ask, channel: rr::ResponseChannel<Response>) {
        let (Some(node), Some(link)) = (node_of(&peer), self.links.get(&peer)) else { return };
        let response = match request {
            Ask::Renew(request) => {
                let credential = link.credential.clone();
                return self.sign_renewal(credential, request, channel);
            }
            Ask::Chain(chain) => match self.trust.judge(&chain) {
                Ok(credential) if credential.node == node => {
                    self.links.renewed(&peer, credential);
                    self.close_expired();
                    Response::Done
                }
                Ok(_) => Response::Refused("certificate of another key".into()),
                Err(e) => Response::Refused(e.to_string()),
            },
            Ask::DialBack(at) if link.credential.roles.contains(Role::Gateway) => {
                self.data.dial_back(node, at);
                Response::Done
            }
            Ask::Reach => return self.try_to_reach(&node, peer, channel),
            Ask::DialBack(_) => Response::Refused("only a gateway may ask to be dialled".into()),
        };
        let _ = self.swarm.behaviour_mut().rpc.send_response(channel, response);
    }
}
