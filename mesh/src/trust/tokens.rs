//! The issuer's ledger of the tokens that it has made: it lists them, and counts who came in by them.
//!
//! A newcomer counts once, however often it asks: an answer may get lost on its way. The ledger never holds a secret.

use std::{collections::BTreeMap, time::Duration};

use paceline_proto::{
    id::{NodeId, Role, ServiceName, TokenId, UnixSeconds},
    token::{Grant, TokenError},
};
use serde::{Deserialize, Serialize};

use super::text;
use crate::mesh::{TokenInfo, TokenState};

/// Most tokens that are kept, expired ones included.
pub(crate) const TOKENS_MAX: usize = 256;
/// Newcomers that are remembered of a token whose uses are not bounded: enough to count a repeated question once.
const RECENT_MAX: usize = 64;
/// An expired token stays listed for this long.
pub(crate) const EXPIRED_KEPT: Duration = Duration::from_secs(86_400);

/// All tokens of this issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    entries: BTreeMap<TokenId, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    #[serde(with = "text::one")]
    id: TokenId,
    roles: Vec<Role>,
    issuer: bool,
    services: Vec<ServiceName>,
    not_after: UnixSeconds,
    uses: Option<u32>,
    used: u32,
    /// Oldest first: all of them where the uses are bounded.
    #[serde(with = "text::many")]
    newcomers: Vec<NodeId>,
}

impl Ledger {
    /// Reads what [`Ledger::to_bytes`] wrote.
    ///
    /// # Errors
    /// Not a ledger, or one past its bounds.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let entries: Vec<Entry> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if entries.len() > TOKENS_MAX {
            return Err(format!("{} tokens, at most {TOKENS_MAX}", entries.len()));
        }
        Ok(Self { entries: entries.into_iter().map(|e| (e.id, e)).collect() })
    }

    /// For disk.
    ///
    /// # Errors
    /// Never: every entry is plain data.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec_pretty(&self.entries.values().collect::<Vec<_>>()).map_err(|e| e.to_string())
    }

    /// Takes a new token in, and forgets those that have been expired for a day.
    ///
    /// # Errors
    /// The ledger is full.
    pub(crate) fn add(&mut self, grant: &Grant, now: UnixSeconds) -> Result<(), String> {
        self.prune(now);
        if self.entries.len() >= TOKENS_MAX {
            return Err(format!("this issuer keeps {TOKENS_MAX} tokens already: wait until some have expired"));
        }
        let entry = Entry {
            id: grant.id,
            roles: grant.roles.iter().collect(),
            issuer: grant.issuer,
            services: grant.services.clone(),
            not_after: grant.not_after,
            uses: grant.uses,
            used: 0,
            newcomers: Vec::new(),
        };
        self.entries.insert(grant.id, entry);
        Ok(())
    }

    /// Counts a newcomer. Returns whether that changed the ledger.
    ///
    /// # Errors
    /// [`TokenError::UsedUp`]; also for a bounded token that is not in the ledger, since its uses are not known.
    pub(crate) fn admit(&mut self, grant: &Grant, newcomer: NodeId) -> Result<bool, TokenError> {
        let Some(entry) = self.entries.get_mut(&grant.id) else {
            return if grant.uses.is_some() { Err(TokenError::UsedUp(grant.id)) } else { Ok(false) };
        };
        if entry.newcomers.contains(&newcomer) {
            return Ok(false);
        }
        if entry.uses.is_some_and(|uses| entry.used >= uses) {
            return Err(TokenError::UsedUp(grant.id));
        }
        if entry.uses.is_none() && entry.newcomers.len() >= RECENT_MAX {
            entry.newcomers.remove(0);
        }
        entry.used = entry.used.saturating_add(1);
        entry.newcomers.push(newcomer);
        Ok(true)
    }

    /// For people, by id.
    pub(crate) fn list(&self, now: UnixSeconds, revoked: impl Fn(&TokenId) -> bool) -> Vec<TokenInfo> {
        let kept = self.entries.values().filter(|e| !e.forgotten(now));
        kept.map(|e| TokenInfo {
            id: e.id.to_string(),
            roles: e.roles.clone(),
            issuer: e.issuer,
            services: e.services.clone(),
            not_after: e.not_after,
            uses: e.uses,
            used: e.used,
            state: match e.uses {
                _ if revoked(&e.id) => TokenState::Revoked,
                _ if now > e.not_after => TokenState::Expired,
                Some(uses) if e.used >= uses => TokenState::UsedUp,
                _ => TokenState::Active,
            },
        })
        .collect()
    }

    /// Until when a token is good.
    pub(crate) fn not_after(&self, id: &TokenId) -> Option<UnixSeconds> {
        self.entries.get(id).map(|e| e.not_after)
    }

    /// By which tokens a node came in, as far as they are remembered.
    pub(crate) fn tokens_of(&self, node: &NodeId) -> Vec<TokenId> {
        self.entries.values().filter(|e| e.newcomers.contains(node)).map(|e| e.id).collect()
    }

    fn prune(&mut self, now: UnixSeconds) {
        self.entries.retain(|_, e| !e.forgotten(now));
    }
}

