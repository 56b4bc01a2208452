//! The one door: every libp2p connection is admitted here, inside the transport, before the swarm sees it.
//!
//! Both sides do the same, because in a hole punch both dial: each opens one substream, says [`Hello`] on it, and gets
//! the other's [`Answer`] there. A member shows its chain. A newcomer has none: it judges the member's chain against
//! its token's root *first*, then hands in its token's proof, and the answer is its certificate, the addresses of who
//! can issue one, or a reason. A newcomer's connection always ends after that: it comes back as a member.
//!
//! Nothing that a stranger sends takes more than [`FRAME_BYTES_MAX`] of memory or [`ADMISSION`] of time.

mod messages;
mod muxer;
mod revoked;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{
    Multiaddr, PeerId,
    core::{
        ConnectedPoint,
        muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerExt as _, SubstreamBox},
    },
};
use paceline_proto::{
    conduct::CUT_FOR,
    credential::{Chain, Credential, CredentialError},
    id::{Incarnation, NodeId, WorkerName},
    token::TokenError,
    view::{ClusterView, MemberState},
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::frames::{self, FrameError};
use super::{addresses, node_of, words};
use crate::trust::{Refusal, Trust};

use messages::{Answer, Hello, Join};
pub(crate) use messages::{Refused, Told};
use muxer::{accept, driven, open};
use revoked::count;

/// Bound of an admission, both directions.
pub(crate) const ADMISSION: Duration = Duration::from_secs(6);
/// Most bytes of one message at the door.
pub(crate) const FRAME_BYTES_MAX: usize = 16 * 1024;
/// How long the side that ends a connection waits for the other to have read why.
const LAST_WORD: Duration = Duration::from_millis(500);
/// How long a process keeps its link before another of the same key may take it.
const PROCESS_HOLDS: Duration = Duration::from_secs(1);
/// From this difference of two clocks on, a warning is logged.
const CLOCK_OFFSET_MAX_S: u64 = 120;
/// Most admitted connections remembered between the door and the swarm's event, far more than can be pending.
const ADMITTED_MAX: usize = 1024;
/// Most addresses that a newcomer is sent to.
const REDIRECTS_MAX: usize = 16;

/// Connections that passed the door, until the swarm reports them. Known by peer and remote address: two processes may
/// come with one key at the same moment.
#[derive(Default)]
pub(crate) struct Admitted(Mutex<AdmittedState>);

#[derive(Default)]
struct AdmittedState {
    passed: BTreeMap<(PeerId, Multiaddr), Passed>,
    order: VecDeque<(PeerId, Multiaddr)>,
}

impl Admitted {
    fn put(&self, peer: PeerId, address: Multiaddr, passed: Passed) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (peer, address);
        if state.passed.insert(key.clone(), passed).is_none() {
            state.order.push_back(key);
        }
        if state.order.len() > ADMITTED_MAX
            && let Some(oldest) = state.order.pop_front()
        {
            state.passed.remove(&oldest);
        }
    }

    /// What the door judged when a connection of the peer from (or to) this address passed it last.
    pub(crate) fn get(&self, peer: PeerId, address: &Multiaddr) -> Option<Passed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).passed.get(&(peer, address.clone())).cloned()
    }
}

/// Which process holds a peer's link, and since when; kept by the loop that runs the swarm, one entry for each link.
///
/// One PeerId is one process: of two, answers would reach either. A process that comes while another of its key is
/// connected waits at the door until that one's connections are closed. That is a restart whose end nobody saw, or a
/// clone of a data directory.
pub(crate) struct Present(watch::Sender<BTreeMap<PeerId, (u64, Instant)>>);

impl Default for Present {
    fn default() -> Self {
        Self(watch::Sender::new(BTreeMap::new()))
    }
}

impl Present {
    /// The peer's link is this process's now.
    pub(crate) fn set(&self, peer: PeerId, instance: u64) {
        self.0.send_modify(|present| {
            present.insert(peer, (instance, Instant::now()));
        });
    }

