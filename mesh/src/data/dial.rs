//! A race between a node's addresses (happy eyeballs, RFC 8305): the first that answers with the right certificate wins.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use paceline_proto::{credential::Credential, id::NodeId};
use quinn::{ClientConfig, Connection, Endpoint};
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    plane::Judge,
    transport::{code, words},
};

/// Between the beginnings of two attempts.
const STAGGER: Duration = Duration::from_millis(50);

/// One attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// Most addresses of a node that are tried.
pub(super) const ADDRESSES_MAX: usize = 8;

/// A connection whose peer has been judged.
pub(super) struct Peer {
    pub(super) connection: Connection,
    pub(super) credential: Credential,
}

/// What to dial with: an endpoint for each address family.
#[derive(Clone)]
pub(super) struct Dialler {
    pub(super) v4: Option<Endpoint>,
    pub(super) v6: Option<Endpoint>,
    pub(super) config: ClientConfig,
    pub(super) judge: Judge,
    pub(super) node: NodeId,
    pub(super) name: String,
}

impl Dialler {
    fn endpoint(&self, address: SocketAddr) -> Option<&Endpoint> {
        if address.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }

    async fn dial(self, address: SocketAddr) -> Result<Peer, String> {
        let endpoint = self.endpoint(address).ok_or("no socket for this address family")?;
        let connecting =
            endpoint.connect_with(self.config.clone(), address, &self.name).map_err(|error| error.to_string())?;
        let connection =
            timeout(ATTEMPT_TIMEOUT, connecting).await.map_err(|_| "no answer")?.map_err(|error| words(&error))?;
        match (self.judge)(&connection) {
            Ok(credential) if credential.node == self.node => Ok(Peer { connection, credential }),
            Ok(credential) => {
                connection.close(code::REFUSED, b"certificate of another node");
                Err(format!("another node answered: {}", credential.node.short()))
            }
            Err(error) => {
                connection.close(code::REFUSED, error.to_string().as_bytes());
                Err(error.to_string())
            }
        }
    }
}

/// Attempts on the addresses of one node.
pub(super) struct Race {
    dialler: Dialler,
    waiting: VecDeque<SocketAddr>,
    running: FuturesUnordered<BoxFuture<'static, (SocketAddr, Result<Peer, String>)>>,
    next_start: Instant,
    failures: Vec<String>,
}

impl Race {
    /// Attempts that begin when [`Race::winner`] is awaited.
    pub(super) fn new(dialler: Dialler, addresses: Vec<SocketAddr>) -> Self {
        let mut waiting = VecDeque::new();
        for address in addresses {
            if waiting.len() < ADDRESSES_MAX && address.port() != 0 && !waiting.contains(&address) {
                waiting.push_back(address);
            }
        }
        Self { dialler, waiting, running: FuturesUnordered::new(), next_start: Instant::now(), failures: Vec::new() }
    }

    /// The first attempt that succeeds, or `None` when all have failed. Cancel safe.
    pub(super) async fn winner(&mut self) -> Option<Peer> {
        loop {
            tokio::select! {
                biased;
                Some((address, result)) = self.running.next() => match result {
                    Ok(peer) => return Some(peer),
                    Err(reason) => {
                        self.failures.push(format!("{address}: {reason}"));
                        self.next_start = Instant::now();
                    }
                },
                () = sleep_until(self.next_start), if !self.waiting.is_empty() => {
                    if let Some(address) = self.waiting.pop_front() {
                        let attempt = self.dialler.clone().dial(address);
                        self.running.push(Box::pin(async move { (address, attempt.await) }));
                        self.next_start = Instant::now() + STAGGER;
                    }
                }
                else => return None,
            }
        }
    }

    /// What came of the attempts that failed or still run, in words.
    pub(super) fn failures(&self) -> String {
        if self.failures.is_empty() && self.running.is_empty() {
            return "no address of its data port is known".into();
        }
        let mut words = self.failures.join("; ");
        if !self.running.is_empty() {
            words.push_str(if words.is_empty() { "" } else { "; " });
            words.push_str(&format!("no answer from {} of its addresses", self.running.len()));
        }
        words
    }
}
