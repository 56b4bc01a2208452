use proptest::prelude::*;

use super::*;

const MIDNIGHT: u64 = 20_000 * DAY_S;

fn at(seconds: u64) -> UnixSeconds {
    UnixSeconds(MIDNIGHT + seconds)
}

/// Runs for a time with a write that is stored at once; says when and why there were writes.
fn run(budget: &mut Budget, from: u64, to: u64) -> Vec<(u64, Reason)> {
    let (mut now, mut writes) = (from, Vec::new());
    while now < to {
        if let Some(reason) = budget.poll(at(now)) {
            writes.push((now, reason));
            budget.written(true, None, at(now));
        }
        now = budget.wake(at(now)).0 - MIDNIGHT;
    }
    writes
}

#[test]
fn a_quiet_day_is_written_evenly_to_its_end() {
    let mut budget = Budget::default();
    let writes = run(&mut budget, 0, DAY_S);
    assert!((20..=30).contains(&writes.len()), "{}", writes.len());
    let gaps: Vec<_> = writes.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(gaps.iter().all(|gap| (1_800..3 * 3_600).contains(gap)), "{gaps:?}");
    assert!(writes.last().is_some_and(|(when, _)| *when > DAY_S - 7_200), "the evening too");
}

#[test]
fn what_matters_is_written_within_seconds_and_first() {
    let mut budget = Budget::default();
    run(&mut budget, 0, 3_600);
    budget.want(Reason::Service, at(3_700));
    budget.want(Reason::Death, at(3_701));
    budget.want(Reason::Leader, at(3_701));
    assert_eq!(budget.poll(at(3_701)), None, "a moment to gather what belongs together");
    let wake = budget.wake(at(3_701)).0 - MIDNIGHT;
    assert!(wake <= 3_703, "{wake}");
    assert_eq!(budget.poll(at(wake)), Some(Reason::Death));
    assert_eq!(budget.poll(at(wake + 1)), None, "one at a time");
    budget.written(true, None, at(wake + 1));
    budget.want(Reason::Death, at(wake + 2));
    let next = run(&mut budget, wake + 2, wake + 20);
    assert!(matches!(next[..], [(when, Reason::Death)] if when <= wake + 8), "{next:?}");
}

#[test]
fn a_bad_morning_leaves_something_for_the_evening() {
    let mut budget = Budget::default();
    let mut writes = 0;
    for now in 0..6 * 3_600 {
        budget.want(Reason::Death, at(now));
        if budget.poll(at(now)).is_some() {
            writes += 1;
            budget.written(true, None, at(now));
        }
    }
    assert_eq!(writes, 26, "25 within minutes, and one came free");
    let rest = run(&mut budget, 6 * 3_600, DAY_S - 3_600);
    assert!(matches!(rest[..], [(28_801, Reason::Death), ..]), "what waited, when the next came free: {rest:?}");
    assert!(rest.len() <= 3 && rest[1..].iter().all(|(when, _)| *when > DAY_S / 2), "{rest:?}");
    budget.want(Reason::Death, at(DAY_S - 3_600));
    let evening = run(&mut budget, DAY_S - 3_600, DAY_S);
    assert_eq!(evening.first().map(|(_, reason)| *reason), Some(Reason::Death));
    assert!(budget.today(at(DAY_S - 1)) <= WRITES_MAX);
    budget.want(Reason::Death, at(DAY_S));
    assert_eq!(run(&mut budget, DAY_S, DAY_S + 10).len(), 1, "a new day");
    assert_eq!(budget.today(at(DAY_S + 10)), 1);
}

#[test]
fn a_store_that_is_down_does_not_take_the_whole_day() {
    let mut budget = Budget::default();
    let (mut now, mut orders) = (0, 0);
    budget.want(Reason::Death, at(0));
    while now < 20 * 3_600 {
        orders += u32::from(budget.poll(at(now)).is_some());
        // Nobody answers.
        now = budget.wake(at(now)).0 - MIDNIGHT;
    }
    assert!((8..=20).contains(&orders), "{orders}");
    let back = run(&mut budget, now, DAY_S);
    assert_eq!(back.first().map(|(_, reason)| *reason), Some(Reason::Death), "what waited is not forgotten");
}

#[test]
fn what_others_know_counts() {
    let mut budget = Budget::default();
    budget.observe(20_000, 29, at(10));
    budget.observe(19_990, 500, at(10));
    assert_eq!(budget.today(at(10)), 29);
    budget.want(Reason::Death, at(80_000));
    assert_eq!(run(&mut budget, 80_000, DAY_S).len(), 1);
    let mut budget = Budget::default();
    budget.want(Reason::Death, at(10));
    assert!(budget.poll(at(12)).is_some());
    budget.written(true, Some(30), at(12));
    budget.want(Reason::Death, at(13));
    assert!(run(&mut budget, 13, DAY_S).is_empty(), "the store has seen thirty");
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Want(Reason),
    Poll,
    Written(bool, Option<u32>),
    Observe(u32),
    Stop,
    Gone,
    Jump(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let reason = prop_oneof![Just(Reason::Leader), Just(Reason::Service), Just(Reason::Death)];
    prop_oneof![
        4 => prop_oneof![0..20_u64, 0..4_000_u64].prop_map(Step::Wait),
        4 => reason.prop_map(Step::Want),
        6 => Just(Step::Poll),
        3 => (any::<bool>(), prop::option::of(0..40_u32)).prop_map(|(stored, n)| Step::Written(stored, n)),
        1 => (0..40_u32).prop_map(Step::Observe),
        1 => Just(Step::Stop),
        1 => Just(Step::Gone),
        1 => (-90_000..90_000_i64).prop_map(Step::Jump),
    ]
}

#[test]
fn a_writer_that_dies_holds_nobody_up() {
    let at = |s: u64| at(3_600 + s);
    let mut budget = Budget::default();
    budget.want(Reason::Service, at(0));
    assert_eq!(budget.poll(at(10)), Some(Reason::Service));
    budget.writer_gone(at(12));
    budget.want(Reason::Death, at(12));
    assert!(budget.wake(at(12)) <= at(20), "soon, and not when the dead one's time is over");
    assert_eq!(budget.poll(at(20)), Some(Reason::Death));
    assert_eq!(budget.today(at(20)), 2, "what was ordered stays counted");
    // Nothing was under way.
    budget.written(true, None, at(21));
    budget.writer_gone(at(22));
    assert_eq!(budget.poll(at(40)), None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn never_more_than_the_budget_of_a_day(steps in prop::collection::vec(step(), 0..600)) {
        let mut budget = Budget::default();
        let mut now = MIDNIGHT;
        let mut days: BTreeMap<u64, u32> = BTreeMap::new();
        for step in steps {
            let unix = UnixSeconds(now);
            match step {
                Step::Wait(s) => now += s,
                Step::Want(reason) => budget.want(reason, unix),
                Step::Poll => if budget.poll(unix).is_some() {
                    *days.entry(day_of(unix)).or_default() += 1;
                },
                Step::Written(stored, n) => budget.written(stored, n, unix),
                Step::Observe(n) => budget.observe(day_of(unix), n, unix),
                Step::Stop => budget.stop(),
                Step::Gone => budget.writer_gone(unix),
                // Within the days that are counted.
                Step::Jump(by) => now = now.saturating_add_signed(by).clamp(MIDNIGHT - DAY_S, MIDNIGHT + DAY_S),
            }
            prop_assert!(budget.wake(UnixSeconds(now)).0 > now);
        }
        prop_assert!(days.values().all(|writes| *writes <= WRITES_MAX), "{:?}", days);
    }
}
