//! The behaviours of the swarm and their bounds.

use std::{io, num::NonZeroUsize, sync::Arc, time::Duration};

use libp2p::{
    PeerId, StreamProtocol, connection_limits, gossipsub, identify, identity, kad, mdns,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use paceline_proto::{
    carrier::{
        self, CONNECTIONS_OF_HUBS, CONNECTIONS_OF_OTHERS, GOSSIP_DUPLICATES, GOSSIP_HEARTBEAT, GOSSIP_NEIGHBOURS,
        GOSSIP_NEIGHBOURS_MAX, GOSSIP_NEIGHBOURS_MIN, GOSSIP_TOLD, GOSSIP_TOLD_FOR, GOSSIP_TOLD_SHARE,
    },
    id::{ClusterId, Role, Roles},
    node::ProviderKey,
};
use sha2::{Digest as _, Sha256};

use super::{kademlia::Kademlia, lines, rpc};

/// Most bytes of a gossip message.
pub(crate) const GOSSIP_BYTES_MAX: usize = 16 * 1024;
/// Connections to one peer: two nodes that dial each other at once have two, and as many may be those of a process that
/// was killed and is back already.
const CONNECTIONS_PER_PEER: u32 = 4;
/// Connections that this node is setting up.
const PENDING_MAX: u32 = 64;
/// Connections that others are setting up: all nodes of a rack may come back at once, and whoever is turned away comes again.
const PENDING_INCOMING_MAX: u32 = 128;
/// A provider record lives this long at others, and is renewed three times in that: a renewal connects to those who are to
/// keep it. A record is a hint, and whoever follows it asks the provider itself.
const PROVIDER_TTL: Duration = Duration::from_secs(30 * 60);
pub(crate) const PROVIDER_RENEWAL: Duration = Duration::from_secs(10 * 60);
/// Bound of a Kademlia query.
const QUERY: Duration = Duration::from_secs(5);
/// A stored summary lives this long: three checkpoints of the leader.
pub(crate) const SUMMARY_TTL: Duration = Duration::from_secs(15 * 60);
/// Most bytes of one.
pub(crate) const SUMMARY_BYTES_MAX: usize = GOSSIP_BYTES_MAX;
/// Between two refreshes of the routing table.
const BOOTSTRAP: Duration = Duration::from_secs(15 * 60);
/// Messages waiting for one slow neighbour.
const GOSSIP_QUEUE_MAX: usize = 512;
/// mDNS asks again after this time.
const MDNS_INTERVAL: Duration = Duration::from_secs(60);

/// Everything that speaks on a connection.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) lines: lines::Behaviour,
    pub(crate) gossip: gossipsub::Behaviour,
    pub(crate) kad: Kademlia,
    pub(crate) rpc: rpc::Behaviour,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
}

/// The one topic of a cluster; its name stands in every message.
pub(crate) fn topic(cluster: &ClusterId) -> gossipsub::IdentTopic {
    gossipsub::IdentTopic::new(carrier::topic(cluster))
}

/// Where in Kademlia's key space providers of this are listed.
pub(crate) fn kad_key(key: &ProviderKey) -> kad::RecordKey {
    let text = match key {
        ProviderKey::Service(name) => format!("service/{name}"),
        ProviderKey::Role(role) => format!("role/{role}"),
    };
    kad::RecordKey::new(&Sha256::digest(text.as_bytes()))
}

/// Where in Kademlia's key space the leader's summary is kept.
pub(crate) fn summary_key() -> kad::RecordKey {
    kad::RecordKey::new(&Sha256::digest("summary"))
}

/// mDNS, or nothing where it is off or the system does not allow it.
pub(crate) fn mdns(on: bool, me: PeerId) -> Toggle<mdns::tokio::Behaviour> {
    let config = mdns::Config { query_interval: MDNS_INTERVAL, ..mdns::Config::default() };
    let made = on.then(|| mdns::tokio::Behaviour::new(config, me)).and_then(|made| match made {
        Ok(mdns) => Some(mdns),
        Err(e) => {
            tracing::warn!(error = %e, "no mDNS: peers on this LAN are not found by themselves");
            None
        }
    });
    made.into()
}

