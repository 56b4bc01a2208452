use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::*;
use crate::testing::{key, node_id};

const PROBE: Duration = Duration::from_secs(1);
const FINE: Standing = Standing { gateway: false, dialable: true, suspect: false };

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn member(i: u64) -> NodeId {
    node_id(&key(i))
}

fn cluster() -> ClusterId {
    ClusterId::from_bytes([7; 32])
}

/// Number 0, with so many others, all linked.
fn detector(seed: u64, others: u64, now: Instant) -> Detector {
    let config = Config { me: member(0), cluster: cluster(), probe: PROBE, settled: None, seed };
    let mut detector = Detector::new(config, now);
    for i in 1..=others {
        detector.handle_input(Input::Member { node: member(i), standing: Some(FINE) }, now);
        detector.handle_input(Input::LinkUp(member(i)), now);
    }
    settle(&mut detector, now);
    detector
}

/// As after some quiet time.
fn settle(detector: &mut Detector, now: Instant) {
    detector.health = 1;
    let long_ago = now.checked_sub(LINK_SETTLES).expect("this machine has been up for some time");
    detector.links.values_mut().for_each(|link| link.since = long_ago);
}

fn outputs(detector: &mut Detector) -> Vec<Output> {
    std::iter::from_fn(|| detector.poll_output()).collect()
}

/// What comes out until then, and when, while `answer` is given to each message.
fn run(
    detector: &mut Detector,
    now: &mut Instant,
    end: Instant,
    mut answer: impl FnMut(NodeId, Probe) -> Option<Probe>,
) -> Vec<(Instant, Output)> {
    let mut said = Vec::new();
    loop {
        while let Some(output) = detector.poll_output() {
            said.push((*now, output));
            if let Output::Send { to, probe } = output
                && let Some(probe) = answer(to, probe)
            {
                detector.handle_input(Input::Probe { from: to, probe }, *now);
            }
        }
        match detector.poll_timeout() {
            Some((at, _)) if at <= end => {
                *now = at;
                detector.handle_timeout(at);
            }
            _ => break,
        }
    }
    *now = end;
    said
}

fn acks(_: NodeId, probe: Probe) -> Option<Probe> {
    match probe {
        Probe::Ping { nonce } | Probe::PingFor { nonce, .. } => Some(Probe::Ack { nonce }),
        _ => None,
    }
}

fn nacks(_: NodeId, probe: Probe) -> Option<Probe> {
    match probe {
        Probe::PingFor { nonce, .. } => Some(Probe::Nack { nonce }),
        _ => None,
    }
}

#[test]
fn the_ring_is_what_sorting_everybody_gives() {
    let mut rng = Rng::new(1);
    let mut ring = Ring::new(member(0), &cluster());
    let mut all: BTreeMap<NodeId, Standing> = BTreeMap::new();
    for _ in 0..600 {
        let node = member(1 + rng.below(20) as u64);
        if rng.below(3) == 0 {
            assert_eq!(ring.remove(&node), all.remove(&node).is_some());
        } else {
            let standing = Standing { suspect: rng.below(3) == 0, ..FINE };
            ring.set(node, standing);
            all.insert(node, standing);
        }
        let hash = |node: &NodeId| {
            let hash: [u8; 32] =
                Sha256::new().chain_update(cluster().as_bytes()).chain_update(node.as_bytes()).finalize().into();
            u64::from_be_bytes(hash[..8].try_into().expect("eight bytes"))
        };
        let mut order: Vec<_> = all.keys().copied().collect();
        order.sort_by_key(|node| hash(node).wrapping_sub(hash(&member(0))));
        let first = |order: Vec<NodeId>| {
            let mut fine = 0;
            let enough = |node: &NodeId| {
                let go_on = fine < WATCHED;
                fine += usize::from(!all[node].suspect);
                go_on
            };
            order.into_iter().take_while(enough).take(WATCHED_MAX).collect::<Vec<_>>()
        };
        assert_eq!(ring.watched(), first(order.clone()));
        order.reverse();
        assert_eq!(ring.watchers(), first(order.clone()));
    }
}

