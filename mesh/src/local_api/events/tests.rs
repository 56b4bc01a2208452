use std::{collections::BTreeMap, time::Instant};

use http_body_util::BodyExt as _;
use paceline_proto::{
    id::{ClusterId, CredentialHash, Incarnation, ManifestVersion, Roles, Site, WorkerName},
    manifest::{Manifest, WorkerType},
};
use serde_json::Value;

use super::*;

fn node(n: u16) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn member(n: u16, version: u64, state: MemberState) -> Arc<Member> {
    let name = WorkerName::new(&format!("n{n}")).unwrap();
    let manifest = Manifest {
        node: node(n),
        name: name.clone(),
        site: Site::default(),
        roles: Roles::default(),
        worker_type: WorkerType::Cpu,
        incarnation: Incarnation(1),
        version: ManifestVersion(version),
        instance: 1,
        started_unix_ms: 0,
        mesh_addresses: Vec::new(),
        data_addresses: Vec::new(),
        services: Vec::new(),
        labels: BTreeMap::new(),
        capabilities: BTreeMap::new(),
        credential: CredentialHash::from_bytes([0; 32]),
        draining: false,
        dialable: true,
        sink: false,
        software: String::new(),
    };
    let now = Instant::now();
    let roles = Roles::default();
    Arc::new(Member { manifest: Arc::new(manifest), name, roles, state, since: now, last_seen: now, connected: true })
}

fn view(generation: u64, members: impl IntoIterator<Item = Arc<Member>>) -> Arc<ClusterView> {
    Arc::new(ClusterView {
        generation,
        cluster: ClusterId::from_bytes([7; 32]),
        me: node(0),
        leadership: Leadership::default(),
        members: members.into_iter().map(|member| (member.manifest.node, member)).collect(),
        services: BTreeMap::new(),
    })
}

fn many(count: u16, version: u64) -> impl Iterator<Item = Arc<Member>> {
    (0..count).map(move |n| member(n, version, MemberState::Alive))
}

fn open(views: &watch::Sender<Arc<ClusterView>>) -> Feed {
    Feeds::new().open(views.subscribe(), CancellationToken::new()).unwrap()
}

/// The events of the next part that the reader is given.
async fn part(feed: &mut Feed) -> Option<Vec<Value>> {
    let bytes = feed.frame().await?.unwrap().into_data().unwrap();
    let text = std::str::from_utf8(&bytes).unwrap();
    let events = text.split_terminator("\n\n").filter_map(|event| event.strip_prefix("data: "));
    Some(events.map(|json| serde_json::from_str(json).unwrap()).collect())
}