impl Behaviour {
    /// Sets everything up for one node.
    pub(crate) fn new(
        keypair: &identity::Keypair,
        cluster: &ClusterId,
        roles: Roles,
        mdns_on: bool,
        traffic: Arc<lines::Traffic>,
    ) -> io::Result<Self> {
        let me = keypair.public().to_peer_id();
        Ok(Self {
            limits: limits(roles),
            identify: identify::Behaviour::new(
                identify::Config::new("paceline/1".into(), keypair.public())
                    .with_agent_version(format!("paceline/{}", env!("CARGO_PKG_VERSION")))
                    .with_push_listen_addr_updates(true)
                    // whom to dial where is known by the cores and Kademlia; a third list dials everything twice
                    .with_cache_size(0),
            ),
            lines: lines::Behaviour::new(protocol(cluster, "line")?, traffic),
            gossip: gossip(cluster)?,
            kad: kademlia(me, cluster)?,
            rpc: rpc::behaviour(protocol(cluster, "rpc")?),
            mdns: mdns(mdns_on, me),
        })
    }
}

/// Of one cluster: others' nodes do not speak it.
fn protocol(cluster: &ClusterId, name: &str) -> io::Result<StreamProtocol> {
    StreamProtocol::try_from_owned(format!("/paceline/{}/{name}/1", cluster.short())).map_err(io::Error::other)
}

fn limits(roles: Roles) -> connection_limits::Behaviour {
    let hub = roles.contains(Role::Gateway) || roles.contains(Role::Bootstrap);
    connection_limits::Behaviour::new(
        connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(PENDING_INCOMING_MAX))
            .with_max_pending_outgoing(Some(PENDING_MAX))
            .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER))
            .with_max_established(Some(if hub { CONNECTIONS_OF_HUBS } else { CONNECTIONS_OF_OTHERS })),
    )
}

fn gossip(cluster: &ClusterId) -> io::Result<gossipsub::Behaviour> {
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .validate_messages()
        // our records are signed, and bear no sequence number of gossipsub: equal bytes are one message
        .message_id_fn(|message| gossipsub::MessageId::new(&Sha256::digest(&message.data)))
        // flooding costs a copy for every neighbour
        .flood_publish(false)
        .heartbeat_initial_delay(Duration::from_millis(100))
        .heartbeat_interval(GOSSIP_HEARTBEAT)
        .mesh_n(GOSSIP_NEIGHBOURS)
        .mesh_n_low(GOSSIP_NEIGHBOURS_MIN)
        .mesh_n_high(GOSSIP_NEIGHBOURS_MAX)
        .gossip_lazy(GOSSIP_TOLD)
        .gossip_factor(GOSSIP_TOLD_SHARE)
        .history_gossip(GOSSIP_TOLD_FOR)
        .max_transmit_size(GOSSIP_BYTES_MAX)
        .connection_handler_queue_len(GOSSIP_QUEUE_MAX)
        .duplicate_cache_time(GOSSIP_DUPLICATES)
        .build()
        .map_err(io::Error::other)?;
    let mut gossip =
        gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Anonymous, config).map_err(io::Error::other)?;
    gossip.subscribe(&topic(cluster)).map_err(io::Error::other)?;
    Ok(gossip)
}

fn kademlia(me: PeerId, cluster: &ClusterId) -> io::Result<Kademlia> {
    let mut config = kad::Config::new(protocol(cluster, "kad")?);
    config
        .set_query_timeout(QUERY)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_caching(kad::Caching::Disabled)
        .set_record_ttl(Some(SUMMARY_TTL))
        // the leader stores its summary anew; an old leader's would come back with its clock
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_provider_record_ttl(Some(PROVIDER_TTL))
        // the loop does that
        .set_provider_publication_interval(None)
        .set_periodic_bootstrap_interval(Some(BOOTSTRAP))
        .set_replication_factor(NonZeroUsize::new(8).unwrap_or(NonZeroUsize::MIN));
    let store = kad::store::MemoryStore::with_config(
        me,
        kad::store::MemoryStoreConfig {
            max_records: 8,
            max_value_bytes: SUMMARY_BYTES_MAX + 1,
            max_providers_per_key: 64,
            max_provided_keys: 256,
        },
    );
    let mut kad = kad::Behaviour::with_config(me, store, config);
    kad.set_mode(Some(kad::Mode::Server));
    Ok(Kademlia::new(kad))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_is_in_every_message_is_short_and_the_cluster_s_own() {
        let (one, other) = (ClusterId::of_root(&[1]), ClusterId::of_root(&[2]));
        let name = topic(&one).hash().into_string();
        assert!(name.len() <= 24 && name.contains(&one.short()), "{name}");
        assert_ne!(name, topic(&other).hash().into_string());
        assert!(gossip(&one).is_ok(), "its bounds fit one another");
    }
}
