//! Who leads, in five real processes: a leader that is killed, hangs, or has led for long enough is followed by one that
//! all name, and what a node once believed outlives its process.

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::{Folder, PATIENCE, Paceline, eventually, get};
use serde_json::Value;

/// Marks are for a quiet machine; this is what a loaded one may take.
const KILLED_MAX: Duration = Duration::from_secs(3);
const HUNG_MAX: Duration = Duration::from_secs(8);
/// Between two summaries: for no longer are two leaders named.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Between two looks at a node.
const LOOK: Duration = Duration::from_millis(10);

/// Who leads, as one node says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Word {
    term: u64,
    leader: String,
}

fn cluster(node: &Paceline) -> Value {
    get(&format!("{}/cluster", node.local_http())).expect("the local API").json()
}

fn word(node: &Paceline) -> Option<Word> {
    let said = cluster(node);
    Some(Word { term: said["term"].as_u64()?, leader: said["leader"].as_str()?.to_owned() })
}

/// Looks at nodes, and remembers for how long they named more than one leader at most.
#[derive(Default)]
struct Watch {
    split_since: Option<Instant>,
    split_max: Duration,
}

impl Watch {
    /// What all nodes say, where they say the same.
    fn look(&mut self, nodes: &[&Paceline]) -> Option<Word> {
        let words: Vec<_> = nodes.iter().map(|node| word(node)).collect();
        let leaders: BTreeSet<_> = words.iter().flatten().map(|word| &word.leader).collect();
        if leaders.len() > 1 {
            let since = *self.split_since.get_or_insert_with(Instant::now);
            self.split_max = self.split_max.max(since.elapsed());
        } else {
            self.split_since = None;
        }
        let first = words.first()?.clone()?;
        words.iter().all(|word| word.as_ref() == Some(&first)).then_some(first)
    }

    /// Waits until all say the same and it fits; says what, and how long that took.
    fn until(
        &mut self,
        what: &str,
        nodes: &[&Paceline],
        within: Duration,
        fits: impl Fn(&Word) -> bool,
    ) -> (Word, Duration) {
        let start = Instant::now();
        loop {
            if let Some(word) = self.look(nodes).filter(&fits) {
                return (word, start.elapsed());
            }
            let words: Vec<_> = nodes.iter().map(|node| word(node)).collect();
            assert!(start.elapsed() < within, "not within {within:?}: {what}; they say {words:?}");
            std::thread::sleep(LOOK);
        }
    }
}

/// A founder with a gateway and four workers, `n0` to `n4`.
struct Five {
    nodes: Vec<Paceline>,
    args: Vec<String>,
}

fn name(i: usize) -> String {
    format!("n{i}")
}

impl Five {
    fn start(folder: &Folder, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let all = |mut own: Vec<String>| {
            own.extend(args.iter().cloned());
            own
        };
        let start = |command, i: usize, own: Vec<String>| {
            let own = all(own);
            let own: Vec<&str> = own.iter().map(String::as_str).collect();
            Paceline::spawn(command, &folder.path(&name(i)), &own)
        };
        let founder = start("up", 0, vec!["--name".into(), name(0)]).ready();
        let token = founder.join_token();
        let workers: Vec<_> =
            (1..5).map(|i| start("node", i, vec!["--name".into(), name(i), "--join".into(), token.clone()])).collect();
        let mut nodes = vec![founder];
        nodes.extend(workers.into_iter().map(Paceline::ready));
        let five = Self { nodes, args };
        let [founder, ..] = five.nodes.as_slice() else { panic!("five") };
        for node in &five.nodes {
            eventually("everybody sees everybody", PATIENCE, || (cluster(node)["healthy"] == 5).then_some(()));
        }
        // two summaries later everybody knows who follows
        let number = || cluster(founder)["seq"].as_u64();
        let first = eventually("a summary", PATIENCE, number);
        eventually("two more", PATIENCE, || number().filter(|seq| *seq >= first + 2));
        five
    }

    fn all(&self) -> Vec<&Paceline> {
        self.nodes.iter().collect()
    }

