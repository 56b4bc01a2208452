//! Seeds that failed once, with the scenario that `search` made of them: each was a bug, and must not come back.

use paceline_simulations::sim::scenario::Scenario;
use paceline_simulations::sim::search::judge;

/// What was wrong, the seed, and the scenario.
const KEPT: &[(&str, u64, &str)] = &[];

#[test]
fn what_failed_once_holds() {
    for (what, seed, text) in KEPT {
        let scenario = Scenario::parse(text).unwrap_or_else(|e| panic!("{what}: {e:#}"));
        let violation = judge(&scenario, *seed).expect("within bounds");
        assert!(violation.is_none(), "{what}: seed {seed}: {violation:?}");
    }
}
