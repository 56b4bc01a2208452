//! `GET /events`: what this node sees happen to its cluster, as Server-Sent Events, one JSON object each.
//!
//! A reader first gets what is believed now (`snapshot`, then one event a member, then `leader` and `live`), and after
//! `live` each difference between two published views, with the wall time at which this process saw it. What lasts
//! shorter than the way from the control loop to here is not seen. Readers cost the control loop nothing: at most
//! [`READERS_MAX`] of them, each with at most [`LAG_MAX`] events in store. Whoever reads slower is cut, and the last
//! event says so; whoever does not read at all is disconnected [`STALL`] after that.

use std::{
    convert::Infallible,
    ops::Bound,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body::Frame;
use paceline_proto::{
    id::NodeId,
    view::{ClusterView, Leadership, Member, MemberState},
};
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Most readers at once.
const READERS_MAX: usize = 16;
/// Most events that wait for a reader.
const LAG_MAX: usize = 8192;
/// How long a reader that was cut may take to read what is left.
const STALL: Duration = Duration::from_secs(10);
/// A comment is sent after so long without an event, so that a reader that has vanished is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Members of the snapshot that are written at once.
const SNAPSHOT_STEP: usize = 64;

/// One event, as it is written.
#[derive(Serialize)]
struct Line<'a> {
    /// Microseconds since 1970, by this machine's clock.
    at_us: u64,
    /// Of the view that the event was first seen in.
    generation: u64,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum What<'a> {
    /// What is believed now follows.
    Snapshot { cluster: String, me: String, members: usize },
    /// The snapshot is complete.
    Live,
    /// Somebody is new here, or back, or has refuted.
    Alive(About<'a>),
    /// Somebody was missed.
    Suspect(About<'a>),
    /// Somebody is confirmed gone.
    Dead(About<'a>),
    /// Somebody said goodbye.
    Left(About<'a>),
    /// Another manifest of a member.
    Manifest(About<'a>),
    /// A dead or departed member is no longer listed.
    Forgotten(About<'a>),
    /// Somebody else leads, or in another term.
    Leader { leader: Option<String>, name: Option<&'a str>, term: u64, takeovers: u32 },
    /// Nothing more comes, and why.
    End { reason: &'a str },
}

#[derive(Serialize)]
struct About<'a> {
    node: String,
    name: &'a str,
    incarnation: u64,
    version: u64,
    draining: bool,
    services: usize,
}

fn about<'a>(node: &NodeId, member: &'a Member) -> About<'a> {
    let manifest = &member.manifest;
    About {
        node: node.to_string(),
        name: member.name.as_str(),
        incarnation: manifest.incarnation.0,
        version: manifest.version.0,
        draining: manifest.draining,
        services: manifest.services.len(),
    }
}

fn state<'a>(node: &NodeId, member: &'a Member) -> What<'a> {
    let about = about(node, member);
    match member.state {
        MemberState::Alive => What::Alive(about),
        MemberState::Suspect => What::Suspect(about),
        MemberState::Dead => What::Dead(about),
        MemberState::Left => What::Left(about),
    }
}

fn leader(view: &ClusterView) -> What<'_> {
    let Leadership { leader, term, takeovers, .. } = &view.leadership;
    let name = leader.and_then(|leader| view.members.get(&leader)).map(|member| member.name.as_str());
    What::Leader { leader: leader.map(|leader| leader.to_string()), name, term: *term, takeovers: *takeovers }
}

/// A claim may be heard before its author's manifest: the leader is told again when it can be named.
fn leads(view: &ClusterView) -> (Option<NodeId>, bool, u64, u32) {
    let Leadership { leader, term, takeovers, .. } = &view.leadership;
    (*leader, leader.is_some_and(|leader| view.members.contains_key(&leader)), *term, *takeovers)
}

/// Appends an event to `out`, in the form of the stream.
fn write(out: &mut Vec<u8>, generation: u64, what: What<'_>) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    let length = out.len();
    out.extend_from_slice(b"data: ");
    if serde_json::to_writer(&mut *out, &Line { at_us, generation, what }).is_err() {
        // These types cannot fail to be written; half an event would spoil the ones after it.
        out.truncate(length);
        return;
    }
    out.extend_from_slice(b"\n\n");
}

fn line(generation: u64, what: What<'_>) -> Bytes {
    let mut out = Vec::new();
    write(&mut out, generation, what);
    out.into()
}

/// What changed between two views, in the order of ids; a member's new manifest comes before its new state.
fn differences(before: &ClusterView, after: &ClusterView, mut tell: impl FnMut(What<'_>)) {
    for (node, member) in &after.members {
        match before.members.get(node) {
            None => tell(state(node, member)),
            Some(known) if Arc::ptr_eq(known, member) => {}
            Some(known) => {
                if known.manifest.order() != member.manifest.order() {
                    tell(What::Manifest(about(node, member)));
                }
                if known.state != member.state {
                    tell(state(node, member));
                }
            }
        }
    }
    for (node, member) in before.members.iter().filter(|(node, _)| !after.members.contains_key(*node)) {
        tell(What::Forgotten(about(node, member)));
    }
    if leads(before) != leads(after) {
        tell(leader(after));
    }
}

/// Hands out [`Feed`]s.
pub(super) struct Feeds(Arc<Semaphore>);

impl Feeds {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(READERS_MAX)))
    }

    /// A stream of events; `None` where as many are open as may be. `disconnect` ends the reader's connection.
    pub(super) fn open(
        &self,
        mut views: watch::Receiver<Arc<ClusterView>>,
        disconnect: CancellationToken,
    ) -> Option<Feed> {
        let place = self.0.clone().try_acquire_owned().ok()?;
        let now = Arc::clone(&views.borrow_and_update());
        let (send, events) = mpsc::channel(LAG_MAX);
        let end = Arc::new(OnceLock::new());
        let (first, told) = (Arc::clone(&now), Arc::clone(&end));
        let follower = tokio::spawn(async move {
            let why = follow(views, first, &send).await;
            let slow = why == End::Slow;
            // Before the channel closes, which is when the reader looks here.
            let _ = told.set(why);
            drop(send);
            if slow {
                tokio::time::sleep(STALL).await;
                disconnect.cancel();
            }
        });
        let snapshot = Some(Snapshot { view: now, at: Step::Begin });
        Some(Feed { snapshot, events, end, over: false, _follower: AbortOnDropHandle::new(follower), _place: place })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Slow,
    Stopping,
}

/// Tells each difference until the reader falls behind, or the node ends.
async fn follow(
    mut views: watch::Receiver<Arc<ClusterView>>,
    mut before: Arc<ClusterView>,
    send: &mpsc::Sender<Bytes>,
) -> End {
    loop {
        match timeout(KEEP_ALIVE, views.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return End::Stopping,
            Err(_) => {
                // No place for a comment means that there is something to read.
                let _ = send.try_send(Bytes::from_static(b":\n\n"));
                continue;
            }
        }
        let after = Arc::clone(&views.borrow_and_update());
        let mut fits = true;
        differences(&before, &after, |what| {
            fits = fits && send.try_send(line(after.generation, what)).is_ok();
        });
        if !fits {
            return End::Slow;
        }
        before = after;
    }
}

struct Snapshot {
    view: Arc<ClusterView>,
    at: Step,
}

enum Step {
    Begin,
    After(NodeId),
}

impl Snapshot {
    /// The next part, and whether it is the last one. Members are written as the reader takes them, so that a large
    /// cluster is never in memory twice.
    fn part(&mut self) -> (Bytes, bool) {
        let view = &self.view;
        let mut out = Vec::new();
        let from = match self.at {
            Step::Begin => {
                let (cluster, me) = (view.cluster.to_string(), view.me.to_string());
                write(&mut out, view.generation, What::Snapshot { cluster, me, members: view.members.len() });
                Bound::Unbounded
            }
            Step::After(node) => Bound::Excluded(node),
        };
        let mut written = 0;
        for (node, member) in view.members.range((from, Bound::Unbounded)).take(SNAPSHOT_STEP) {
            write(&mut out, view.generation, state(node, member));
            self.at = Step::After(*node);
            written += 1;
        }
        let last = written < SNAPSHOT_STEP;
        if last {
            if view.leadership.leader.is_some() {
                write(&mut out, view.generation, leader(view));
            }
            write(&mut out, view.generation, What::Live);
        }
        (out.into(), last)
    }
}

/// The body of the answer.
pub(super) struct Feed {
    snapshot: Option<Snapshot>,
    events: mpsc::Receiver<Bytes>,
    end: Arc<OnceLock<End>>,
    over: bool,
    _follower: AbortOnDropHandle<()>,
    _place: OwnedSemaphorePermit,
}

impl http_body::Body for Feed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let me = self.get_mut();
        let bytes = if let Some(snapshot) = &mut me.snapshot {
            let (part, last) = snapshot.part();
            if last {
                me.snapshot = None;
            }
            part
        } else if me.over {
            return Poll::Ready(None);
        } else if let Some(event) = ready!(me.events.poll_recv(cx)) {
            event
        } else {
            me.over = true;
            let reason = match me.end.get() {
                Some(End::Slow) => "too slow: events were lost",
                Some(End::Stopping) | None => "this node stops",
            };
            line(0, What::End { reason })
        };
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests;