    /// The peer has no link.
    pub(crate) fn clear(&self, peer: &PeerId) {
        self.0.send_if_modified(|present| present.remove(peer).is_some());
    }

    fn of_another(&self, peer: &PeerId, instance: u64) -> Option<Instant> {
        self.0.borrow().get(peer).filter(|(other, _)| *other != instance).map(|(_, since)| *since)
    }

    async fn cleared(&self, peer: &PeerId) {
        let _ = self.0.subscribe().wait_for(|present| !present.contains_key(peer)).await;
    }
}

/// In which capacity this process stands at the door.
pub(crate) enum Side {
    /// It shows its chain, and serves newcomers if it can.
    Member {
        /// What it believes, for names and addresses of issuers.
        view: Arc<ArcSwap<ClusterView>>,
        /// Its current incarnation.
        incarnation: Arc<AtomicU64>,
    },
    /// It applies.
    Newcomer {
        /// The name that it wants.
        name: WorkerName,
        /// Whether a person chose it.
        chosen: bool,
        /// One application at a time: each one accepted counts as a use of the token.
        turn: tokio::sync::Semaphore,
        /// Set when one was accepted.
        done: AtomicBool,
    },
}

/// The door of one process.
pub(crate) struct Door {
    pub(crate) trust: Trust,
    pub(crate) side: Side,
    /// Random for each start of the process.
    pub(crate) instance: u64,
    /// Bounded; what does not fit is lost, it is for logs and back-off only.
    pub(crate) told: mpsc::Sender<Told>,
    pub(crate) admitted: Admitted,
    pub(crate) present: Present,
    /// Members that misbehaved, and since when they are kept out; a few at any time.
    pub(crate) barred: Mutex<BTreeMap<PeerId, Instant>>,
}

/// Who passed.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    /// What it showed.
    pub(crate) chain: Chain,
    /// What that proves.
    pub(crate) credential: Credential,
    /// Of its start: two at once are a restart, or a clone.
    pub(crate) instance: u64,
}

/// What the hello of the other side makes of it.
enum Judged {
    Member(Box<Passed>),
    Newcomer,
    No(Refused),
}

impl Door {
    /// Admits a connection, or closes it with the reason told to both sides.
    pub(crate) async fn admit<M>(
        self: Arc<Self>,
        (peer, mux): (PeerId, M),
        point: ConnectedPoint,
    ) -> Result<(PeerId, StreamMuxerBox), Refused>
    where
        M: StreamMuxer + Send + 'static,
        M::Substream: Send + 'static,
        M::Error: Send + Sync + 'static,
    {
        let mut mux = StreamMuxerBox::new(mux);
        let result = match node_of(&peer) {
            None => Err(Refused::ByUs("its key is not Ed25519".into())),
            Some(node) => timeout(ADMISSION, self.talk(peer, node, &mut mux)).await.unwrap_or(Err(Refused::Silent)),
        };
        match result {
            Ok(passed) => {
                self.admitted.put(peer, point.get_remote_address().clone(), passed);
                Ok((peer, mux))
            }
            Err(why) => {
                let address = match point {
                    ConnectedPoint::Dialer { address, .. } => Some(address),
                    ConnectedPoint::Listener { .. } => None,
                };
                if why != Refused::Answered {
                    let _ = self.told.try_send(Told::Refused { peer, address, why: why.clone() });
                }
                let _ = timeout(LAST_WORD, mux.close()).await;
                Err(why)
            }
        }
    }

