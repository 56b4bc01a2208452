//! What others say: gossip and direct messages, judged before anything believes them.

use std::sync::Arc;

use super::own::grants;
use super::{Event, GossipId, Node, Output, Standing, Timer, Verdict};
use crate::Now;
use crate::credential::{Chain, Credential, CredentialError};
use crate::envelope::{Accusation, Claim, Signed};
use crate::id::NodeId;
use crate::manifest::Manifest;
use crate::membership::{self, Outcome};
use crate::memo::{self, Memo};
use crate::message::{Direct, Gossip, Item};
use crate::meter::Meter;
use crate::parked::Needs;
use crate::view::MemberState;
use crate::wire;

/// What one peer may ask for at once, and per second, in records.
const ASKED: (u32, u32) = (2_048, 256);
/// What a digest costs of that: it may be answered by many entries.
const DIGEST_COST: u32 = 32;
/// Entries that cost as much as one record.
const ENTRIES_PER_RECORD: usize = 16;

/// How a record came.
#[derive(Clone, Copy, Debug)]
pub(super) enum Via {
    Gossip { from: NodeId, id: GossipId },
    Direct { from: NodeId },
}

impl Via {
    pub(super) fn from(self) -> NodeId {
        match self {
            Via::Gossip { from, .. } | Via::Direct { from } => from,
        }
    }
}

/// A record, judged.
pub(super) enum Judged {
    News,
    Nothing,
    False(String),
    Needs(Needs),
}

impl Node {
    pub(super) fn gossip(&mut self, from: NodeId, id: GossipId, bytes: &[u8], now: Now) {
        let standing = self.conduct.gossiped(from, now.at);
        if self.is_too_much(from, standing) {
            return self.outputs.push_back(Output::Verdict { id, verdict: Verdict::Ignore });
        }
        match wire::decode::<Gossip>(bytes) {
            Ok(Gossip::Credential(chain)) => {
                let verdict = self.gossiped_chain(from, chain.0, now);
                self.outputs.push_back(Output::Verdict { id, verdict });
            }
            Ok(Gossip::Record(record)) => self.record(record, Via::Gossip { from, id }, now),
            Ok(Gossip::Revoked(list)) => {
                let verdict = self.heard_revoked(from, &list, now);
                self.outputs.push_back(Output::Verdict { id, verdict });
            }
            Err(error) => {
                self.refused(from, error.to_string(), now);
                self.outputs.push_back(Output::Verdict { id, verdict: Verdict::Reject });
            }
        }
    }

    pub(super) fn direct(&mut self, from: NodeId, bytes: &[u8], now: Now) {
        let message = match wire::decode::<Direct>(bytes) {
            Ok(message) => message,
            Err(error) => return self.refused(from, error.to_string(), now),
        };
        self.membership.seen(&from, now.at);
        let cost = match &message {
            Direct::Digest(_) => DIGEST_COST,
            Direct::Entries(spans) => {
                let entries: usize = spans.iter().map(|s| s.entries.len()).sum();
                u32::try_from(1 + entries / ENTRIES_PER_RECORD).unwrap_or(u32::MAX)
            }
            Direct::Pull(wants) => u32::try_from(wants.len()).unwrap_or(u32::MAX),
            Direct::Push(items) => u32::try_from(items.len()).unwrap_or(u32::MAX),
            Direct::Probe(probe) => super::watch::cost(probe),
            Direct::Beat(_) | Direct::Report(_) | Direct::Written(_) | Direct::Farewell => 1,
            Direct::AskRevoked(_) | Direct::Revoked(_) => super::revoke::COST,
        };
        let meter = self.meters.entry(from).or_insert_with(|| Meter::new(ASKED.0, ASKED.1, now.at));
        if !meter.take(cost, now.at) {
            let standing = self.conduct.excess(from, now.at);
            self.is_too_much(from, standing);
            return;
        }
        match message {
            Direct::Digest(digest) => self.answer_digest(from, &digest, now),
            Direct::Entries(spans) => {
                self.compare(from, &spans, now);
                self.lead_synced(now);
            }
            Direct::Pull(wants) => self.answer_pull(from, wants, now),
            Direct::Push(items) => {
                items.into_iter().for_each(|item| self.item(from, item, now));
                self.lead_synced(now);
            }
            Direct::Probe(probe) => self.probed(from, probe, now),
            Direct::Beat(beat) => self.heard_beat(from, beat, now),
            Direct::Report(report) => self.heard_report(from, report, now),
            Direct::Written(written) => self.written(from, written, now),
            Direct::Farewell => self.farewell(from),
            Direct::AskRevoked(mark) => self.asked_for_revoked(from, mark, now),
            Direct::Revoked(list) => self.sent_revoked(from, &list, now),
        }
    }

