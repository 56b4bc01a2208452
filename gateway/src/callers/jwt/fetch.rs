//! The JWK set of a URL: fetched at the start, from time to time, and when a token names a key that is not there; with
//! bounds, and never more often than every [`PAUSE`]. What cannot be fetched changes nothing.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use ureq::Agent;

use crate::lane::lock;

/// Between two fetches where nothing asks for one.
const FRESH_FOR: Duration = Duration::from_secs(600);
/// Between any two fetches.
const PAUSE: Duration = Duration::from_secs(30);
/// For a whole fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for one.
const WAIT: Duration = Duration::from_secs(3);
/// Most bytes of a set.
const SET_BYTES_MAX: u64 = 256 * 1024;

/// The fetches of one URL.
#[derive(Debug)]
pub(super) struct Fetches {
    url: http::Uri,
    agent: Agent,
    /// When the last one began.
    last: Mutex<Option<Instant>>,
    wanted: Notify,
    /// Counts those that ended.
    ended: watch::Sender<u64>,
}

impl Fetches {
    pub(super) fn new(url: http::Uri) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(FETCH_TIMEOUT))
            // Elsewhere nobody has said whose keys they are.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("paceline/", env!("CARGO_PKG_VERSION")))
            .build();
        let (ended, _) = watch::channel(0);
        Self { url, agent: config.into(), last: Mutex::new(None), wanted: Notify::new(), ended }
    }

    /// Whether a fetch may be asked for now, or has been and is on its way.
    pub(super) fn may_bring_more(&self) -> bool {
        lock(&self.last).is_none_or(|at| at.elapsed() >= PAUSE)
    }

    /// Asks for a fetch and waits for its end, though not for long.
    pub(super) async fn wait(&self) {
        let mut ended = self.ended.subscribe();
        self.wanted.notify_one();
        // No answer in time, or no more fetches: the token is judged by the keys that are there.
        let _ = timeout(WAIT, ended.changed()).await;
    }

    /// Fetches for ever; `take` judges what came.
    pub(super) async fn keep(&self, take: impl Fn(&[u8]) -> Result<(), String>) {
        let mut failed = false;
        loop {
            let fetched = self.fetch().await.and_then(|text| take(&text));
            *lock(&self.last) = Some(Instant::now());
            self.ended.send_modify(|count| *count += 1);
            if let Err(reason) = &fetched {
                tracing::warn!(url = %self.shown(), %reason, "the JWK set cannot be used: the keys stay as they were");
            } else if failed {
                tracing::info!(url = %self.shown(), "the JWK set is there again");
            }
            failed = fetched.is_err();
            sleep(PAUSE).await;
            if !failed {
                // A wish from the pause is heard at once.
                let _ = timeout(FRESH_FOR, self.wanted.notified()).await;
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<u8>, String> {
        let (agent, url) = (self.agent.clone(), self.url.clone());
        let fetch = tokio::task::spawn_blocking(move || {
            let mut response =
                agent.get(&url).header("accept", "application/json").call().map_err(|e| e.to_string())?;
            if response.status() != 200 {
                return Err(format!("it answered {}", response.status()));
            }
            response.body_mut().with_config().limit(SET_BYTES_MAX).read_to_vec().map_err(|e| e.to_string())
        });
        fetch.await.map_err(|e| e.to_string())?
    }

    /// Without path and query, which may hold secrets.
    fn shown(&self) -> String {
        format!("{}://{}", self.url.scheme_str().unwrap_or(""), self.url.authority().map_or("", |a| a.as_str()))
    }
}