    async fn talk(&self, peer: PeerId, node: NodeId, mux: &mut StreamMuxerBox) -> Result<Passed, Refused> {
        let mut ours = open(mux).await?;
        let hello = self.hello();
        driven(mux, async { Ok(frames::put(&mut ours, &hello).await?) }).await?;
        let mut theirs = accept(mux).await?;
        driven(mux, async {
            let judged = match frames::get::<Hello>(&mut theirs).await {
                Ok(theirs) => self.judge(node, &theirs).map(|judged| (judged, theirs.nonce, theirs.revoked)),
                Err(FrameError::Wire(e)) => Ok((Judged::No(Refused::ByUs(e.to_string())), [0; 32], 0)),
                Err(FrameError::Io(e)) => Err(Refused::Broken(e.to_string())),
            };
            let (judged, nonce, mark) = judged?;
            let passed = match judged {
                Judged::No(why) => return Err(self.refuse(&mut theirs, &mut ours, why).await),
                Judged::Newcomer => return Err(self.serve(node, &hello.nonce, &mut theirs, &mut ours).await),
                Judged::Member(passed) => passed,
            };
            if self.is_barred(&peer) {
                let why = Refused::Later("it was cut off for what it sent: it is let in again within a minute".into());
                return Err(self.refuse(&mut theirs, &mut ours, why).await);
            }
            if let Err(why) = self.make_way(peer, passed.instance).await {
                return Err(self.refuse(&mut theirs, &mut ours, why).await);
            }
            // Whoever knows less of who is revoked learns of it here, before either swarm sees the connection.
            let lists = self.lists(mark);
            frames::put(&mut theirs, &Answer::Welcome { lists: count(&lists) }).await?;
            revoked::put(&mut theirs, &lists).await?;
            // a QUIC stream that is dropped without close is reset, and its data lost
            theirs.close().await.map_err(FrameError::from)?;
            if let Side::Newcomer { .. } = self.side {
                return Err(self.apply(node, &nonce, &mut ours).await);
            }
            let answer = frames::get::<Answer>(&mut ours).await;
            if let Ok(Answer::Welcome { lists } | Answer::Revoked { lists, .. }) = &answer {
                let lists = revoked::get(&mut ours, *lists).await?;
                self.learn(lists).await?;
            }
            let _ = ours.close().await;
            match answer? {
                // Judged again, by what was just learned.
                Answer::Welcome { .. } => match self.trust.stands(&passed.credential) {
                    Ok(()) => Ok(*passed),
                    Err(why) => Err(Refused::Revoked(why)),
                },
                Answer::Revoked { reason, .. } => Err(Refused::ByPeer(words(&reason))),
                Answer::Refused { reason, last: true } => Err(Refused::ByPeer(words(&reason))),
                Answer::Refused { reason, last: false } => Err(Refused::Later(words(&reason))),
                Answer::Issued { .. } | Answer::Redirect(_) => Err(Refused::ByUs("it took us for a newcomer".into())),
            }
        })
        .await
    }

    /// Keeps a peer out for a while.
    pub(crate) fn bar(&self, peer: PeerId) {
        let mut barred = self.barred.lock().unwrap_or_else(PoisonError::into_inner);
        barred.retain(|_, since| since.elapsed() < CUT_FOR);
        barred.insert(peer, Instant::now());
    }

    fn is_barred(&self, peer: &PeerId) -> bool {
        let barred = self.barred.lock().unwrap_or_else(PoisonError::into_inner);
        barred.get(peer).is_some_and(|since| since.elapsed() < CUT_FOR)
    }

    fn hello(&self) -> Hello {
        let incarnation = match &self.side {
            Side::Member { incarnation, .. } => Incarnation(incarnation.load(Ordering::Relaxed)),
            Side::Newcomer { .. } => Incarnation::default(),
        };
        Hello {
            cluster: self.trust.cluster(),
            chain: self.trust.own().map(|own| own.chain.clone()),
            nonce: rand::random(),
            instance: self.instance,
            incarnation,
            unix: self.trust.now(),
            revoked: self.trust.revocations().mark(),
        }
    }