    /// Remembers a chain if it is good, and takes up the records that waited for it.
    pub(super) fn learn_chain(&mut self, chain: Arc<Chain>, now: Now) -> Result<Arc<Credential>, CredentialError> {
        let revocations = &self.revocations;
        let (credential, new) = self.credentials.learn(chain, now.unix, |c| revocations.judge(c))?;
        if new {
            self.timers.set_by(Timer::Credentials, now.at + super::act::until_past(credential.not_after, now));
            for parked in self.parked.release(&credential.node, &credential.hash) {
                self.record(parked.record, parked.via, now);
            }
        }
        Ok(credential)
    }

    pub(super) fn give_up_parked(&mut self, now: Now) {
        for parked in self.parked.expire(now.at) {
            self.verdict(parked.via, Verdict::Ignore);
        }
    }

    /// A peer said what is false: it is told to readers, and counts against the peer.
    pub(super) fn refused(&mut self, peer: NodeId, reason: String, now: Now) {
        self.outputs.push_back(Output::Event(Event::Refused { peer, reason }));
        if peer != self.me {
            let standing = self.conduct.lied(peer, now.at);
            self.is_too_much(peer, standing);
        }
    }

    fn is_too_much(&mut self, peer: NodeId, standing: Standing) -> bool {
        if let Standing::Cut(reason) = standing {
            self.outputs.push_back(Output::Bar { peer, reason });
        }
        standing != Standing::Fine
    }

    fn gossiped_chain(&mut self, from: NodeId, chain: Arc<Chain>, now: Now) -> Verdict {
        match self.learn_chain(chain, now) {
            Ok(credential) if self.credentials.gossiped(&credential.hash) => Verdict::Accept,
            Ok(_) => Verdict::Ignore,
            // The neighbour's clock may differ a little, or it has not heard who is revoked: nothing false was said.
            Err(error) if is_excusable(&error) => Verdict::Ignore,
            Err(error) => {
                self.refused(from, error.to_string(), now);
                Verdict::Reject
            }
        }
    }

    fn item(&mut self, from: NodeId, item: Item, now: Now) {
        for chain in item.chains {
            match self.learn_chain(chain.0, now) {
                Ok(_) => {}
                Err(error) if is_excusable(&error) => {}
                Err(error) => self.refused(from, error.to_string(), now),
            }
        }
        if let [manifest, end] = item.records.as_slice()
            && self.tombstone(manifest, end, item.gone_s, now)
        {
            return;
        }
        for record in item.records {
            self.record(record, Via::Direct { from }, now);
        }
    }

