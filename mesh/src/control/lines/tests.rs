//! Lines between swarms on 127.0.0.1.

use std::time::Duration;

use futures::StreamExt as _;
use libp2p::{Swarm, SwarmBuilder, multiaddr::Protocol, noise, swarm::SwarmEvent, tcp, yamux};
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(10);

struct End {
    swarm: Swarm<Behaviour>,
    traffic: Arc<Traffic>,
}

impl End {
    async fn new(protocol: &'static str) -> Self {
        let traffic = Arc::<Traffic>::default();
        let behaviour = Behaviour::new(StreamProtocol::new(protocol), Arc::clone(&traffic));
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
            .expect("TCP")
            .with_behaviour(|_| behaviour)
            .expect("lines")
            .build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).expect("a free port");
        while !matches!(swarm.select_next_some().await, SwarmEvent::NewListenAddr { .. }) {}
        Self { swarm, traffic }
    }

    fn address(&self) -> Vec<Multiaddr> {
        self.swarm.listeners().cloned().map(|a| a.with(Protocol::P2p(*self.swarm.local_peer_id()))).collect()
    }

    fn send(&mut self, to: &Self, message: Vec<u8>) {
        let (peer, at) = (*to.swarm.local_peer_id(), to.address());
        self.swarm.behaviour_mut().send(peer, message, || at);
    }

    async fn event(&mut self) -> Event {
        loop {
            if let SwarmEvent::Behaviour(event) = self.swarm.select_next_some().await {
                return event;
            }
        }
    }
}

/// The next event of `of` while the other end runs too.
async fn event(of: &mut End, other: &mut End) -> Event {
    let both = async {
        tokio::select! {
            event = of.event() => event,
            event = async { loop { other.event().await; } } => event,
        }
    };
    timeout(SOON, both).await.expect("in time")
}

async fn message(of: &mut End, other: &mut End) -> Vec<u8> {
    match event(of, other).await {
        Event::Received { peer, bytes } => {
            assert_eq!(peer, *other.swarm.local_peer_id());
            bytes
        }
        broken @ Event::Broken { .. } => panic!("{broken:?}"),
    }
}

#[tokio::test]
async fn messages_arrive_in_order_on_one_substream_each_way() {
    let (mut a, mut b) = (End::new("/line").await, End::new("/line").await);
    let sizes = [1, 2, 200, FRAME_BYTES_MAX, 3];
    for (i, size) in sizes.into_iter().enumerate() {
        a.send(&b, vec![i as u8; size]);
    }
    for (i, size) in sizes.into_iter().enumerate() {
        assert_eq!(message(&mut b, &mut a).await, vec![i as u8; size]);
    }
    b.send(&a, vec![7]);
    assert_eq!(message(&mut a, &mut b).await, [7]);
    assert_eq!(a.swarm.network_info().num_peers(), 1, "b answered on the connection that a made");
    let (sent, received) = (a.traffic.now(), b.traffic.now());
    assert_eq!((sent.sent, sent.dropped, sent.reopened), (5, 0, 0));
    assert_eq!((received.received, received.received_bytes), (5, sent.sent_bytes));
}

#[tokio::test]
async fn a_peer_without_lines_is_told() {
    let (mut a, mut b) = (End::new("/line").await, End::new("/another").await);
    a.send(&b, vec![1]);
    let Event::Broken { peer, .. } = event(&mut a, &mut b).await else { panic!("nothing else comes") };
    assert_eq!(peer, *b.swarm.local_peer_id());
}

#[tokio::test]
async fn a_peer_that_does_not_read_costs_its_queue_and_nobody_else() {
    let (mut a, mut b) = (End::new("/line").await, End::new("/line").await);
    let (mut stuck, mut end) = (End::new("/line").await, 0);
    a.send(&stuck, vec![1]);
    assert_eq!(message(&mut stuck, &mut a).await, [1]);
    // its swarm is not polled from here on: its task may hold some messages, and the sockets
    while a.traffic.now().dropped == 0 {
        a.send(&stuck, vec![0; FRAME_BYTES_MAX]);
        end += 1;
        assert!(end < 10_000, "{:?}", a.traffic.now());
    }
    a.send(&b, vec![2]);
    assert_eq!(message(&mut b, &mut a).await, [2]);
}

#[tokio::test]
async fn what_is_for_a_peer_that_cannot_be_reached_is_dropped() {
    let (mut a, b) = (End::new("/line").await, End::new("/line").await);
    let (gone, at) = (*b.swarm.local_peer_id(), b.address());
    drop(b);
    for i in 0..WAITING_FRAMES_MAX + 1 {
        a.swarm.behaviour_mut().send(gone, vec![i as u8 + 1], || at.clone());
    }
    assert_eq!(a.traffic.now().dropped, 1, "what waits is bounded");
    let failed =
        async { while !matches!(a.swarm.select_next_some().await, SwarmEvent::OutgoingConnectionError { .. }) {} };
    timeout(SOON, failed).await.expect("in time");
    assert_eq!(a.traffic.now().dropped as usize, WAITING_FRAMES_MAX + 1);
}