#[test]
fn each_of_the_watched_is_probed_in_turn_and_nobody_else() {
    let mut now = Instant::now();
    let mut detector = detector(1, 20, now);
    let watched = detector.watched().to_vec();
    assert_eq!(watched.len(), WATCHED);
    let end = now + PROBE * 30;
    let mut probed: BTreeMap<NodeId, Vec<Instant>> = BTreeMap::new();
    for (at, output) in run(&mut detector, &mut now, end, acks) {
        match output {
            Output::Send { to, probe: Probe::Ping { .. } } => probed.entry(to).or_default().push(at),
            Output::Answered(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(probed.keys().all(|node| watched.contains(node)));
    for times in probed.values() {
        assert_eq!(times.len(), 10);
        assert!(times.windows(2).all(|two| two[1] - two[0] == PROBE * 3));
    }
}

#[test]
fn whoever_does_not_answer_is_asked_for_and_then_missed() {
    let mut now = Instant::now();
    let mut detector = detector(2, 8, now);
    detector.handle_input(Input::Member { node: member(8), standing: Some(Standing { gateway: true, ..FINE }) }, now);
    detector.handle_input(Input::LinkUp(member(8)), now);
    settle(&mut detector, now);
    let end = now + PROBE + ms(1_100);
    let said = run(&mut detector, &mut now, end, nacks);
    let Some((start, target)) = said.iter().find_map(|(at, o)| match o {
        Output::Send { to, probe: Probe::Ping { .. } } => Some((*at, *to)),
        _ => None,
    }) else {
        panic!("no probe");
    };
    let asked: BTreeSet<_> = said
        .iter()
        .filter_map(|(at, o)| match o {
            Output::Send { to, probe: Probe::PingFor { target: t, .. } } if *t == target => Some((*at - start, *to)),
            _ => None,
        })
        .collect();
    assert_eq!(asked.len(), RELAYS);
    assert!(asked.iter().all(|(after, to)| *after == ANSWER && *to != target));
    assert!(target == member(8) || asked.iter().any(|(_, to)| *to == member(8)), "gateways first");
    assert!(said.contains(&(start + ANSWER * 2, Output::Missed(target))));
    assert_eq!(detector.health(), 1, "the others were heard");
}

#[test]
fn one_answer_by_any_way_is_enough() {
    for (seed, late) in [(1, false), (2, true)] {
        let mut now = Instant::now();
        let mut detector = detector(seed, 8, now);
        let end = now + PROBE * 20;
        let mut pinged = BTreeMap::new();
        let answers = |_: NodeId, probe| match probe {
            Probe::Ping { nonce } => {
                pinged.insert(nonce, ());
                None
            }
            Probe::PingFor { nonce, .. } if !late => Some(Probe::Ack { nonce }),
            _ => None,
        };
        if late {
            // The direct answer comes only after others were asked.
            let mut waiting = Vec::new();
            while now < end {
                for output in outputs(&mut detector) {
                    match output {
                        Output::Send { to, probe: Probe::Ping { nonce } } => waiting.push((now + ms(900), to, nonce)),
                        Output::Missed(_) | Output::Doubted(_) => panic!("{output:?}"),
                        _ => {}
                    }
                }
                now += ms(50);
                for (_, from, nonce) in waiting.extract_if(.., |(at, ..)| *at <= now) {
                    detector.handle_input(Input::Probe { from, probe: Probe::Ack { nonce } }, now);
                }
                detector.handle_timeout(now);
            }
        } else {
            let said = run(&mut detector, &mut now, end, answers);
            assert!(said.iter().all(|(_, o)| matches!(o, Output::Send { .. } | Output::Answered(_))));
            assert!(said.iter().filter(|(_, o)| matches!(o, Output::Answered(_))).count() >= 18);
        }
    }
}

#[test]
fn who_cannot_be_pinged_is_asked_for_at_once() {
    let mut now = Instant::now();
    let mut detector = detector(3, 3, now);
    let hidden = member(9);
    let standing = Standing { dialable: false, ..FINE };
    detector.handle_input(Input::Member { node: hidden, standing: Some(standing) }, now);
    let end = now + PROBE * 10;
    let said = run(&mut detector, &mut now, end, acks);
    let to_hidden = |o: &Output| matches!(o, Output::Send { to, .. } if *to == hidden);
    assert!(!said.iter().any(|(_, o)| to_hidden(o)));
    detector.handle_input(Input::Suspected(hidden), now);
    let asked = outputs(&mut detector);
    assert_eq!(asked.len(), RELAYS);
    assert!(
        asked
            .iter()
            .all(|o| matches!(o, Output::Send { probe: Probe::PingFor { target, .. }, .. } if *target == hidden))
    );
}

#[test]
fn a_suspicion_is_looked_into_by_those_whom_it_concerns() {
    let now = Instant::now();
    let mut detector = detector(4, 20, now);
    let near = detector.watched()[1];
    let far = (1..=20).map(member).find(|n| !detector.is_neighbour(n)).expect("somebody is far away");
    detector.handle_input(Input::Suspected(near), now);
    let sent = outputs(&mut detector);
    assert_eq!(sent.len(), 1 + RELAYS, "directly and by way of others at once");
    detector.handle_input(Input::Suspected(near), now);
    assert!(outputs(&mut detector).is_empty(), "that is under way");
    detector.handle_input(Input::Suspected(far), now);
    assert!(matches!(outputs(&mut detector)[..], [Output::Send { to, probe: Probe::Ping { .. } }] if to == far));
    detector.handle_input(Input::LinkDown(far), now);
    detector.handle_input(Input::Suspected(member(77)), now);
    assert!(outputs(&mut detector).is_empty(), "unknown");

    detector.handle_timeout(now + URGENT_ANSWER);
    let said = outputs(&mut detector);
    assert!(said.contains(&Output::Missed(near)));
    assert!(said.contains(&Output::Doubted(far)));
    detector.handle_input(Input::Suspected(far), now + URGENT_ANSWER);
    assert!(outputs(&mut detector).is_empty(), "neither a neighbour nor connected");
}

#[test]
fn a_relay_pings_and_says_so_in_time_and_no_more_than_it_may() {
    let now = Instant::now();
    let mut detector = detector(5, 8, now);
    let (asker, target) = (member(1), member(2));
    let ask = |detector: &mut Detector, asker, nonce, target| {
        detector.handle_input(Input::Probe { from: asker, probe: Probe::PingFor { nonce, target } }, now);
        outputs(detector)
    };
    let [Output::Send { to, probe: Probe::Ping { nonce } }] = ask(&mut detector, asker, 70, target)[..] else {
        panic!("a ping");
    };
    assert_eq!(to, target);
    let ack = Probe::Ack { nonce };
    detector.handle_input(Input::Probe { from: member(3), probe: ack }, now);
    assert!(outputs(&mut detector).is_empty(), "only the target can answer");
    detector.handle_input(Input::Probe { from: target, probe: ack }, now);
    assert_eq!(outputs(&mut detector), [Output::Send { to: asker, probe: Probe::Ack { nonce: 70 } }]);
    detector.handle_input(Input::Probe { from: target, probe: ack }, now);
    assert!(outputs(&mut detector).is_empty(), "once");

    let to_asker = |probe| [Output::Send { to: asker, probe }];
    assert_eq!(ask(&mut detector, asker, 71, member(0)), to_asker(Probe::Ack { nonce: 71 }), "itself");
    assert_eq!(ask(&mut detector, asker, 72, member(99)), to_asker(Probe::Unable { nonce: 72 }), "unknown");
    for nonce in 0..RELAYED_PER_PEER as u64 {
        assert!(matches!(ask(&mut detector, asker, nonce, target)[..], [Output::Send { to, .. }] if to == target));
    }
    assert_eq!(ask(&mut detector, asker, 73, target), to_asker(Probe::Unable { nonce: 73 }), "enough for now");
    assert!(matches!(ask(&mut detector, member(4), 1, target)[..], [Output::Send { to, .. }] if to == target));
    detector.handle_timeout(now + NACK_AFTER);
    let nacks = outputs(&mut detector);
    let nacked = |o: &&Output| matches!(o, Output::Send { probe: Probe::Nack { .. }, .. });
    assert_eq!(nacks.iter().filter(nacked).count(), RELAYED_PER_PEER + 1);
    assert!(detector.relayed.is_empty());
}

#[test]
fn whoever_hears_nobody_doubts_itself() {
    let mut now = Instant::now();
    let mut detector = detector(6, 8, now);
    let end = now + PROBE * 60;
    run(&mut detector, &mut now, end, |_, _| None);
    assert_eq!(detector.health(), HEALTH_MAX);
    let end = now + PROBE * 20;
    run(&mut detector, &mut now, end, acks);
    assert_eq!(detector.health(), 1, "until it is answered");
    detector.handle_input(Input::Accused, now);
    assert_eq!(detector.health(), 2, "others do not hear it");
}

#[test]
fn whoever_is_slow_doubts_itself_before_others() {
    let mut now = Instant::now();
    let mut detector = detector(9, 8, now);
    assert_eq!(
        Detector::new(Config { me: member(0), cluster: cluster(), probe: PROBE, settled: None, seed: 1 }, now).health(),
        8
    );
    let end = now + PROBE + ms(300);
    run(&mut detector, &mut now, end, |_, _| None);
    let due = detector.poll_timeout().expect("a probe is under way").0;
    now = due + SLOW;
    detector.wake(now);
    assert_eq!(detector.health(), 1, "on time");
    now = due + ms(600);
    for _ in 0..3 {
        detector.wake(now);
    }
    assert_eq!(detector.health(), 4, "by its lateness, once");
    detector.handle_timeout(now);
    assert!(!outputs(&mut detector).iter().any(|o| matches!(o, Output::Missed(_) | Output::Awake)));
    assert!(detector.pending.values().any(|p| p.extended));
}

#[test]
fn a_silence_says_nothing_over_a_young_connection() {
    let mut now = Instant::now();
    let mut detector = detector(10, 3, now);
    for i in 1..=3 {
        detector.handle_input(Input::LinkUp(member(i)), now);
    }
    let end = now + LINK_SETTLES - ms(100);
    let missed = |said: &[(Instant, Output)]| said.iter().any(|(_, o)| matches!(o, Output::Missed(_)));
    assert!(!missed(&run(&mut detector, &mut now, end, nacks)));
    let end = now + PROBE * 4;
    assert!(missed(&run(&mut detector, &mut now, end, nacks)));
}

#[test]
fn whom_nobody_could_ping_is_missed_only_after_long() {
    let unable = |_, probe| match probe {
        Probe::PingFor { nonce, .. } => Some(Probe::Unable { nonce }),
        Probe::Ping { nonce } => Some(Probe::Ack { nonce }),
        _ => None,
    };
    let behind_nat = Standing { dialable: false, ..FINE };
    // (what the relays answer, whether that says anything of the target)
    type Relay = fn(NodeId, Probe) -> Option<Probe>;
    let nacking: Relay =
        |to, probe| if matches!(probe, Probe::Ping { .. }) { acks(to, probe) } else { nacks(to, probe) };
    for (relays, says) in [(unable as Relay, false), (nacking, true)] {
        let mut now = Instant::now();
        let mut detector = detector(3, 4, now);
        let target = detector.watched()[0];
        detector.handle_input(Input::Member { node: target, standing: Some(behind_nat) }, now);
        detector.handle_input(Input::LinkDown(target), now);
        let missed = |said: &[(Instant, Output)]| said.iter().any(|(_, o)| *o == Output::Missed(target));
        let end = now + UNREACHED_MAX / 2;
        assert_eq!(missed(&run(&mut detector, &mut now, end, relays)), says);
        let end = now + UNREACHED_MAX * 2;
        assert!(missed(&run(&mut detector, &mut now, end, relays)), "it may be gone");
        assert!(
            run(&mut detector, &mut now, end + PROBE * 9, acks).iter().any(|(_, o)| *o == Output::Answered(target))
        );
        assert!(detector.unreached.is_empty());
    }
}

#[test]
fn whoever_slept_and_hears_nobody_trusts_itself_in_the_end() {
    let mut now = Instant::now();
    let mut detector = detector(7, 1, now);
    now += Duration::from_secs(10);
    detector.wake(now);
    let woke = now;
    let said = run(&mut detector, &mut now, woke + DEAF_MAX + PROBE * 9, |_, _| None);
    let missed = said.iter().find(|(_, o)| matches!(o, Output::Missed(_))).expect("the only other one is gone").0;
    assert!(missed > woke + DEAF_MAX);
}

#[test]
fn whoever_slept_misses_nobody_until_somebody_has_answered() {
    let mut now = Instant::now();
    let mut detector = detector(7, 8, now);
    let end = now + PROBE + ms(300);
    run(&mut detector, &mut now, end, |_, _| None);
    assert!(!detector.pending.is_empty());
    let old: Vec<_> = detector.pending.iter().map(|(nonce, p)| (*nonce, p.target)).collect();
    detector.wake(now);
    assert!(outputs(&mut detector).is_empty(), "in time");

    now += Duration::from_secs(10);
    detector.wake(now);
    assert_eq!(outputs(&mut detector), [Output::Awake]);
    detector.handle_timeout(now);
    let end = now + PROBE * 20;
    let said = run(&mut detector, &mut now, end, nacks);
    assert!(said.iter().all(|(_, o)| matches!(o, Output::Send { .. })), "{said:?}");
    for (nonce, from) in old {
        detector.handle_input(Input::Probe { from, probe: Probe::Ack { nonce } }, now);
    }
    assert!(detector.is_sceptical(), "answers from before its sleep prove nothing");
    let end = now + PROBE * 3;
    let mut answers = 0;
    let said = run(&mut detector, &mut now, end, |to, probe| {
        answers += 1;
        if answers == 1 { acks(to, probe) } else { nacks(to, probe) }
    });
    let trusted = said.iter().position(|(_, o)| *o == Output::Trusted).expect("trusted again");
    let missed = said.iter().position(|(_, o)| matches!(o, Output::Missed(_))).expect("missed");
    assert!(trusted < missed);
}

#[test]
fn whoever_hears_nobody_misses_nobody_for_a_while() {
    let mut now = Instant::now();
    let mut detector = detector(9, 8, now);
    let end = now + PROBE * 5;
    run(&mut detector, &mut now, end, acks);
    let dark = now;
    let end = now + Duration::from_secs(20);
    let said = run(&mut detector, &mut now, end, |_, _| None);
    let doubt = said.iter().find(|(_, o)| *o == Output::Awake).expect("it doubts itself").0;
    assert!(doubt < dark + PROBE * 5, "{:?}", doubt - dark);
    assert!(said.iter().all(|(at, o)| *at <= doubt || matches!(o, Output::Send { .. })), "{said:?}");
    let end = now + PROBE * 2;
    let said = run(&mut detector, &mut now, end, acks);
    assert!(said.iter().any(|(_, o)| *o == Output::Trusted) && !detector.is_sceptical());

    let dark = now;
    let end = now + DEAF_MAX + PROBE * 20;
    let said = run(&mut detector, &mut now, end, |_, _| None);
    let missed = said.iter().rfind(|(_, o)| matches!(o, Output::Missed(_))).expect("a last survivor").0;
    assert!(missed > dark + DEAF_MAX && !detector.is_sceptical());
}

#[test]
fn whoever_is_gone_is_not_probed_any_more() {
    let now = Instant::now();
    let mut detector = detector(8, 8, now);
    let node = detector.watched()[0];
    detector.handle_input(Input::Suspected(node), now);
    detector.handle_input(Input::Member { node, standing: None }, now);
    outputs(&mut detector);
    detector.handle_timeout(now + URGENT_ANSWER);
    assert!(!outputs(&mut detector).contains(&Output::Missed(node)));
    assert!(detector.under_way.is_empty() || !detector.under_way.contains_key(&node));
    assert!(!detector.watched().contains(&node));
}

/// What an observer knows of the probes that a detector sends.
struct Observer {
    /// By nonce: whom, since when, and who was asked.
    began: BTreeMap<u64, (NodeId, Instant, BTreeSet<NodeId>)>,
    here: BTreeSet<NodeId>,
    trusted: bool,
}

impl Observer {
    fn note(&mut self, detector: &mut Detector, now: Instant, at: &str) {
        for output in outputs(detector) {
            match output {
                Output::Send { to, probe: Probe::Ping { nonce } } => {
                    self.began.entry(nonce).or_insert((to, now, BTreeSet::new()));
                }
                Output::Send { to, probe: Probe::PingFor { nonce, target } } => {
                    let asked = &mut self.began.entry(nonce).or_insert((target, now, BTreeSet::new())).2;
                    asked.insert(to);
                    assert!(asked.len() <= RELAYS && to != target, "{at}");
                }
                Output::Send { .. } => {}
                Output::Missed(node) | Output::Doubted(node) => {
                    assert!(detector.links.get(&node).is_none_or(|link| now - link.since >= LINK_SETTLES), "{at}");
                    assert!(self.trusted && self.here.contains(&node), "{at}");
                    // Where there was nobody to ask, nothing was sent.
                    if let Some((_, since, _)) = self.take(node) {
                        assert!(now - since >= URGENT_ANSWER.min(ANSWER), "{at}");
                    }
                }
                Output::Answered(node) => assert!(self.take(node).is_some(), "{at}"),
                Output::Awake => {
                    self.trusted = false;
                    self.began.clear();
                }
                Output::Trusted => self.trusted = true,
            }
        }
        // Silences that could not be reported.
        let fresh = |node: &NodeId| detector.links.get(node).is_some_and(|link| now - link.since < LINK_SETTLES);
        let trusted = self.trusted;
        let reached = |node: &NodeId| !detector.unreached.contains_key(node);
        self.began.retain(|nonce, (node, ..)| {
            (trusted && !fresh(node) && reached(node)) || detector.pending.contains_key(nonce)
        });
        assert!(self.began.keys().all(|nonce| detector.pending.contains_key(nonce)), "{at}");
        assert!(detector.pending.len() <= self.here.len(), "one for each at most, {at}");
        assert_eq!(detector.pending.len(), detector.under_way.len(), "{at}");
        assert_eq!(self.trusted, !detector.is_sceptical(), "{at}");
    }

    fn take(&mut self, node: NodeId) -> Option<(NodeId, Instant, BTreeSet<NodeId>)> {
        let nonce = *self.began.iter().find(|(_, (target, ..))| *target == node)?.0;
        self.began.remove(&nonce)
    }
}

/// Whatever happens: a silence is reported only after its full time without any answer, once, and an answer as it comes.
#[test]
fn no_silence_is_reported_that_was_none() {
    let zero = Instant::now();
    let (mut answers, mut silences) = (0, 0);
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut detector = detector(seed, 10, zero);
        let here = (1..=10).map(member).collect();
        let mut observer = Observer { began: BTreeMap::new(), here, trusted: true };
        let mut now = zero;
        for step in 0..400 {
            let at = format!("seed {seed}, step {step}");
            now += if rng.below(60) == 0 { ms(2_500) } else { rng.up_to(ms(150)) };
            detector.wake(now);
            detector.handle_timeout(now);
            silences += detector.outputs.iter().filter(|o| matches!(o, Output::Missed(_) | Output::Doubted(_))).count();
            observer.note(&mut detector, now, &at);
            let node = member(1 + rng.below(10) as u64);
            match rng.below(12) {
                0 => {
                    let standing = Standing { suspect: rng.below(3) == 0, dialable: rng.below(4) > 0, ..FINE };
                    detector.handle_input(Input::Member { node, standing: Some(standing) }, now);
                    observer.here.insert(node);
                }
                1 => {
                    detector.handle_input(Input::Member { node, standing: None }, now);
                    observer.here.remove(&node);
                    observer.take(node);
                }
                2 => detector.handle_input(Input::LinkUp(node), now),
                3 => detector.handle_input(Input::LinkDown(node), now),
                4 => detector.handle_input(Input::Suspected(node), now),
                5 => detector.handle_input(Input::Lost(node), now),
                6 => detector.handle_input(Input::Accused, now),
                7..=9 => {
                    let open: Vec<_> = observer.began.keys().copied().collect();
                    let nonce = rng.pick(&open).unwrap_or(7);
                    let may =
                        observer.began.get(&nonce).is_some_and(|(t, _, asked)| *t == node || asked.contains(&node));
                    let ack = rng.below(2) == 0;
                    let probe = if ack { Probe::Ack { nonce } } else { Probe::Nack { nonce } };
                    detector.handle_input(Input::Probe { from: node, probe }, now);
                    let answered = detector.outputs.iter().any(|o| matches!(o, Output::Answered(_)));
                    assert_eq!(answered, ack && may, "{at}");
                    answers += usize::from(answered);
                }
                _ => {}
            }
            observer.note(&mut detector, now, &at);
            assert!((1..=HEALTH_MAX).contains(&detector.health()));
            assert!(detector.poll_timeout().is_some_and(|(due, _)| due > now), "{at}");
        }
    }
    assert!(answers > 500 && silences > 500, "{answers} answers, {silences} silences");
}