    /// Takes in a member that was gone before this node heard of it, so that nobody's old gossip can bring it back here;
    /// `false` where the two records are not that.
    fn tombstone(&mut self, record: &Arc<Signed>, proof: &Arc<Signed>, gone_s: u32, now: Now) -> bool {
        let (Ok(Claim::Manifest(manifest)), Ok(end)) = (record.read(), proof.read()) else { return false };
        let node = manifest.node;
        let (state, incarnation) = match end {
            Claim::Leave { incarnation } if proof.author == node && incarnation >= manifest.incarnation => {
                (MemberState::Left, incarnation)
            }
            Claim::Death(a) if a.subject == node && a.incarnation == manifest.incarnation => {
                (MemberState::Dead, a.incarnation)
            }
            _ => return false,
        };
        if node == self.me || self.membership.get(&node).is_some() {
            return false;
        }
        let signed = record.verify(&self.cluster).is_ok() && proof.verify(&self.cluster).is_ok();
        let by_members = self.credentials.of_node(&proof.author, now.unix).is_some();
        if !signed || !by_members || !matches!(self.within_credential(&manifest, now), Ok(())) {
            return false;
        }
        let input = membership::Input::Tombstone {
            manifest: Arc::new(*manifest),
            record: Arc::clone(record),
            state,
            incarnation,
            proof: Arc::clone(proof),
            gone: std::time::Duration::from_secs(gone_s.into()),
        };
        self.membership.handle_input(input, now.at);
        true
    }

    fn record(&mut self, record: Arc<Signed>, via: Via, now: Now) {
        let record = memo::shared(self.memo.as_ref(), record);
        match self.judge(&record, via, now) {
            Judged::News => {
                self.verdict(via, Verdict::Accept);
                if let Via::Direct { from } = via
                    && (record.author == from || self.relayed.take(1, now.at))
                {
                    self.publish_with_chain(&record, now);
                }
            }
            Judged::Nothing => self.verdict(via, Verdict::Ignore),
            Judged::False(reason) => {
                self.refused(via.from(), reason, now);
                self.verdict(via, Verdict::Reject);
            }
            Judged::Needs(needs) => {
                let from = via.from();
                match self.parked.park(record, needs, via, now.at) {
                    Ok(()) => self.send(from, &Direct::Pull(vec![needs.want()])),
                    Err(via) => self.verdict(via, Verdict::Ignore),
                }
            }
        }
    }

    fn verdict(&mut self, via: Via, verdict: Verdict) {
        if let Via::Gossip { id, .. } = via {
            self.outputs.push_back(Output::Verdict { id, verdict });
        }
    }

    /// Judges a record, and acts by it if it is true.
    fn judge(&mut self, record: &Arc<Signed>, via: Via, now: Now) -> Judged {
        let claim = match record.read() {
            Ok(claim) => claim,
            Err(error) => return Judged::False(error.to_string()),
        };
        if matches!(claim, Claim::Lead(_) | Claim::Summary(_)) {
            return self.judge_lead(record, claim, via, now);
        }
        if self.is_old(record, &claim, now) {
            if let (Via::Direct { from }, Claim::Manifest(manifest)) = (via, &claim)
                && from == record.author
            {
                self.tell_of_namesake(from, manifest, now);
            }
            return Judged::Nothing;
        }
        if let Err(error) = memo::verify(self.memo.as_ref(), record, &self.cluster) {
            return Judged::False(error.to_string());
        }
        // Only now is it certain whose record it is: nobody spends another's.
        if matches!(via, Via::Gossip { .. })
            && self.membership.get(&record.author).is_some()
            && !self.conduct.recorded(record.author, now.at)
        {
            return Judged::Nothing;
        }
        if record.author == self.me {
            self.own_record(&claim, now);
            return Judged::Nothing;
        }
        if let Claim::Manifest(manifest) = &claim {
            if let Err(judged) = self.within_credential(manifest, now) {
                return judged;
            }
        } else if self.credentials.of_node(&record.author, now.unix).is_none() {
            return Judged::Needs(Needs::Author(record.author));
        }
        let subject = subject(record, &claim);
        let Some(input) = input(record, claim, self.memo.as_ref()) else { return Judged::Nothing };
        match self.membership.handle_input(input, now.at) {
            Outcome::News => Judged::News,
            Outcome::Nothing | Outcome::Full => Judged::Nothing,
            Outcome::Unknown => {
                self.ask_for(via.from(), vec![subject], now);
                Judged::Nothing
            }
        }
    }