async fn next(feed: &mut Feed) -> Value {
    let mut events = part(feed).await.unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

fn words(events: &[Value]) -> Vec<(&str, &str)> {
    events.iter().map(|event| (event["event"].as_str().unwrap_or(""), event["name"].as_str().unwrap_or(""))).collect()
}

#[tokio::test]
async fn a_reader_gets_what_is_believed_and_then_each_change() {
    let (views, _keep) = watch::channel(view(1, many(2, 1)));
    let mut feed = open(&views);
    let events = part(&mut feed).await.unwrap();
    assert_eq!(words(&events), [("snapshot", ""), ("alive", "n0"), ("alive", "n1"), ("live", "")]);
    assert_eq!((events[0]["members"].as_u64(), events[1]["version"].as_u64()), (Some(2), Some(1)));
    assert!(events[1]["at_us"].as_u64().is_some_and(|at| at > 1_600_000_000_000_000), "microseconds: {}", events[1]);

    let suspected = member(1, 1, MemberState::Suspect);
    views.send_replace(view(2, [member(0, 2, MemberState::Alive), suspected.clone()]));
    let events = [next(&mut feed).await, next(&mut feed).await];
    assert_eq!(words(&events), [("manifest", "n0"), ("suspect", "n1")]);
    assert_eq!((events[0]["version"].as_u64(), events[1]["generation"].as_u64()), (Some(2), Some(2)));

    let mut next_view = (*view(3, [suspected, member(2, 1, MemberState::Alive)])).clone();
    next_view.leadership = Leadership { leader: Some(node(2)), term: 4, takeovers: 1, ..Leadership::default() };
    views.send_replace(Arc::new(next_view));
    let events = [next(&mut feed).await, next(&mut feed).await, next(&mut feed).await];
    assert_eq!(words(&events), [("alive", "n2"), ("forgotten", "n0"), ("leader", "n2")]);
    assert_eq!((events[2]["term"].as_u64(), events[2]["takeovers"].as_u64()), (Some(4), Some(1)));
}

#[tokio::test]
async fn a_leader_is_told_again_when_its_name_is_known() {
    let (views, _keep) = watch::channel(view(1, many(1, 1)));
    let mut feed = open(&views);
    part(&mut feed).await.unwrap();
    for (generation, members) in [(2, 1), (3, 2)] {
        let mut next_view = (*view(generation, many(members, 1))).clone();
        // The same members, as the driver keeps them.
        next_view.members.entry(node(0)).and_modify(|member| *member = views.borrow().members[&node(0)].clone());
        next_view.leadership = Leadership { leader: Some(node(1)), term: 1, ..Leadership::default() };
        views.send_replace(Arc::new(next_view));
        if generation == 2 {
            let event = next(&mut feed).await;
            assert_eq!((&event["event"], event["name"].as_str()), (&Value::from("leader"), None));
        }
    }
    let events = [next(&mut feed).await, next(&mut feed).await];
    assert_eq!(words(&events), [("alive", "n1"), ("leader", "n1")]);
}

#[tokio::test]
async fn a_large_snapshot_comes_in_parts_and_is_whole() {
    let (views, _keep) = watch::channel(view(1, many(1000, 1)));
    let mut feed = open(&views);
    let mut names = std::collections::BTreeSet::new();
    loop {
        let events = part(&mut feed).await.unwrap();
        assert!(events.len() <= SNAPSHOT_STEP + 3);
        names.extend(events.iter().filter_map(|event| event["name"].as_str().map(str::to_owned)));
        if events.last().is_some_and(|event| event["event"] == "live") {
            break;
        }
    }
    assert_eq!(names.len(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_cut_and_told_and_then_disconnected() {
    let (views, _keep) = watch::channel(view(1, []));
    let disconnect = CancellationToken::new();
    let mut feed = Feeds::new().open(views.subscribe(), disconnect.clone()).unwrap();
    assert_eq!(part(&mut feed).await.unwrap().len(), 2, "snapshot and live");
    // One change more than there is room for.
    views.send_replace(view(2, many(u16::try_from(LAG_MAX + 1).unwrap(), 1)));
    let stalled = Instant::now();
    disconnect.cancelled().await;
    assert!(stalled.elapsed() < STALL, "the clock is the paused one");
    let mut events = Vec::new();
    while let Some(part) = part(&mut feed).await {
        events.extend(part);
    }
    assert_eq!(events.len(), LAG_MAX + 1);
    let last = events.last().unwrap();
    assert_eq!(last["event"], "end");
    assert!(last["reason"].as_str().is_some_and(|reason| reason.contains("slow")), "{last}");
}

#[tokio::test]
async fn readers_are_bounded_and_the_end_of_the_node_is_told() {
    let (views, keep) = watch::channel(view(1, []));
    drop(keep);
    let feeds = Feeds::new();
    let open = || feeds.open(views.subscribe(), CancellationToken::new());
    let mut all: Vec<Feed> = std::iter::from_fn(open).take(READERS_MAX + 1).collect();
    assert_eq!(all.len(), READERS_MAX);
    all.pop();
    let mut feed = open().unwrap();
    drop(views);
    assert_eq!(part(&mut feed).await.unwrap().len(), 2);
    assert_eq!(next(&mut feed).await["reason"], "this node stops");
    assert!(part(&mut feed).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_by_comments() {
    let (views, _keep) = watch::channel(view(1, []));
    let mut feed = open(&views);
    assert_eq!(part(&mut feed).await.unwrap().len(), 2);
    assert_eq!(part(&mut feed).await.unwrap(), Vec::<Value>::new(), "a comment is no event");
}
