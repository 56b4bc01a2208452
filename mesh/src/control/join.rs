//! How a newcomer becomes a member: it dials the token's entries and LAN peers, for ever, until one admits it or a
//! member refuses for good. It listens nowhere and speaks nothing but the door's protocol.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, Swarm, connection_limits, mdns,
    multiaddr::Protocol,
    swarm::{self, NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle},
};
use paceline_proto::id::WorkerName;
use tokio::{
    sync::mpsc,
    time::{sleep_until, timeout},
};

use super::dials::{Entries, Strangers, brief, neighbour};
use super::door::{Admitted, Door, Present, Refused, Side, Told};
use super::{behaviour, peer_of, transport};
use crate::mesh::StartError;
use crate::trust::Trust;

/// Messages of the door that wait for the loop.
const TOLD_MAX: usize = 64;
/// Dials under way.
const PENDING_MAX: u32 = 32;
/// How long the last connections may take to close.
const CLOSING: Duration = Duration::from_secs(2);
/// A newcomer that is not let in at once says so after this.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// A newcomer that waits says so this often.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a newcomer brings.
pub(crate) struct Newcomer {
    /// Holds the token.
    pub(crate) trust: Trust,
    /// Entry addresses: the token's, and those given besides.
    pub(crate) entries: Vec<Multiaddr>,
    /// The name that it wants.
    pub(crate) name: WorkerName,
    /// Whether a person chose it.
    pub(crate) chosen: bool,
    /// Whether LAN peers are asked too.
    pub(crate) mdns: bool,
    /// Of this start.
    pub(crate) instance: u64,
}

#[derive(NetworkBehaviour)]
struct Ears {
    limits: connection_limits::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

struct Joining {
    trust: Trust,
    swarm: Swarm<Ears>,
    entries: Entries,
    strangers: Strangers,
    last_reason: Option<String>,
}

/// What a newcomer has become.
pub(crate) struct Joined {
    /// The name that the issuer gave.
    pub(crate) name: WorkerName,
    /// Where that issuer was reached.
    pub(crate) issuer: Vec<Multiaddr>,
}

/// Joins.
///
/// # Errors
/// [`StartError::Refused`] in the issuer's words, or a data directory that cannot be written.
pub(crate) async fn join(newcomer: Newcomer) -> Result<Joined, StartError> {
    let (told, mut ears) = mpsc::channel(TOLD_MAX);
    let keypair = newcomer.trust.keypair();
    let door = Arc::new(Door {
        trust: newcomer.trust.clone(),
        side: Side::Newcomer {
            name: newcomer.name,
            chosen: newcomer.chosen,
            turn: tokio::sync::Semaphore::new(1),
            done: AtomicBool::new(false),
        },
        instance: newcomer.instance,
        told,
        admitted: Admitted::default(),
        present: Present::default(),
        barred: Default::default(),
    });
    let me = keypair.public().to_peer_id();
    let ears_of = Ears {
        limits: connection_limits::Behaviour::new(
            connection_limits::ConnectionLimits::default().with_max_pending_outgoing(Some(PENDING_MAX)),
        ),
        mdns: behaviour::mdns(newcomer.mdns, me),
    };
    let transport = transport::build(&keypair, door).map_err(network)?;
    let mut joining = Joining {
        trust: newcomer.trust,
        swarm: Swarm::new(transport, ears_of, me, swarm::Config::with_tokio_executor()),
        entries: Entries::new(),
        strangers: Strangers::default(),
        last_reason: None,
    };
    newcomer.entries.into_iter().for_each(|address| joining.entries.add(address));

    let result = joining.until_member(&mut ears).await;
    // connections that are being closed hold the data directory: it is free when the last door has fallen shut
    drop(joining);
    let shut = async { while ears.recv().await.is_some() {} };
    let _ = timeout(CLOSING, shut).await;
    result
}

fn network(error: io::Error) -> StartError {
    StartError::Config(format!("the network cannot be used: {error}"))
}

impl Joining {
    async fn until_member(&mut self, ears: &mut mpsc::Receiver<Told>) -> Result<Joined, StartError> {
        let (mut next_round, mut next_word) = (Instant::now(), Instant::now() + FIRST_WORD);
        let mut first = true;
        loop {
            tokio::select! {
                told = ears.recv() => match told {
                    Some(told) => if let Some(joined) = self.heard(told).await? { return Ok(joined) },
                    // the door lives in the swarm's transport, which lives here
                    None => return Err(network(io::Error::other("the door is gone"))),
                },
                event = self.swarm.select_next_some() => self.on_swarm(event),
                () = sleep_until(next_round.into()) => next_round = Instant::now() + self.round(),
                () = sleep_until(next_word.into()) => {
                    next_word = Instant::now() + PATIENCE;
                    if std::mem::take(&mut first) && self.last_reason.is_none() {
                        tracing::info!(entries = self.entries.peers().len(), "trying to join: no entry address has answered yet");
                        continue;
                    }
                    let reason = self.last_reason.take().unwrap_or_else(|| "no entry address answers".into());
                    tracing::warn!(%reason, "not admitted yet, still trying");
                }
            }
        }
    }

