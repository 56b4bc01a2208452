//! What was proven once, for many nodes of one process: a simulated cluster would otherwise check each signature, and keep
//! each manifest, once a node. Only what holds for every node of one cluster at any time is in it: that a signature is its
//! author's, and that a chain is the root's; validity in time and membership each node judges for itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::credential::{Chain, Credential, CredentialError, Root};
use crate::credentials::in_time;
use crate::envelope::{EnvelopeError, Signed};
use crate::id::{ClusterId, CredentialHash, UnixSeconds};
use crate::manifest::Manifest;

/// Proofs that the nodes of one process share; all of them must be of one cluster. It grows with each record, so it is for
/// runs that end.
#[derive(Clone, Debug, Default)]
pub struct Memo(Arc<Mutex<Proven>>);

#[derive(Debug, Default)]
struct Proven {
    // By the first half of the signature; the record is compared as a whole.
    records: BTreeMap<[u8; 32], Record>,
    chains: BTreeMap<CredentialHash, (Arc<Chain>, Arc<Credential>)>,
}

#[derive(Debug)]
struct Record {
    record: Arc<Signed>,
    manifest: Option<Arc<Manifest>>,
}

impl Memo {
    fn lock(&self) -> MutexGuard<'_, Proven> {
        // Each entry is written whole, so what another thread left is good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// [`Root::judge`], at most once a chain.
pub(crate) fn judge(
    memo: Option<&Memo>,
    root: &Root,
    chain: Arc<Chain>,
    hash: CredentialHash,
    now: UnixSeconds,
) -> Result<(Arc<Chain>, Arc<Credential>), CredentialError> {
    let Some(memo) = memo else {
        let credential = Arc::new(root.judge(&chain, now)?);
        return Ok((chain, credential));
    };
    if let Some((chain, credential)) = memo.lock().chains.get(&hash) {
        in_time(credential, now)?;
        return Ok((Arc::clone(chain), Arc::clone(credential)));
    }
    let credential = Arc::new(root.judge(&chain, now)?);
    memo.lock().chains.insert(hash, (Arc::clone(&chain), Arc::clone(&credential)));
    Ok((chain, credential))
}

/// [`Signed::verify`], at most once a record.
pub(crate) fn verify(memo: Option<&Memo>, record: &Arc<Signed>, cluster: &ClusterId) -> Result<(), EnvelopeError> {
    let Some(memo) = memo else { return record.verify(cluster) };
    let key = record.signature_half();
    if memo.lock().records.get(&key).is_some_and(|known| known.record == *record) {
        return Ok(());
    }
    record.verify(cluster)?;
    memo.lock().records.insert(key, Record { record: Arc::clone(record), manifest: None });
    Ok(())
}

/// The one copy of a record that was verified before, or this one.
pub(crate) fn shared(memo: Option<&Memo>, record: Arc<Signed>) -> Arc<Signed> {
    let Some(memo) = memo else { return record };
    match memo.lock().records.get(&record.signature_half()) {
        Some(known) if known.record == record => Arc::clone(&known.record),
        _ => record,
    }
}

/// The one copy of a verified record's manifest.
pub(crate) fn manifest(memo: Option<&Memo>, record: &Signed, manifest: Manifest) -> Arc<Manifest> {
    let Some(memo) = memo else { return Arc::new(manifest) };
    match memo.lock().records.get_mut(&record.signature_half()) {
        Some(known) if *known.record == *record => Arc::clone(known.manifest.get_or_insert_with(|| Arc::new(manifest))),
        _ => Arc::new(manifest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Claim;
    use crate::id::Incarnation;
    use crate::testing::{LeafSpec, START, TestCluster, key, node_id};

    #[test]
    fn only_the_very_record_that_was_proven_is_believed() {
        let (key, cluster) = (key(1), ClusterId::from_bytes([7; 32]));
        let leave = |n| Claim::Leave { incarnation: Incarnation(n) };
        let good = Arc::new(Signed::new(&leave(1), &key, &cluster).expect("short"));
        let memo = Memo::default();
        assert!(verify(Some(&memo), &good, &cluster).is_ok());
        assert!(verify(Some(&memo), &good, &cluster).is_ok());
        let forged = Arc::new(good.with_payload_of(&Signed::new(&leave(2), &key, &cluster).expect("short")));
        assert!(verify(Some(&memo), &forged, &cluster).is_err(), "same signature, another payload");
        let copy = shared(Some(&memo), Arc::new(Signed::clone(&good)));
        assert!(Arc::ptr_eq(&copy, &good));
        assert!(!Arc::ptr_eq(&shared(Some(&memo), Arc::clone(&forged)), &good));
    }

    #[test]
    fn a_chain_that_was_proven_still_ends() {
        let cluster = TestCluster::new(1);
        let node = node_id(&key(2));
        let chain = Arc::new(cluster.chain(&node, &LeafSpec::worker()));
        let memo = Memo::default();
        let at = |unix| judge(Some(&memo), &cluster.root, Arc::clone(&chain), chain.hash(), unix).map(|(_, c)| c.node);
        assert_eq!(at(START), Ok(node));
        assert_eq!(at(START), Ok(node));
        assert_eq!(at(UnixSeconds(START.0 + 10 * 365 * 86_400)), Err(CredentialError::Expired));
    }
}
