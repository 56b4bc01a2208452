use proptest::prelude::*;

use super::*;
use crate::envelope::Kind;
use crate::testing::{START, key, node_id};

const TERM: Duration = Duration::from_secs(600);
const HEARTBEAT: Duration = Duration::from_secs(10);

fn node(i: u64) -> NodeId {
    node_id(&key(i))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn cluster() -> ClusterId {
    ClusterId::of_root(&[1])
}

/// Stands for a claim: this core looks at its author only.
fn record(author: NodeId) -> Arc<Signed> {
    Arc::new(Signed::raw(author, Kind::Lead, Vec::new(), [0; 32]))
}

fn lead(term: u64, takeovers: u32) -> Lead {
    Lead { term, takeovers }
}

/// An election of node 0 among some, and its driver.
struct Sut {
    election: Election,
    zero: Instant,
    t: Duration,
    claims: Vec<(Duration, Lead)>,
    others: Vec<Output>,
}

impl Sut {
    fn new(members: u64, founder: bool, kept: Option<(NodeId, Lead)>) -> Self {
        let config = Config {
            me: node(0),
            cluster: cluster(),
            born: UnixSeconds(START.0 - 86_400),
            term: TERM,
            heartbeat: HEARTBEAT,
            founder,
        };
        let zero = Instant::now();
        let now = Now { at: zero, unix: START };
        let kept = kept.map(|(author, lead)| {
            (Kept { record: record(author), from_micro: lead.term * 1_000_000, from_unix: START }, lead)
        });
        let election = Election::new(config, kept, now);
        let mut sut = Self { election, zero, t: Duration::ZERO, claims: Vec::new(), others: Vec::new() };
        for i in 0..members {
            sut.input(Input::Member { node: node(i), class: Class::Fit });
        }
        if members > 1 {
            sut.input(Input::Links(2));
        }
        sut
    }

    fn now(&self) -> Now {
        Now { at: self.zero + self.t, unix: UnixSeconds(START.0 + self.t.as_secs()) }
    }

    fn input(&mut self, input: Input) {
        self.election.handle_input(input, self.now().at);
        self.drain();
    }

    fn hear(&mut self, author: u64, lead: Lead) -> Heard {
        let heard = self.election.hear(record(node(author)), lead, false, self.now());
        self.drain();
        heard
    }

    fn summary(&mut self, line: &[u64], next: Option<u64>) {
        let short = |i: &u64| ShortId::of(&node(*i));
        self.input(Input::Summary { line: line.iter().map(short).collect(), next: next.as_ref().map(short) });
    }

    fn run(&mut self, time: Duration) {
        let end = self.t + time;
        while let Some((at, _)) = self.election.poll_timeout().filter(|(at, _)| *at <= self.zero + end) {
            self.t = self.t.max(at - self.zero);
            self.election.handle_timeout(self.now().at);
            self.drain();
        }
        self.t = end;
    }

    /// The process does nothing for a time.
    fn sleep(&mut self, time: Duration) {
        self.t += time;
        self.election.handle_timeout(self.now().at);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.election.poll_output() {
            match output {
                Output::Claim(lead) => {
                    self.claims.push((self.t, lead));
                    let now = self.now();
                    self.election.claimed(record(node(0)), lead, now);
                }
                output => self.others.push(output),
            }
        }
    }

    fn best(&self) -> Option<(NodeId, Lead)> {
        self.election.best().map(|best| (best.author, best.lead))
    }

    fn alarms(&self) -> usize {
        self.others.iter().filter(|o| matches!(o, Output::Alarm(_))).count()
    }
}

/// A member that follows node 1 and has its line.
fn follower(line: &[u64]) -> Sut {
    let mut sut = Sut::new(6, false, None);
    sut.input(Input::Synced);
    assert_eq!(sut.hear(1, Lead::FIRST), Heard::Greater);
    sut.summary(line, None);
    sut
}

#[test]
fn a_founder_claims_at_once_and_whoever_comes_later_does_not() {
    let founder = Sut::new(1, true, None);
    assert_eq!(founder.claims, [(Duration::ZERO, Lead::FIRST)]);
    assert!(founder.election.is_leading());
    let order: Vec<_> = founder.others.iter().map(std::mem::discriminant).collect();
    let expected = [Output::Believe, Output::Publish(record(node(0))), Output::Summarise];
    assert_eq!(order, expected.iter().map(std::mem::discriminant).collect::<Vec<_>>(), "on disk before it is said");

    let mut joiner = Sut::new(3, false, None);
    joiner.run(Duration::from_secs(600));
    assert_eq!(joiner.claims, [], "nobody has told it anything");
    joiner.input(Input::Synced);
    joiner.run(Duration::from_secs(60));
    assert_eq!(joiner.claims.len(), 1, "nobody leads: {:?}", joiner.claims);

    let mut joiner = Sut::new(3, false, None);
    joiner.input(Input::Synced);
    joiner.run(Duration::from_secs(35));
    assert_eq!(joiner.claims, []);
    assert_eq!(joiner.hear(1, lead(1, 0)), Heard::Greater);
    joiner.run(Duration::from_secs(34));
    assert_eq!(joiner.claims, []);
}

#[test]
fn whoever_never_reached_anybody_and_knows_no_leader_leads_nobody() {
    let mut joiner = Sut::new(1, false, None);
    joiner.run(Duration::from_secs(3_600));
    assert_eq!((&joiner.claims[..], joiner.election.poll_timeout()), (&[][..], None), "there is a cluster elsewhere");

    let mut other = Sut::new(1, false, None);
    for (sut, leader) in [(&mut joiner, true), (&mut other, false)] {
        sut.run(Duration::from_secs(60));
        sut.input(Input::Links(1));
        sut.input(Input::Member { node: node(1), class: Class::Fit });
        sut.input(Input::Synced);
        sut.run(Duration::from_secs(34));
        assert_eq!(sut.claims, [], "the next summary has its time, however long this node was alone");
        if leader {
            assert_eq!(sut.hear(1, lead(4, 0)), Heard::Greater);
        }
        sut.run(Duration::from_secs(6));
        assert_eq!(sut.claims.len(), usize::from(!leader), "{:?}", sut.claims);
    }

    // All were started again, and this one reaches nobody: what is on its disk says that it may lead.
    let mut again = Sut::new(1, false, Some((node(1), lead(7, 2))));
    again.run(Duration::from_secs(34));
    assert_eq!(again.claims, []);
    again.run(Duration::from_secs(6));
    assert_eq!(again.claims.iter().map(|(_, lead)| *lead).collect::<Vec<_>>(), [lead(7, 3)]);
}

#[test]
fn the_line_takes_over_in_its_order() {
    for (line, wait) in [(&[0, 2, 3][..], 0), (&[2, 0, 3], 500), (&[2, 3, 0], 1_000)] {
        let mut sut = follower(line);
        sut.run(ms(3_000));
        sut.input(Input::Gone(node(1)));
        sut.run(ms(1_500));
        assert_eq!(sut.claims, [(ms(3_000 + wait), lead(1, 1))], "{line:?}");
    }
    let mut sut = follower(&[2, 3, 0]);
    sut.input(Input::Gone(node(2)));
    sut.input(Input::Gone(node(1)));
    sut.run(ms(100));
    assert_eq!(sut.claims, []);
    sut.input(Input::Gone(node(3)));
    assert_eq!(sut.claims, [(ms(100), lead(1, 1))], "the next one, as soon as those before it are gone");
}

#[test]
fn without_its_line_everybody_goes_by_its_own_table() {
    let mut sut = follower(&[2, 3, 4]);
    sut.input(Input::Gone(node(1)));
    sut.run(ms(1_999));
    assert_eq!(sut.claims, []);
    sut.run(ms(500 * 6));
    let ranks = Ranks::of(&cluster(), 1);
    let before = (2..6).filter(|i| ranks.rank(&node(*i)) > ranks.rank(&node(0))).count() as u64;
    assert_eq!(sut.claims, [(ms(2_000 + 500 * before), lead(1, 1))]);
}

#[test]
fn a_claim_of_another_ends_the_wait() {
    let mut sut = follower(&[2, 0]);
    sut.input(Input::Gone(node(1)));
    sut.run(ms(400));
    assert_eq!(sut.hear(2, lead(1, 1)), Heard::Greater);
    sut.run(Duration::from_secs(30));
    assert_eq!((sut.claims.len(), sut.best()), (0, Some((node(2), lead(1, 1)))));
    sut.input(Input::Gone(node(2)));
    assert_eq!(sut.claims.len(), 1, "it died before its first summary: the line of the last one still stands");
}

#[test]
fn a_leader_that_comes_back_in_time_stays() {
    let mut sut = follower(&[2, 0]);
    sut.input(Input::Gone(node(1)));
    sut.run(ms(400));
    sut.input(Input::Member { node: node(1), class: Class::Fit });
    sut.run(Duration::from_secs(20));
    assert_eq!(sut.claims, []);
}

#[test]
fn a_silent_leader_is_replaced() {
    let mut sut = follower(&[0]);
    for _ in 0..10 {
        sut.run(HEARTBEAT);
        sut.summary(&[0], None);
    }
    assert_eq!(sut.claims, []);
    sut.run(Duration::from_secs(34));
    assert_eq!(sut.claims, []);
    sut.run(Duration::from_secs(1));
    assert_eq!(sut.claims, [(Duration::from_secs(135), lead(1, 1))]);
}

#[test]
fn whoever_slept_listens_first() {
    let mut sut = follower(&[0]);
    sut.sleep(Duration::from_secs(300));
    sut.run(Duration::from_secs(34));
    assert_eq!(sut.claims, [], "it does not know what happened");

    let mut leader = Sut::new(1, true, None);
    leader.sleep(Duration::from_secs(700));
    leader.run(ms(1_999));
    assert_eq!(leader.claims.len(), 1, "its time is over, and others may have gone on");
    assert_eq!(leader.hear(3, lead(1, 1)), Heard::Greater);
    leader.run(Duration::from_secs(10));
    assert!(!leader.election.is_leading());
    assert_eq!(leader.claims.len(), 1);
}

#[test]
fn a_leader_names_the_next_and_goes_on_itself_where_nobody_answers() {
    let ranks = Ranks::of(&cluster(), 2);
    let mut order: Vec<_> = (0..6).map(node).collect();
    order.sort_by_key(|n| std::cmp::Reverse(ranks.rank(n)));
    let own = order.iter().position(|n| *n == node(0)).expect("a member");
    let mut sut = Sut::new(6, true, None);
    sut.others.clear();
    sut.run(TERM);
    if own == 0 {
        assert_eq!(sut.claims.last(), Some(&(TERM, lead(2, 0))));
        return;
    }
    assert_eq!((sut.election.named(), &sut.others[..]), (Some(order[0]), &[Output::Summarise][..]));
    sut.input(Input::Gone(order[0]));
    let second = (own > 1).then(|| order[1]);
    assert_eq!(sut.election.named(), second, "the second at once");
    sut.run(ms(2_000));
    assert_eq!(sut.claims.last().map(|(_, lead)| *lead), Some(lead(2, 0)), "and then itself");
    assert!(sut.election.is_leading() && sut.election.named().is_none());
}

#[test]
fn whoever_is_named_claims_the_next_term() {
    let mut sut = follower(&[2]);
    sut.summary(&[2], Some(3));
    assert_eq!(sut.claims, []);
    sut.summary(&[2], Some(0));
    assert_eq!(sut.claims, [(Duration::ZERO, lead(2, 0))]);
}

#[test]
fn a_new_life_never_goes_on_with_an_old_claim() {
    let mut sut = Sut::new(3, true, Some((node(0), lead(7, 2))));
    assert!(!sut.election.is_leading() && sut.claims.is_empty());
    sut.run(Duration::from_secs(9));
    sut.input(Input::Synced);
    sut.run(ms(1_999));
    assert_eq!(sut.claims, []);
    sut.run(ms(1));
    assert_eq!(sut.claims, [(ms(11_000), lead(7, 3))]);

    let mut late = Sut::new(3, true, Some((node(0), lead(7, 2))));
    late.input(Input::Synced);
    assert_eq!(late.hear(2, lead(7, 3)), Heard::Greater);
    late.run(Duration::from_secs(30));
    assert_eq!(late.claims, [], "others have gone on");

    let mut alone = Sut::new(1, true, Some((node(0), lead(7, 2))));
    alone.run(Duration::from_secs(12));
    assert_eq!(alone.claims, [(ms(12_000), lead(7, 3))]);

    let mut without_disk = Sut::new(3, false, None);
    without_disk.input(Input::Synced);
    assert_eq!(without_disk.hear(0, lead(3, 0)), Heard::Greater);
    assert!(!without_disk.election.is_leading());
    without_disk.run(ms(2_000));
    assert_eq!(without_disk.claims, [(ms(2_000), lead(3, 1))]);
}

#[test]
fn one_leads_of_two_that_claim_the_same() {
    let ranks = Ranks::of(&cluster(), 1);
    for i in 1..20 {
        let mut sut = follower(&[0]);
        sut.input(Input::Gone(node(1)));
        assert_eq!(sut.best(), Some((node(0), lead(1, 1))));
        let heard = sut.hear(i, lead(1, 1));
        let greater = ranks.rank(&node(i)) > ranks.rank(&node(0));
        assert_eq!(heard, if greater { Heard::Greater } else { Heard::Lesser });
        assert_eq!(sut.election.is_leading(), !greater);
    }
}

#[test]
fn a_term_that_time_does_not_allow_is_refused_and_told() {
    // The cluster is a day old: at most 2 + 2 * 144 terms.
    let mut sut = Sut::new(3, false, None);
    assert_eq!(sut.hear(1, lead(291, 0)), Heard::Refused);
    assert_eq!((sut.alarms(), sut.best()), (1, None));
    assert_eq!(sut.hear(1, lead(0, 0)), Heard::Refused);
    assert_eq!(sut.alarms(), 1, "once is enough for a while");
    assert_eq!(sut.hear(1, lead(290, 0)), Heard::Greater);
    assert_eq!(sut.hear(2, lead(293, 0)), Heard::Refused);
    assert_eq!(sut.hear(2, lead(290, 1_025)), Heard::Refused);
    assert_eq!(sut.hear(2, lead(290, 1_024)), Heard::Greater);
    sut.run(TERM);
    assert_eq!(sut.hear(2, lead(293, 0)), Heard::Refused);
    assert_eq!(sut.hear(2, lead(292, 0)), Heard::Greater);
    assert_eq!(sut.alarms(), 2);
}

#[test]
fn a_run_of_claims_does_not_lift_the_term() {
    let mut sut = Sut::new(3, false, Some((node(1), lead(10, 0))));
    for _ in 0..3_600 {
        let term = sut.best().expect("one").1.term;
        for ahead in (1..5).rev() {
            sut.hear(1 + term % 2, lead(term + ahead, 0));
        }
        sut.run(Duration::from_secs(1));
    }
    let term = sut.best().expect("one").1.term;
    assert!(term <= 10 + 2 + 12, "{term}: in an hour there are six terms");
    let honest = Sut::new(3, false, Some((node(1), lead(10, 0))));
    let mut honest = honest;
    for i in 0..200 {
        honest.run(TERM);
        assert_eq!(honest.hear(1 + i % 2, lead(11 + i, 0)), Heard::Greater);
    }
    assert_eq!(honest.alarms(), 0);
}

#[test]
fn a_clock_that_goes_back_stops_nothing_and_one_that_goes_on_is_bounded() {
    let mut sut = Sut::new(3, false, Some((node(1), lead(10, 0))));
    for i in 0..20 {
        sut.run(TERM);
        let now = Now { at: sut.now().at, unix: UnixSeconds(START.0 - 5_000) };
        assert_eq!(sut.election.hear(record(node(1 + i % 2)), lead(11 + i, 0), false, now), Heard::Greater, "{i}");
    }
}

#[test]
fn whoever_slept_through_terms_believes_those_that_did_not() {
    let mut sut = follower(&[0]);
    sut.sleep(TERM * 10);
    sut.input(Input::Gone(node(1)));
    sut.run(ms(1_999));
    assert_eq!(sut.claims, [], "it listens, whoever is gone");
    sut.run(ms(1));
    assert_eq!(sut.claims.len(), 1, "it heard nothing");
    assert_eq!(sut.hear(2, lead(11, 0)), Heard::Greater, "its own claim does not say that no more time has passed");
    assert_eq!((sut.alarms(), sut.election.is_leading()), (0, false));
}

#[test]
fn a_founder_without_its_disk_and_a_reader_of_old_words_believe_the_cluster() {
    // The cluster is a day old, and has led itself all the time.
    let mut founder = Sut::new(1, true, None);
    assert_eq!(founder.best(), Some((node(0), Lead::FIRST)));
    assert_eq!(founder.hear(1, lead(144, 0)), Heard::Greater);
    let mut reader = Sut::new(1, false, None);
    assert_eq!(reader.hear(1, lead(9, 0)), Heard::Greater);
    assert_eq!(reader.hear(2, lead(144, 0)), Heard::Greater);
    assert_eq!(founder.alarms() + reader.alarms(), 0);
}

#[test]
fn claims_are_believed_at_a_bounded_rate() {
    let mut sut = Sut::new(3, false, None);
    let believed = (1..500).filter(|i| sut.hear(1 + u64::from(i % 2), lead(1, *i)) == Heard::Greater).count();
    assert_eq!(believed, 16);
    assert_eq!(sut.others.iter().filter(|o| **o == Output::Believe).count(), 16);
    sut.run(Duration::from_secs(2));
    assert_eq!(sut.hear(1, lead(1, 600)), Heard::Greater);
}

#[test]
fn those_that_gather_are_as_many_as_the_root() {
    let mut sut = Sut::new(100, true, None);
    assert!(sut.election.sub_leaders(101).is_empty());
    let gather = sut.election.sub_leaders(100);
    assert_eq!(gather.len(), 10);
    assert!(!gather.contains(&node(0)), "the leader has enough to do");
    sut.input(Input::Member { node: gather[0], class: Class::Doubtful });
    assert!(!sut.election.sub_leaders(100).contains(&gather[0]));
    assert_eq!(sut.election.succession().len(), LINE_MAX);
    assert_eq!(sut.election.resolve(ShortId::of(&node(55))), Some(node(55)));
    assert_eq!(sut.election.resolve(ShortId::of(&node(500))), None);
}

#[derive(Clone, Debug)]
enum Step {
    Hear { author: u64, ahead: u64, takeovers: u32, gone: bool },
    Summary { line: Vec<u64>, next: Option<u64> },
    Gone(u64),
    Member(u64, Class),
    Links(usize),
    Synced,
    Run(u64),
    Sleep(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop_oneof![Just(Class::Fit), Just(Class::Reserve), Just(Class::Doubtful)];
    prop_oneof![
        4 => (0..6_u64, 0..4_u64, 0..3_u32, any::<bool>())
            .prop_map(|(author, ahead, takeovers, gone)| Step::Hear { author, ahead, takeovers, gone }),
        3 => (prop::collection::vec(0..6_u64, 0..3), prop::option::of(0..6_u64))
            .prop_map(|(line, next)| Step::Summary { line, next }),
        2 => (1..6_u64).prop_map(Step::Gone),
        2 => (0..6_u64, class).prop_map(|(i, class)| Step::Member(i, class)),
        1 => (0..3_usize).prop_map(Step::Links),
        1 => Just(Step::Synced),
        4 => (0..700_000_u64).prop_map(Step::Run),
        1 => (0..700_000_u64).prop_map(Step::Sleep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    /// Against a model: of all claims that were believed, the last one is the greatest; this node leads only by its own
    /// claim; no claim is made twice; terms rise no faster than time allows.
    #[test]
    fn what_is_believed_only_rises(founder in any::<bool>(), steps in prop::collection::vec(step(), 0..80)) {
        let mut sut = Sut::new(6, founder, None);
        let key = |author: &NodeId, lead: Lead| (lead, Ranks::of(&cluster(), lead.term).rank(author), *author);
        let mut greatest = sut.best().map(|(author, lead)| key(&author, lead));
        for step in steps {
            let term = sut.best().map_or(1, |(_, lead)| lead.term);
            match step {
                Step::Hear { author, ahead, takeovers, gone } => {
                    let lead = lead(term + ahead, takeovers);
                    let now = sut.now();
                    let expected = greatest.is_none_or(|g| key(&node(author), lead) > g);
                    let heard = sut.election.hear(record(node(author)), lead, gone, now);
                    prop_assert!(expected || heard != Heard::Greater);
                    sut.drain();
                }
                // A summary is passed on to this core only when it is of the one that is believed.
                Step::Summary { line, next } => if sut.best().is_some() { sut.summary(&line, next) },
                Step::Gone(i) => sut.input(Input::Gone(node(i))),
                Step::Member(i, class) => sut.input(Input::Member { node: node(i), class }),
                Step::Links(n) => sut.input(Input::Links(n)),
                Step::Synced => sut.input(Input::Synced),
                Step::Run(t) => sut.run(ms(t)),
                Step::Sleep(t) => sut.sleep(ms(t)),
            }
            let best = sut.best().map(|(author, lead)| key(&author, lead));
            prop_assert!(best >= greatest);
            greatest = best;
            prop_assert!(!sut.election.is_leading() || sut.best().is_some_and(|(author, _)| author == node(0)));
            prop_assert!(sut.election.poll_timeout().is_none_or(|(at, _)| at > sut.now().at));
        }
        prop_assert!(sut.claims.windows(2).all(|pair| pair[0].1 < pair[1].1), "{:?}", sut.claims);
    }
}