    async fn heard(&mut self, told: Told) -> Result<Option<Joined>, StartError> {
        match told {
            Told::Issued { by, issued, name } => {
                let trust = self.trust.clone();
                let accepted = tokio::task::spawn_blocking(move || trust.accept(&issued)).await;
                accepted.map_err(|e| StartError::Config(format!("the certificate was not kept: {e}")))??;
                let issuer = peer_of(&by).and_then(|peer| Some((peer, self.entries.peers().remove(&peer)?)));
                let issuer = issuer
                    .into_iter()
                    .flat_map(|(peer, list)| list.into_iter().map(move |a| a.with(Protocol::P2p(peer))));
                Ok(Some(Joined { name, issuer: issuer.collect() }))
            }
            Told::NotAdmitted { reason, last: true } => Err(StartError::Refused(reason)),
            Told::NotAdmitted { reason, last: false } => {
                self.last_reason = Some(reason);
                Ok(None)
            }
            Told::Redirect(to) => {
                let to: Vec<Multiaddr> = to.iter().filter_map(|a| a.parse().ok()).collect();
                to.iter().for_each(|address| self.entries.add(address.clone()));
                self.entries.hurry();
                self.round();
                Ok(None)
            }
            Told::Refused { peer, address, why } => {
                let given = address.is_some_and(|address| self.entries.is_given(&address));
                // where a person said to ask, another cluster is an error; in the LAN it is a neighbour
                if given && why == Refused::OtherCluster {
                    return Err(StartError::Refused(Door::other_cluster(&self.trust)));
                }
                tracing::debug!(%peer, %why, "no way in");
                if given {
                    self.last_reason = Some(why.to_string());
                } else {
                    self.strangers.add(peer, Instant::now());
                }
                Ok(None)
            }
            Told::NobodyThere { .. } | Told::Successor { .. } => Ok(None),
        }
    }

    fn round(&mut self) -> Duration {
        let now = Instant::now();
        let (targets, pause) = self.entries.round(true, |peer| self.strangers.contains(peer, now));
        for target in targets {
            if let Err(e) = self.swarm.dial(target.options()) {
                tracing::debug!(error = %e, "no dial");
            }
        }
        pause
    }

    fn on_swarm(&mut self, event: SwarmEvent<EarsEvent>) {
        match event {
            SwarmEvent::Behaviour(EarsEvent::Mdns(mdns::Event::Discovered(peers))) => {
                for (peer, address) in peers {
                    if let Ok(address) = address.with_p2p(peer)
                        && !self.strangers.contains(&peer, Instant::now())
                    {
                        self.entries.add_neighbour(address.clone());
                        let _ = self.swarm.dial(neighbour(peer, address));
                    }
                }
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => {
                tracing::debug!(reason = %brief(&error), "an entry did not answer");
            }
            _ => {}
        }
    }
}