impl Entry {
    fn forgotten(&self, now: UnixSeconds) -> bool {
        now.0 > self.not_after.0.saturating_add(EXPIRED_KEPT.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{RngExt, SeedableRng};

    use super::*;

    fn grant(n: u8, uses: Option<u32>, not_after: u64) -> Grant {
        Grant {
            id: TokenId([n; 8]),
            made_by: NodeId::from_bytes([1; 32]),
            roles: [Role::Worker].into_iter().collect(),
            issuer: false,
            services: Vec::new(),
            not_after: UnixSeconds(not_after),
            uses,
            public_key: [0; 32],
        }
    }

    /// Against a set for each token: the ledger admits whom the set holds or has room for.
    #[test]
    fn uses_are_counted_as_by_the_model() {
        for seed in 0..50 {
            let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
            let grants: Vec<_> = (0..4).map(|n| grant(n, (n < 3).then_some(u32::from(n) + 1), 1000)).collect();
            let mut ledger = Ledger::default();
            for grant in &grants {
                ledger.add(grant, UnixSeconds(0)).expect("room");
            }
            let mut model = vec![BTreeSet::new(); grants.len()];
            for _ in 0..100 {
                let (token, newcomer) = (rng.random_range(0..grants.len()), rng.random_range(0..8u8));
                let known = model[token].contains(&newcomer);
                let room = grants[token].uses.is_none_or(|uses| model[token].len() < uses as usize);
                let got = ledger.admit(&grants[token], NodeId::from_bytes([newcomer; 32]));
                if known || room {
                    model[token].insert(newcomer);
                    assert_eq!(got, Ok(!known), "seed {seed}");
                } else {
                    assert_eq!(got, Err(TokenError::UsedUp(grants[token].id)), "seed {seed}");
                }
                ledger = Ledger::from_bytes(&ledger.to_bytes().expect("bytes")).expect("the same again");
                let used: Vec<_> = ledger.list(UnixSeconds(0), |_| false).iter().map(|t| t.used as usize).collect();
                assert_eq!(used, model.iter().map(BTreeSet::len).collect::<Vec<_>>(), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_token_without_bound_counts_on_and_stays_small() {
        let mut ledger = Ledger::default();
        let grant = grant(1, None, 1000);
        ledger.add(&grant, UnixSeconds(0)).expect("room");
        for n in 0..200u8 {
            assert_eq!(ledger.admit(&grant, NodeId::from_bytes([n; 32])), Ok(true));
            assert_eq!(ledger.admit(&grant, NodeId::from_bytes([n; 32])), Ok(false));
        }
        assert_eq!(ledger.list(UnixSeconds(0), |_| false)[0].used, 200);
        assert_eq!(ledger.entries[&grant.id].newcomers.len(), RECENT_MAX);
    }

    #[test]
    fn a_token_that_is_not_known_is_admitted_only_without_bound() {
        let (mut ledger, node) = (Ledger::default(), NodeId::from_bytes([2; 32]));
        assert_eq!(ledger.admit(&grant(1, Some(5), 1000), node), Err(TokenError::UsedUp(TokenId([1; 8]))));
        assert_eq!(ledger.admit(&grant(1, None, 1000), node), Ok(false));
    }

    #[test]
    fn the_ledger_is_bounded_and_forgets_the_expired() {
        let mut ledger = Ledger::default();
        for n in 0..TOKENS_MAX {
            let n = u8::try_from(n).expect("256");
            ledger.add(&grant(n, None, 1000), UnixSeconds(0)).expect("room");
        }
        let mut more = grant(0, None, 200_000);
        more.id = TokenId([1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(ledger.add(&more, UnixSeconds(1000 + 86_400)).is_err(), "kept for a day");
        assert!(ledger.list(UnixSeconds(1000 + 86_401), |_| false).is_empty());
        ledger.add(&more, UnixSeconds(1000 + 86_401)).expect("room again");
        assert_eq!(ledger.entries.len(), 1);
    }

    #[test]
    fn rubbish_is_no_ledger() {
        for bad in ["", "{}", "[{}]", "[1]", "null"] {
            assert!(Ledger::from_bytes(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(Ledger::from_bytes(b"[]"), Ok(Ledger::default()));
    }
}
