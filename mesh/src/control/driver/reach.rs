//! Whether others can still dial this node. The first connection that somebody makes to it says that they can; when nobody has
//! made another one for a while, a neighbour is asked to try the TCP addresses of this node's manifest, and where two in a row
//! reach nobody there, the manifest says so until one does.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use libp2p::{PeerId, request_response as rr};
use paceline_proto::{id::NodeId, node::Input};
use rand::seq::IteratorRandom as _;
use tokio::{net::TcpStream, time::timeout};

use super::{Asked, Done, Driver, Timer};
use crate::control::{
    addresses, jittered,
    rpc::{Ask, Response},
};

/// Without a connection of somebody else's for so long, a neighbour is asked.
const EVERY: Duration = Duration::from_secs(300);
/// Another neighbour is asked so soon after one that reached nobody.
const AGAIN: Duration = Duration::from_secs(20);
/// Neighbours in a row that reach nobody.
const FAILURES_MAX: u32 = 2;
/// Bound of one connection that is tried for a neighbour; all together must end within the request's own time.
const CONNECT: Duration = Duration::from_secs(1);
/// Addresses that are tried for a neighbour.
const ADDRESSES_MAX: usize = 4;
/// Neighbours for whom addresses are tried at once.
const TRIALS_MAX: usize = 8;

/// What is known of that.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// What the core was told.
    dialable: bool,
    /// When somebody connected to this node last.
    dialled: Option<Instant>,
    failures: u32,
    /// Neighbours for whom addresses are being tried.
    trials: usize,
}

impl Driver {
    /// Somebody has connected to this node.
    pub(super) fn was_dialled(&mut self) {
        self.reach.dialled = Some(Instant::now());
        self.reached();
    }

    fn reached(&mut self) {
        self.reach.failures = 0;
        self.timers.entry(Timer::Reach).or_insert(Instant::now() + jittered(EVERY));
        if !std::mem::replace(&mut self.reach.dialable, true) {
            self.input(Input::Dialable(true));
        }
    }

    /// It is time to ask, if nobody connected lately.
    pub(super) fn ask_to_be_reached(&mut self) {
        self.timers.insert(Timer::Reach, Instant::now() + jittered(EVERY));
        if self.reach.dialled.is_some_and(|at| at.elapsed() < EVERY / 2) {
            return;
        }
        let peers = self.links.iter().map(|(peer, link)| (*peer, link.credential.node));
        if let Some((peer, node)) = peers.choose(&mut rand::rng()) {
            self.ask(peer, &node, Ask::Reach, Asked::Reach);
        }
    }

    pub(super) fn on_reach_answer(&mut self, response: &Response) {
        match response {
            Response::Done => self.reached(),
            Response::Unreached => {
                self.reach.failures = self.reach.failures.saturating_add(1);
                if self.reach.failures < FAILURES_MAX {
                    self.timers.insert(Timer::Reach, Instant::now() + jittered(AGAIN));
                } else if std::mem::take(&mut self.reach.dialable) {
                    tracing::warn!("two members could not connect to the addresses that this node advertises");
                    self.input(Input::Dialable(false));
                }
            }
            Response::Issued(_) | Response::Refused(_) => {}
        }
    }

    /// The neighbour's side: it is tried where its own manifest says that it listens, and nowhere else.
    pub(super) fn try_to_reach(&mut self, node: &NodeId, peer: PeerId, channel: rr::ResponseChannel<Response>) {
        let at = addresses::to_dial(&self.shared.view.load(), node);
        let at = at.iter().filter(|address| addresses::is_tcp(address)).filter_map(addresses::socket);
        let at: Vec<SocketAddr> = at.take(ADDRESSES_MAX).collect();
        if at.is_empty() || self.reach.trials >= TRIALS_MAX {
            let refused = Response::Refused("no address to try, or too many tried already".into());
            let _ = self.swarm.behaviour_mut().rpc.send_response(channel, refused);
            return;
        }
        self.reach.trials += 1;
        self.tasks.spawn(async move {
            let mut response = Response::Unreached;
            for address in at {
                if let Ok(Ok(_)) = timeout(CONNECT, TcpStream::connect(address)).await {
                    response = Response::Done;
                    break;
                }
            }
            tracing::debug!(%peer, reached = matches!(response, Response::Done), "a neighbour's addresses were tried");
            Done::Tried { channel, response }
        });
    }

    pub(super) fn tried(&mut self, channel: rr::ResponseChannel<Response>, response: Response) {
        self.reach.trials -= 1;
        let _ = self.swarm.behaviour_mut().rpc.send_response(channel, response);
    }
}
