use super::*;
use crate::services::{HealthCheck, Source};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

/// Tells what is offered; refuses one name.
struct Told(mpsc::Sender<Vec<Service>>, Option<&'static str>);

impl Offers for Told {
    fn offer(&self, services: Vec<Service>) -> Result<(), ManifestError> {
        if let Some(refused) = services.iter().find(|s| Some(s.name.as_str()) == self.1) {
            return Err(ManifestError::NotGranted(refused.name.clone()));
        }
        self.0.try_send(services).ok();
        Ok(())
    }
}

struct Offered(mpsc::Receiver<Vec<Service>>);

impl Offered {
    /// The next list, as `name: health`.
    async fn next(&mut self) -> Vec<(String, Health)> {
        let told = timeout(Duration::from_secs(5), self.0.recv()).await.expect("told in time").expect("told");
        told.into_iter().map(|s| (s.name.to_string(), s.health)).collect()
    }

    fn is_silent(&mut self) -> bool {
        self.0.try_recv().is_err()
    }
}

fn told(refused: Option<&'static str>) -> (Told, Offered) {
    let (send, told) = mpsc::channel(64);
    (Told(send, refused), Offered(told))
}

async fn serve(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    }
}

async fn served(servers: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    servers.spawn(serve(listener));
    url
}

fn spec(name: &str, url: &str) -> ServiceSpec {
    let source = Source::Http { url: url.parse().unwrap(), health: HealthCheck::Path("/health".into()) };
    ServiceSpec::new(ServiceName::new(name).unwrap(), source, Origin::Flag)
}

fn list(expected: &[(&str, Health)]) -> Vec<(String, Health)> {
    expected.iter().map(|(name, health)| ((*name).to_owned(), *health)).collect()
}

#[tokio::test]
async fn the_first_advertisement_has_the_first_looks_and_changes_follow_at_once() {
    let mut servers = JoinSet::new();
    let up = served(&mut servers).await;
    let later = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let later_at = later.local_addr().unwrap();
    drop(later);
    let desk = Desk::new(1);
    desk.set(Origin::Flag, vec![spec("later", &format!("http://{later_at}")), spec("up", &up)]);
    let (offers, mut told) = told(None);
    desk.advertise(offers).await.unwrap();
    assert_eq!(told.next().await, list(&[("later", Health::Unhealthy), ("up", Health::Healthy)]));
    servers.spawn(serve(TcpListener::bind(later_at).await.unwrap()));
    assert_eq!(told.next().await, list(&[("later", Health::Healthy), ("up", Health::Healthy)]));
    assert!(told.is_silent(), "told only of changes");
    desk.close();
    assert_eq!(told.0.recv().await, None, "closing ends the task");
}

#[tokio::test]
async fn a_hanging_service_does_not_delay_the_first_advertisement() {
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", hanging.local_addr().unwrap());
    let started = Instant::now();
    let desk = Desk::new(1);
    desk.set(Origin::Flag, vec![spec("h", &url)]);
    let (offers, mut told) = told(None);
    desk.advertise(offers).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(told.next().await, list(&[("h", Health::Unhealthy)]));
}

#[tokio::test]
async fn services_come_move_and_go_without_a_gap_for_the_others() {
    let mut servers = JoinSet::new();
    let (first, second) = (served(&mut servers).await, served(&mut servers).await);
    let desk = Desk::new(1);
    desk.set(Origin::Flag, vec![spec("a", &first)]);
    let (offers, mut told) = told(None);
    desk.advertise(offers).await.unwrap();
    assert_eq!(told.next().await, list(&[("a", Health::Healthy)]));
    desk.set(Origin::Detected, vec![spec("a", &second), spec("b", &second)]);
    assert_eq!(told.next().await, list(&[("a", Health::Healthy), ("b", Health::Healthy)]), "no word of an unseen b");
    let mut moved = spec("b", &first);
    moved.labels = BTreeMap::from([("k".into(), "v".into())]);
    desk.set(Origin::Detected, vec![moved.clone()]);
    assert_eq!(told.next().await, list(&[("a", Health::Healthy), ("b", Health::Healthy)]), "it moves as healthy");
    desk.set(Origin::Detected, vec![moved]);
    desk.set(Origin::Flag, Vec::new());
    assert_eq!(told.next().await, list(&[("b", Health::Healthy)]), "the same again is no change");
    desk.set(Origin::Detected, Vec::new());
    assert_eq!(told.next().await, []);
}

#[tokio::test]
async fn what_may_not_be_offered_is_the_users_fault_at_first_and_left_out_later() {
    let mut servers = JoinSet::new();
    let url = served(&mut servers).await;
    let desk = Desk::new(1);
    desk.set(Origin::Flag, vec![spec("secret", &url)]);
    let (offers, _) = told(Some("secret"));
    assert_eq!(desk.advertise(offers).await.unwrap_err().code(), 2);

    let desk = Desk::new(1);
    desk.set(Origin::Detected, vec![spec("a", &url), spec("secret", &url)]);
    let (offers, mut told) = told(Some("secret"));
    desk.advertise(offers).await.unwrap();
    assert_eq!(told.next().await, list(&[("a", Health::Healthy)]));
    desk.set(Origin::Config, vec![spec("b", &url), spec("secret", &url)]);
    assert_eq!(told.next().await, list(&[("a", Health::Healthy), ("b", Health::Healthy)]));
}

#[tokio::test]
async fn a_supervised_service_is_offered_once_it_has_been_well() {
    let mut servers = JoinSet::new();
    let later = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = later.local_addr().unwrap();
    drop(later);
    let desk = Desk::new(1);
    desk.set(Origin::Supervised, vec![spec("s", &format!("http://{at}"))]);
    let (offers, mut told) = told(None);
    desk.advertise(offers).await.unwrap();
    assert_eq!(told.next().await, []);
    servers.spawn(serve(TcpListener::bind(at).await.unwrap()));
    assert_eq!(told.next().await, list(&[("s", Health::Healthy)]));
}
