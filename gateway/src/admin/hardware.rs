//! What workers tell of their machines, asked for when somebody wants to know: all at once, in the background, and never
//! for longer than an answer may wait.
//!
//! A worker that is slow or dark delays one answer by [`WAIT_MAX`], and is then left alone for [`RETRY_AFTER`]; what it
//! tells later stands in the next answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use paceline_mesh::http::ask::Ask;
use paceline_proto::{
    id::NodeId,
    view::{Member, MemberState},
};
use serde_json::Value;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout_at},
};

use crate::{
    ask::{Peer, ask},
    cluster::Cluster,
    lane::{Shared, lock},
    serve::Life,
};

/// How long an answer waits for workers in all.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// How long a worker is waited for in the background: longer, because a first connection may take a dial back or a relay.
const FETCH_MAX: Duration = Duration::from_secs(3);
/// What a worker said is news for so long.
const FRESH: Duration = Duration::from_secs(10);
/// A worker that said nothing is not asked again for so long.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// What is older is not shown, where a worker is slow to say it anew.
const SHOWN_MAX: Duration = Duration::from_secs(60);
/// Workers that are asked at once.
const ASKED_MAX: usize = 16;
/// Most workers of which something is kept, and that are asked for one answer; of others it says nothing.
const KNOWN_MAX: usize = 1024;

/// What is known.
pub(crate) struct Hardware {
    known: Mutex<BTreeMap<NodeId, Known>>,
    permits: Arc<Semaphore>,
    /// Changes with each answer.
    told: watch::Sender<()>,
}

#[derive(Default)]
struct Known {
    /// What it said last, and when.
    said: Option<(Instant, Value)>,
    /// It did not answer when it was asked last.
    failed: Option<Instant>,
    is_asked: bool,
}

impl Known {
    fn is_due(&self, now: Instant) -> bool {
        let recent = |at: Option<Instant>, age: Duration| at.is_some_and(|at| now.duration_since(at) < age);
        let said = self.said.as_ref().map(|(at, _)| *at);
        !self.is_asked && !recent(said, FRESH) && !recent(self.failed, RETRY_AFTER)
    }
}

impl Default for Hardware {
    fn default() -> Self {
        Self { known: Mutex::default(), permits: Arc::new(Semaphore::new(ASKED_MAX)), told: watch::Sender::new(()) }
    }
}

/// The lane that answers.
#[derive(Clone)]
pub(super) struct Here {
    pub(super) lane: usize,
    pub(super) life: Life,
}

/// What these workers say of their machines, as far as they do so in time.
pub(super) async fn of<C: Cluster>(
    shared: &Arc<Shared<C>>,
    here: &Here,
    workers: impl Iterator<Item = (NodeId, &Member)>,
) -> BTreeMap<NodeId, Value> {
    let up = workers.filter(|(_, member)| matches!(member.state, MemberState::Alive | MemberState::Suspect));
    let wanted: BTreeSet<NodeId> = up.map(|(node, _)| node).take(KNOWN_MAX).collect();
    let deadline = Instant::now() + WAIT_MAX;
    // Before anybody is asked: no answer is missed.
    let mut told = shared.hardware.told.subscribe();
    for node in shared.hardware.due(&wanted) {
        here.life.spawn_aside(fetch(shared.clone(), here.lane, node));
    }
    while shared.hardware.is_waiting(&wanted) {
        if !matches!(timeout_at(deadline, told.changed()).await, Ok(Ok(()))) {
            break;
        }
    }
    shared.hardware.said(&wanted)
}

async fn fetch<C: Cluster>(shared: Arc<Shared<C>>, lane: usize, node: NodeId) {
    let mut asked = Asked { hardware: &shared.hardware, node, answer: None };
    let permit = shared.hardware.permits.acquire().await;
    let peer = if node == shared.cluster.view().me { Peer::Local } else { Peer::Node(node) };
    let answer = ask(&shared, lane, peer, &Ask::Hardware, FETCH_MAX).await;
    drop(permit);
    asked.answer = answer.and_then(|bytes| serde_json::from_slice(&bytes).ok()).filter(Value::is_object);
}

/// Notes the answer, also where the task is dropped with its lane.
struct Asked<'a> {
    hardware: &'a Hardware,
    node: NodeId,
    answer: Option<Value>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.hardware.note(self.node, self.answer.take());
    }
}

impl Hardware {
    /// Who is to be asked now; counts as asked from here on. Forgets whom nobody wants any more, where there are many.
    fn due(&self, wanted: &BTreeSet<NodeId>) -> Vec<NodeId> {
        let now = Instant::now();
        let mut known = lock(&self.known);
        if known.len() + wanted.len() > KNOWN_MAX {
            known.retain(|node, known| known.is_asked || wanted.contains(node));
        }
        let mut due = Vec::new();
        for node in wanted {
            let full = known.len() >= KNOWN_MAX;
            if full && !known.contains_key(node) {
                continue;
            }
            let known = known.entry(*node).or_default();
            if known.is_due(now) {
                known.is_asked = true;
                due.push(*node);
            }
        }
        due
    }

    fn is_waiting(&self, wanted: &BTreeSet<NodeId>) -> bool {
        let known = lock(&self.known);
        wanted.iter().any(|node| known.get(node).is_some_and(|known| known.is_asked))
    }

    fn said(&self, wanted: &BTreeSet<NodeId>) -> BTreeMap<NodeId, Value> {
        let (now, known) = (Instant::now(), lock(&self.known));
        let said = wanted.iter().filter_map(|node| {
            let (at, said) = known.get(node)?.said.as_ref()?;
            (now.duration_since(*at) < SHOWN_MAX).then(|| (*node, said.clone()))
        });
        said.collect()
    }

    fn note(&self, node: NodeId, answer: Option<Value>) {
        let now = Instant::now();
        let mut known = lock(&self.known);
        let known_of = known.entry(node).or_default();
        known_of.is_asked = false;
        match answer {
            Some(said) => (known_of.said, known_of.failed) = (Some((now, said)), None),
            None => known_of.failed = Some(now),
        }
        drop(known);
        self.told.send_replace(());
    }
}