    /// Whether it says nothing that is not known already: not worth checking a signature for.
    fn is_old(&self, record: &Signed, claim: &Claim, now: Now) -> bool {
        if record.author == self.me {
            return match claim {
                Claim::Manifest(m) => {
                    m.instance == self.own.manifest.instance || m.incarnation < self.own.manifest.incarnation
                }
                Claim::Leave { incarnation } => *incarnation < self.own.manifest.incarnation,
                Claim::Death(_) | Claim::Suspect(_) | Claim::Lead(_) | Claim::Summary(_) => true,
            };
        }
        let Some(row) = self.membership.get(&subject(record, claim)) else { return false };
        match claim {
            Claim::Manifest(m) => m.order() <= row.manifest.order(),
            Claim::Leave { incarnation } => {
                let known = row.state == MemberState::Left && row.gone.is_some_and(|gone| *incarnation <= gone);
                known || *incarnation < row.manifest.incarnation
            }
            Claim::Death(a) => !self.membership.matters(*a, true, &record.author, now.at),
            Claim::Suspect(a) => !self.membership.matters(*a, false, &record.author, now.at),
            Claim::Lead(_) | Claim::Summary(_) => false,
        }
    }

    /// Another process has spoken in this node's name.
    fn own_record(&mut self, claim: &Claim, now: Now) {
        match claim {
            Claim::Manifest(other) => self.contested(other, now),
            Claim::Leave { incarnation } => self.raise_above(*incarnation, now),
            Claim::Death(_) | Claim::Suspect(_) | Claim::Lead(_) | Claim::Summary(_) => {}
        }
    }

    /// Whether the manifest claims no more than the credential that it shows.
    fn within_credential(&self, manifest: &Manifest, now: Now) -> Result<(), Judged> {
        let Some(known) = self.credentials.of_hash(&manifest.credential, now.unix) else {
            return Err(Judged::Needs(Needs::Chain(manifest.credential)));
        };
        let credential = &known.credential;
        if credential.node != manifest.node {
            return Err(Judged::False(format!("manifest of {} shows another node's credential", manifest.node)));
        }
        if !manifest.roles.is_subset(credential.roles) {
            let (claimed, granted) = (manifest.roles, credential.roles);
            return Err(Judged::False(format!("{} claims the roles {claimed}, it has {granted}", manifest.node)));
        }
        match manifest.services.iter().find(|s| !grants(credential, s)) {
            Some(s) => Err(Judged::False(format!("{} may not offer the service `{}`", manifest.node, s.name))),
            None => Ok(()),
        }
    }
}

/// Whether whoever hands such a chain on may not know better.
fn is_excusable(error: &CredentialError) -> bool {
    match error {
        CredentialError::Expired
        | CredentialError::NotYetValid
        | CredentialError::Revoked
        | CredentialError::IssuerRevoked => true,
        CredentialError::OtherCluster | CredentialError::Malformed(_) => false,
    }
}

fn subject(record: &Signed, claim: &Claim) -> NodeId {
    match claim {
        Claim::Manifest(_) | Claim::Leave { .. } | Claim::Lead(_) | Claim::Summary(_) => record.author,
        Claim::Death(a) | Claim::Suspect(a) => a.subject,
    }
}

/// What the member table is told; `None` where that is no matter of it.
fn input(record: &Arc<Signed>, claim: Claim, memo: Option<&Memo>) -> Option<membership::Input> {
    let record = Arc::clone(record);
    Some(match claim {
        Claim::Manifest(manifest) => {
            membership::Input::Manifest { manifest: memo::manifest(memo, &record, *manifest), record }
        }
        Claim::Leave { incarnation } => {
            membership::Input::Leave { accusation: Accusation { subject: record.author, incarnation }, record }
        }
        Claim::Death(accusation) => membership::Input::Death { accusation, record },
        Claim::Suspect(accusation) => membership::Input::Suspect { accusation, record },
        Claim::Lead(_) | Claim::Summary(_) => return None,
    })
}
