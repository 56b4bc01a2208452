//! What leader election needs of the outside: the greatest claim on disk, the summary in Kademlia and in the sinks, and
//! how busy this node is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::available_parallelism,
    time::Instant,
};

use libp2p::kad::{self, store::RecordStore as _};
use paceline_proto::{
    detector::Counted,
    envelope::{Kind, Signed},
    heartbeat::Load,
    message::{Direct, Item},
    node::{Event, Input},
    summary::StoredSummary,
    view::MemberState,
    wire,
};

use super::{Driver, Timer};
use crate::control::behaviour::{SUMMARY_BYTES_MAX, SUMMARY_TTL, summary_key};
use crate::mesh::Happened;

/// Answers of others to a search for the summary; one that is newer would be heard by gossip soon after.
const ANSWERS_MAX: usize = 3;

/// What has happened since the start, for `/metrics`.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    suspicions: AtomicU64,
    deaths: AtomicU64,
    leaders: AtomicU64,
    alarms: AtomicU64,
    writes: AtomicU64,
    unwritten: AtomicU64,
    connections: AtomicU64,
    probes: AtomicU64,
    answered: AtomicU64,
    indirect: AtomicU64,
    missed: AtomicU64,
    refuted: AtomicU64,
}

impl Counts {
    /// Counts an event of the core.
    pub(super) fn event(&self, event: &Event) {
        let counter = match event {
            Event::State { to: MemberState::Suspect, .. } => &self.suspicions,
            Event::State { to: MemberState::Dead, .. } => &self.deaths,
            Event::Leader { .. } => &self.leaders,
            Event::Alarm(_) => &self.alarms,
            _ => return,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// A connection has passed the door.
    pub(super) fn connection(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// Takes over what the core has counted.
    pub(super) fn probes(&self, counted: Counted) {
        self.probes.store(counted.probes, Relaxed);
        self.answered.store(counted.answered, Relaxed);
        self.indirect.store(counted.indirect, Relaxed);
        self.missed.store(counted.missed, Relaxed);
        self.refuted.store(counted.refuted, Relaxed);
    }

    /// The counters now.
    pub(crate) fn now(&self) -> Happened {
        Happened {
            suspicions: self.suspicions.load(Relaxed),
            deaths: self.deaths.load(Relaxed),
            leaders: self.leaders.load(Relaxed),
            alarms: self.alarms.load(Relaxed),
            writes: self.writes.load(Relaxed),
            unwritten: self.unwritten.load(Relaxed),
            connections: self.connections.load(Relaxed),
            probes: self.probes.load(Relaxed),
            probes_answered: self.answered.load(Relaxed),
            probes_indirect: self.indirect.load(Relaxed),
            probes_missed: self.missed.load(Relaxed),
            refutations: self.refuted.load(Relaxed),
        }
    }
}

/// Reads how busy the machine is: two small files of the system, no process is looked at.
pub(crate) struct Gauge {
    system: Option<sysinfo::System>,
    cores: f64,
}

impl Gauge {
    pub(super) fn new() -> Self {
        // without it, heartbeats say that the machine idles
        let system = sysinfo::System::new().ok();
        Self { system, cores: available_parallelism().map_or(1.0, |n| n.get() as f64) }
    }

    fn read(&mut self, in_flight: u32) -> Load {
        let permille = |part: f64, whole: f64| (1000.0 * part / whole.max(1.0)).clamp(0.0, f64::from(u16::MAX)) as u16;
        let memory_permille = self.system.as_mut().map_or(0, |system| {
            system.refresh_memory();
            permille(system.used_memory() as f64, system.total_memory() as f64)
        });
        let cpu_permille = sysinfo::System::load_average().map_or(0, |load| permille(load.one, self.cores));
        Load { cpu_permille, memory_permille, in_flight, jobs: 0 }
    }
}

impl Driver {
    pub(super) fn tell_load(&mut self) {
        self.timers.insert(Timer::Load, Instant::now() + self.heartbeat);
        let load = self.gauge.read(self.services.as_ref().map_or(0, |services| services.in_flight()));
        self.input(Input::Load(load));
    }

    /// On disk when this returns. Going on without would let this node follow a deposed leader after a restart, until
    /// somebody tells it better: less harm than a node that stops.
    pub(super) fn persist_claim(&mut self, claim: &[u8]) {
        if let Err(e) = self.trust.save_claim(claim) {
            tracing::error!(error = %e, "the leader's claim is not on disk");
        }
    }

    pub(super) fn store_summary(&mut self, value: Vec<u8>) {
        let expires = Some(Instant::now() + SUMMARY_TTL);
        let record = kad::Record { key: summary_key(), value, publisher: None, expires };
        let kad = &mut self.swarm.behaviour_mut().kad;
        match kad.put_record(record, kad::Quorum::One) {
            Ok(query) => kad.look_widely(query),
            Err(e) => tracing::warn!(error = ?e, "the summary is not in Kademlia"),
        }
    }

    pub(super) fn find_summary(&mut self) {
        if self.summary_query.is_none() {
            let kad = &mut self.swarm.behaviour_mut().kad;
            let query = kad.get_record(summary_key());
            kad.look_widely(query);
            self.summary_query = Some(query);
        }
    }

    pub(super) fn on_summary_found(&mut self, id: kad::QueryId, result: kad::GetRecordResult, last: bool) {
        if self.summary_query != Some(id) {
            return;
        }
        let kad = &mut self.swarm.behaviour_mut().kad;
        if last {
            self.summary_query = None;
        } else if let Some(mut query) = kad.query_mut(&id)
            && query.stats().num_successes() as usize >= ANSWERS_MAX
        {
            query.finish();
        }
        if let Ok(kad::GetRecordOk::FoundRecord(kad::PeerRecord { record, .. })) = result
            && record.key == summary_key()
            && record.value.len() <= SUMMARY_BYTES_MAX
        {
            self.input(Input::StoredSummary(record.value));
        }
    }

    /// A peer wants us to keep a record: nothing but a summary that a member has signed.
    pub(super) fn keep_record(&mut self, record: kad::Record) {
        if record.key != summary_key() || !self.is_summary(&record.value) {
            tracing::debug!(bytes = record.value.len(), "a record of Kademlia is not kept");
            return;
        }
        let expires = Some(Instant::now() + SUMMARY_TTL);
        if let Err(e) = self.swarm.behaviour_mut().kad.store_mut().put(kad::Record { expires, ..record }) {
            tracing::debug!(error = ?e, "a record of Kademlia is not kept");
        }
    }

    fn is_summary(&self, bytes: &[u8]) -> bool {
        let Some(record) = summary_in(bytes) else { return false };
        let view = self.shared.view.load();
        let here = |state| matches!(state, MemberState::Alive | MemberState::Suspect);
        view.members.get(&record.author).is_some_and(|member| here(member.state))
            && record.verify(&view.cluster).is_ok()
    }

    /// Hands a summary to whoever writes it; where nobody does, or the last ones are still being written, that is the
    /// answer.
    pub(super) fn write(&mut self, summary: StoredSummary) {
        let handed = self.shared.sink.load().as_ref().is_some_and(|sink| sink.try_send(summary).is_ok());
        if !handed {
            tracing::warn!("a summary is due in the store, and nobody here writes it");
            self.written(false, None);
        }
    }

    pub(super) fn written(&mut self, stored: bool, writes_today: Option<u32>) {
        let counts = &self.shared.counts;
        let counter = if stored { &counts.writes } else { &counts.unwritten };
        counter.fetch_add(1, Relaxed);
        self.input(Input::Written { stored, writes_today });
    }
}

/// The one record of a stored summary: of all that members sign, nothing else is kept for them. Whoever signed it is
/// still to be looked at.
fn summary_in(bytes: &[u8]) -> Option<Arc<Signed>> {
    if bytes.len() > SUMMARY_BYTES_MAX {
        return None;
    }
    let Ok(Direct::Push(mut items)) = wire::decode(bytes) else { return None };
    let (Some(Item { mut records, .. }), true) = (items.pop(), items.is_empty()) else { return None };
    let record = records.pop().filter(|_| records.is_empty())?;
    (record.kind == Kind::Summary).then_some(record)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use paceline_proto::{envelope::Claim, id::ClusterId, lead::Lead, summary::Summary};

    use super::*;

    fn stored(claims: &[Claim]) -> Vec<u8> {
        let key = SigningKey::from_bytes(&[1; 32]);
        let signed = |claim| Arc::new(Signed::new(claim, &key, &ClusterId::of_root(&[1])).expect("a record"));
        let records = claims.iter().map(signed).collect();
        wire::encode(&Direct::Push(vec![Item { records, ..Item::default() }])).expect("a message")
    }

    #[test]
    fn nothing_but_one_summary_is_kept_for_others() {
        let summary = || Claim::Summary(Box::new(Summary { lead: Lead::FIRST, ..Summary::default() }));
        assert_eq!(summary_in(&stored(&[summary()])).map(|record| record.kind), Some(Kind::Summary));
        for others in
            [&[][..], &[Claim::Lead(Lead::FIRST)], &[summary(), summary()], &[summary(), Claim::Lead(Lead::FIRST)]]
        {
            assert_eq!(summary_in(&stored(others)), None, "{others:?}");
        }
        assert_eq!(summary_in(&[0; SUMMARY_BYTES_MAX + 1]), None);
        assert_eq!(summary_in(b"no message"), None);
    }
}