    fn judge(&self, node: NodeId, hello: &Hello) -> Result<Judged, Refused> {
        if hello.cluster != self.trust.cluster() {
            return Ok(Judged::No(Refused::OtherCluster));
        }
        let Some(chain) = &hello.chain else {
            return Ok(match self.side {
                Side::Member { .. } => Judged::Newcomer,
                Side::Newcomer { .. } => Judged::No(Refused::ByUs("it is no member either".into())),
            });
        };
        let credential = match self.trust.judge(chain) {
            Ok(credential) if credential.node == node => credential,
            Ok(_) => return Ok(Judged::No(Refused::ByUs("its certificate is of another key".into()))),
            Err(CredentialError::OtherCluster) => return Ok(Judged::No(Refused::OtherCluster)),
            Err(e @ (CredentialError::Revoked | CredentialError::IssuerRevoked)) => {
                return Ok(Judged::No(Refused::Revoked(e)));
            }
            Err(e) => return Ok(Judged::No(Refused::ByUs(e.to_string()))),
        };
        let (ours, theirs) = (self.trust.now().0, hello.unix.0);
        if ours.abs_diff(theirs) > CLOCK_OFFSET_MAX_S {
            tracing::warn!(
                node = %node.short(),
                offset_s = i128::from(theirs) - i128::from(ours),
                "clock-offset: this machine's clock and that of a peer differ by more than {CLOCK_OFFSET_MAX_S} s"
            );
        }
        Ok(Judged::Member(Box::new(Passed { chain: chain.clone(), credential, instance: hello.instance })))
    }

    /// Waits until no other process of the peer is connected.
    async fn make_way(&self, peer: PeerId, instance: u64) -> Result<(), Refused> {
        let Some(since) = self.present.of_another(&peer, instance) else { return Ok(()) };
        // clones that take each other's place at once would never hear what the cluster has to say about that
        if since.elapsed() < PROCESS_HOLDS {
            return Err(Refused::Later("another process with this key has just connected".into()));
        }
        let _ = self.told.try_send(Told::Successor { peer });
        self.present.cleared(&peer).await;
        Ok(())
    }

    /// The member's side of a newcomer. The result says why the connection ends.
    async fn serve(
        &self,
        newcomer: NodeId,
        nonce: &[u8; 32],
        theirs: &mut SubstreamBox,
        ours: &mut SubstreamBox,
    ) -> Refused {
        let answer = match frames::get::<Join>(theirs).await {
            Ok(join) => self.consider(newcomer, nonce, join).await,
            Err(FrameError::Wire(e)) => Answer::Refused { reason: e.to_string(), last: true },
            // it did not apply: its answer to our hello says why
            Err(FrameError::Io(e)) => {
                return match frames::get::<Answer>(ours).await {
                    Ok(Answer::Refused { reason, .. }) => Refused::ByPeer(words(&reason)),
                    _ => Refused::Broken(e.to_string()),
                };
            }
        };
        if let Err(e) = frames::put(theirs, &answer).await {
            return e.into();
        }
        let _ = theirs.close().await;
        let _ = ours.close().await;
        has_read(theirs).await;
        match answer {
            Answer::Refused { reason, .. } => Refused::ByUs(reason),
            _ => Refused::Answered,
        }
    }