    fn but(&self, leader: &str) -> Vec<&Paceline> {
        self.nodes.iter().enumerate().filter(|(i, _)| name(*i) != leader).map(|(_, node)| node).collect()
    }

    fn place(leader: &str) -> usize {
        (0..5).find(|i| name(*i) == leader).expect("one of the five")
    }

    /// Starts a node again that has ended.
    fn again(&self, folder: &Folder, i: usize) -> Paceline {
        let name = name(i);
        let mut own = vec!["--name", &name];
        own.extend(self.args.iter().map(String::as_str));
        Paceline::start(if i == 0 { "up" } else { "node" }, &folder.path(&name), &own)
    }
}

#[test]
fn a_killed_leader_is_followed_by_one_that_all_name() {
    let folder = Folder::new();
    let mut five = Five::start(&folder, &["--heartbeat", "2s"]);
    let mut watch = Watch::default();
    let (first, _) = watch.until("one leader", &five.all(), PATIENCE, |_| true);
    let place = Five::place(&first.leader);

    five.nodes.remove(place).kill();
    let others: Vec<&Paceline> = five.nodes.iter().collect();
    let (second, took) = watch.until("another leader", &others, KILLED_MAX, |word| word.leader != first.leader);
    eprintln!("a killed leader was replaced everywhere after {took:?}; two were named for {:?}", watch.split_max);
    assert_eq!(second.term, first.term, "the term goes on");
    assert!(watch.split_max < HEARTBEAT, "two were named for {:?}", watch.split_max);

    // it comes back, and follows
    let back = five.again(&folder, place);
    let mut all = others;
    all.push(&back);
    let mut watch = Watch::default();
    let (third, _) = watch.until("one leader again", &all, PATIENCE, |_| true);
    assert_eq!(third, second, "whoever comes back follows");
}

#[test]
fn a_hung_leader_is_replaced_and_yields_when_it_goes_on() {
    let folder = Folder::new();
    let five = Five::start(&folder, &["--heartbeat", "2s"]);
    let mut watch = Watch::default();
    let (first, _) = watch.until("one leader", &five.all(), PATIENCE, |_| true);
    let hung = &five.nodes[Five::place(&first.leader)];

    hung.signal("-STOP");
    let (second, took) =
        watch.until("another leader", &five.but(&first.leader), HUNG_MAX, |word| word.leader != first.leader);
    eprintln!("a hung leader was replaced everywhere after {took:?}");

    hung.signal("-CONT");
    let (last, took) = watch.until("one leader again", &five.all(), PATIENCE, |_| true);
    eprintln!("it yielded after {took:?}; two were named for {:?}", watch.split_max);
    assert_eq!(last, second);
    assert!(watch.split_max < HEARTBEAT, "two were named for {:?}", watch.split_max);
}

#[test]
fn the_lead_goes_round_by_term_and_is_not_forgotten() {
    let folder = Folder::new();
    let five = Five::start(&folder, &["--term", "2s", "--heartbeat", "1s"]);
    let mut watch = Watch::default();
    let (mut last, _) = watch.until("one leader", &five.all(), PATIENCE, |_| true);
    let mut leaders = BTreeSet::from([last.leader.clone()]);
    for _ in 0..4 {
        let (next, _) = watch.until("the next term", &five.all(), PATIENCE, |word| word.term > last.term);
        leaders.insert(next.leader.clone());
        last = next;
    }
    assert!(leaders.len() > 1, "{leaders:?} led for five terms");
    assert!(watch.split_max < Duration::from_secs(1), "two were named for {:?}", watch.split_max);

    let Five { nodes, args } = five;
    nodes.into_iter().for_each(|node| drop(node.kill()));
    let five = Five { nodes: Vec::new(), args };
    let alone = five.again(&folder, 2);
    // whoever led may be nobody that it knows as a member yet; its term is what counts
    let said = cluster(&alone);
    assert!(said["term"].as_u64().is_some_and(|term| term >= last.term), "{said} after {last:?}");
}
