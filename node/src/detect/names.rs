//! Container host names to addresses, asked sparingly.
//!
//! A name that does not resolve is asked less and less, except inside a container, whose resolver knows the names of
//! its neighbours and answers from memory. At most [`LOOKUPS_MAX`] questions are under way, even where the system's
//! resolver hangs. A name is proof only while it leads to private addresses, and while a name that nobody has does not
//! resolve: some networks answer for every name.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

/// Most questions to the system's resolver at once.
const LOOKUPS_MAX: usize = 2;
/// How long a look waits for an answer; the question itself may hang longer, and counts as long as it does.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Until a name is asked again that resolved, or that a container's resolver does not know.
const PAUSE: Duration = Duration::from_secs(10);
/// The longest pause between two questions for a name that does not resolve.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Most addresses of one name.
const ADDRESSES_MAX: usize = 4;

/// Resolves a name; blocks.
pub type Resolve = Arc<dyn Fn(&str) -> Vec<IpAddr> + Send + Sync>;

/// The names and what they lead to.
pub(super) struct Names {
    resolve: Resolve,
    lookups: Arc<Semaphore>,
    known: Mutex<BTreeMap<String, Entry>>,
    /// A name that nobody has.
    nobody: String,
    pause_max: Duration,
}

#[derive(Clone)]
struct Entry {
    addresses: Vec<IpAddr>,
    again: Instant,
    pause: Duration,
}

impl Names {
    /// With the system's resolver unless another is given.
    pub(super) fn new(resolve: Option<Resolve>) -> Self {
        let pause_max = if in_container() { PAUSE } else { PAUSE_MAX };
        Self {
            resolve: resolve.unwrap_or_else(|| Arc::new(system)),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            known: Mutex::default(),
            nobody: format!("paceline-asks-for-nobody-{:08x}", rand::random::<u32>()),
            pause_max,
        }
    }

    /// The private addresses of a host name; empty where it has none, or where names prove nothing here.
    pub(super) async fn addresses(&self, host: &str, port: u16) -> Vec<SocketAddr> {
        self.addresses_at(host, port, Instant::now()).await
    }

    async fn addresses_at(&self, host: &str, port: u16, now: Instant) -> Vec<SocketAddr> {
        let addresses = self.lookup(host, now).await;
        if addresses.is_empty() {
            return Vec::new();
        }
        if !addresses.iter().all(is_private) {
            tracing::debug!(host, ?addresses, "a public address is no container's: not looked at");
            return Vec::new();
        }
        if !self.lookup(&self.nobody, now).await.is_empty() {
            tracing::debug!(host, "the resolver here answers for any name: a host name proves nothing");
            return Vec::new();
        }
        addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
    }

    async fn lookup(&self, host: &str, now: Instant) -> Vec<IpAddr> {
        let before = self.known().get(host).cloned();
        if let Some(entry) = before.as_ref().filter(|entry| entry.again > now) {
            return entry.addresses.clone();
        }
        // Where nothing was learned, what was known stays.
        let addresses = match (self.ask(host).await, &before) {
            (Some(addresses), _) => addresses,
            (None, Some(entry)) => entry.addresses.clone(),
            (None, None) => Vec::new(),
        };
        let pause = match (&before, addresses.is_empty()) {
            (_, false) | (None, true) => PAUSE,
            (Some(entry), true) => (entry.pause * 2).min(self.pause_max),
        };
        // The look is every PAUSE: a hair less, so that it does not fall just before.
        let again = now + pause - PAUSE / 10;
        self.known().insert(host.to_owned(), Entry { addresses: addresses.clone(), again, pause });
        addresses
    }

    /// `None` where the resolver is busy with earlier questions, or does not answer in time.
    async fn ask(&self, host: &str) -> Option<Vec<IpAddr>> {
        let answer = async {
            let permit = self.lookups.clone().acquire_owned().await.ok()?;
            let (resolve, host) = (self.resolve.clone(), host.to_owned());
            let asked = tokio::task::spawn_blocking(move || {
                // Given back when the question ends, not when somebody stops waiting for it.
                let _permit = permit;
                resolve(&host)
            });
            asked.await.ok()
        };
        timeout(TIMEOUT, answer).await.ok().flatten()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn system(host: &str) -> Vec<IpAddr> {
    let found = (host, 0).to_socket_addrs();
    let mut addresses: Vec<IpAddr> = found.into_iter().flatten().map(|a| a.ip()).take(ADDRESSES_MAX).collect();
    addresses.dedup();
    addresses
}

/// Whether this process runs in a container, whose network knows its neighbours by name.
pub(crate) fn in_container() -> bool {
    Path::new("/.dockerenv").exists()
        || Path::new("/run/.containerenv").exists()
        || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Loopback, RFC 1918, RFC 4193, and the shared space of RFC 6598.
fn is_private(ip: &IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_loopback() || ip.is_private() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(ip) => ip.is_loopback() || (ip.segments()[0] & 0xfe00) == 0xfc00,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn names(resolve: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static, pause_max: Duration) -> Names {
        Names { pause_max, ..Names::new(Some(Arc::new(resolve))) }
    }

    fn ip(text: &str) -> Vec<IpAddr> {
        vec![text.parse().unwrap()]
    }

    #[tokio::test]
    async fn private_addresses_prove_and_public_ones_do_not() {
        let names = names(
            |host| match host {
                "a" => ip("172.18.0.3"),
                "b" => ip("93.184.215.14"),
                "c" => ip("fd00::7"),
                _ => Vec::new(),
            },
            PAUSE_MAX,
        );
        assert_eq!(names.addresses("a", 80).await, ["172.18.0.3:80".parse().unwrap()]);
        assert_eq!(names.addresses("c", 80).await, ["[fd00::7]:80".parse().unwrap()]);
        assert!(names.addresses("b", 80).await.is_empty());
        assert!(names.addresses("none", 80).await.is_empty());
    }

    #[tokio::test]
    async fn where_any_name_resolves_none_is_proof() {
        let names = names(|_| ip("10.0.0.1"), PAUSE_MAX);
        assert!(names.addresses("upload-service", 80).await.is_empty());
    }

    #[tokio::test]
    async fn an_unknown_name_is_asked_less_and_less() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let names = names(
            move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                Vec::new()
            },
            PAUSE_MAX,
        );
        let start = Instant::now();
        for look in 0..360 {
            names.addresses_at("nobody", 80, start + look * PAUSE).await;
        }
        // 10, 20, 40, ... 300 s: about 15 questions in an hour.
        assert!((10..=20).contains(&asked.load(Ordering::SeqCst)), "{asked:?} questions in an hour");
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_holds_two_threads_and_no_more() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Mutex::new(held);
        let under_way = Arc::new(AtomicUsize::new(0));
        let count = under_way.clone();
        let names = names(
            move |_| {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = held.lock().unwrap_or_else(PoisonError::into_inner).recv();
                Vec::new()
            },
            PAUSE_MAX,
        );
        let all = ["a", "b", "c", "d", "e"].map(|host| names.addresses(host, 80));
        let started = Instant::now();
        assert!(futures::future::join_all(all).await.iter().all(Vec::is_empty));
        assert!(started.elapsed() < TIMEOUT * 2);
        assert_eq!(under_way.load(Ordering::SeqCst), LOOKUPS_MAX);
        drop(release);
    }
}