    async fn consider(&self, newcomer: NodeId, nonce: &[u8; 32], join: Join) -> Answer {
        let Side::Member { view, .. } = &self.side else {
            return Answer::Refused { reason: "not a member".into(), last: false };
        };
        let view = view.load_full();
        let name = match free_name(&view, newcomer, &join.name, join.chosen) {
            Ok(name) => name,
            Err(reason) => return Answer::Refused { reason, last: true },
        };
        let (trust, nonce) = (self.trust.clone(), *nonce);
        // the use is counted on disk before the certificate goes out
        let issued = tokio::task::spawn_blocking(move || trust.admit(&join.request, newcomer, &nonce)).await;
        match issued {
            Ok(Ok(issued)) => {
                tracing::info!(node = %newcomer.short(), %name, "admitted a newcomer");
                Answer::Issued { issued: Box::new(issued), name }
            }
            Ok(Err(Refusal::AskMaker(maker))) => match addresses::of_member(&view, &maker, REDIRECTS_MAX) {
                to if to.is_empty() => Answer::Refused {
                    reason: format!("the issuer {} of the token is not to be reached now", maker.short()),
                    last: false,
                },
                to => Answer::Redirect(to),
            },
            Ok(Err(refusal @ Refusal::Disk(_))) => Answer::Refused { reason: refusal.to_string(), last: false },
            Ok(Err(refusal)) => Answer::Refused { reason: refusal.to_string(), last: true },
            Err(e) => Answer::Refused { reason: format!("the issuer failed: {e}"), last: false },
        }
    }

    /// The newcomer's side, after the member's chain has been judged. The result says why the connection ends.
    async fn apply(&self, member: NodeId, nonce: &[u8; 32], ours: &mut SubstreamBox) -> Refused {
        let Side::Newcomer { name, chosen, turn, done } = &self.side else {
            return Refused::Answered;
        };
        let Ok(_turn) = turn.acquire().await else { return Refused::Answered };
        if done.load(Ordering::Acquire) {
            let _ = ours.close().await;
            return Refused::Answered;
        }
        let Some(request) = self.trust.join_request(member, nonce) else {
            return Refused::Broken("no token to show".into());
        };
        let join = Join { request, name: name.clone(), chosen: *chosen };
        let answer = async {
            frames::put(ours, &join).await?;
            frames::get::<Answer>(ours).await
        };
        let answer = answer.await;
        let _ = ours.close().await;
        let told = match answer {
            Ok(Answer::Issued { issued, name }) => {
                done.store(true, Ordering::Release);
                Told::Issued { by: member, issued, name }
            }
            Ok(Answer::Redirect(to)) => Told::Redirect(to.into_iter().take(REDIRECTS_MAX).collect()),
            Ok(Answer::Refused { reason, last }) => Told::NotAdmitted { reason: words(&reason), last },
            Ok(Answer::Revoked { reason, .. }) => Told::NotAdmitted { reason: words(&reason), last: true },
            Ok(Answer::Welcome { .. }) => return Refused::ByUs("it took us for a member".into()),
            Err(e) => return e.into(),
        };
        // the one message that must arrive; the receiver is the joiner's loop, which does nothing but read
        let _ = self.told.send(told).await;
        Refused::Answered
    }

    /// What a refusal by another cluster means to a newcomer.
    pub(crate) fn other_cluster(trust: &Trust) -> String {
        match trust.token() {
            Some(token) => TokenError::OtherCluster(token.grant.id).to_string(),
            None => Refused::OtherCluster.to_string(),
        }
    }
}

/// The name that a newcomer gets, or why it cannot have the one it asks for.
fn free_name(view: &ClusterView, newcomer: NodeId, name: &WorkerName, chosen: bool) -> Result<WorkerName, String> {
    let taken = view.members.iter().any(|(node, member)| {
        *node != newcomer
            && matches!(member.state, MemberState::Alive | MemberState::Suspect)
            && (member.name == *name || member.manifest.name == *name)
    });
    if !taken {
        return Ok(name.clone());
    }
    if chosen {
        return Err(format!("the name `{name}` belongs to another member: choose another --name"));
    }
    let id: String = newcomer.short().chars().take(4).collect();
    let kept: String = name.as_str().chars().take(paceline_proto::id::NAME_BYTES_MAX - 1 - id.len()).collect();
    WorkerName::new(&format!("{kept}-{id}")).map_err(|e| e.to_string())
}

/// Resolves when the peer has ended its stream, which it does after it has read our answer.
async fn has_read(theirs: &mut SubstreamBox) {
    let _ = timeout(LAST_WORD, theirs.read(&mut [0; 1])).await;
}
