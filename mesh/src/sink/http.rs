//! The summary as a value in an HTTP key-value store: read, judged, and put with a condition where the store gives ETags.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use paceline_proto::summary::StoredSummary;
use ureq::{Agent, http};

use super::{EXCHANGE, Head, Outcome, STORED_BYTES_MAX, encode, judge};

/// A write that another one overtook is tried again this often.
const ROUNDS: usize = 3;
/// Longest that a store's `Retry-After` is believed.
const REST_MAX: Duration = Duration::from_secs(3600);
/// Rest where a store refuses for now and does not say for how long.
const REST: Duration = Duration::from_secs(60);
/// Longest bearer token.
const TOKEN_BYTES_MAX: u64 = 8 * 1024;

/// A key-value store.
#[derive(Debug)]
pub struct HttpSink {
    agent: Agent,
    url: http::Uri,
    /// For messages: without path and query, which may hold secrets.
    shown: String,
    token_file: Option<PathBuf>,
    rest_until: Option<Instant>,
}

/// What the store holds.
struct Stored {
    head: Option<Head>,
    condition: Option<(http::HeaderName, http::HeaderValue)>,
}

/// Why a round did not store.
enum Refusal {
    /// Another writer was faster.
    Overtaken,
    Final(Outcome),
}

impl HttpSink {
    pub(super) fn open(url: &str, token_file: Option<PathBuf>) -> Result<Self, String> {
        let form = "--sink-url: expected a URL like https://kv.example/values/paceline";
        let uri: http::Uri = url.parse().map_err(|e| format!("{form}: {e}"))?;
        let scheme = uri.scheme_str().filter(|s| matches!(*s, "http" | "https")).ok_or(form)?;
        let authority = uri.authority().ok_or(form)?;
        if authority.as_str().contains('@') {
            return Err("--sink-url: a user or password in the URL is not supported: use --sink-token-file".to_owned());
        }
        let shown = format!("{scheme}://{authority}");
        let sink = Self { agent: agent(EXCHANGE), url: uri, shown, token_file, rest_until: None };
        sink.token()?;
        Ok(sink)
    }

    #[cfg(test)]
    pub(super) fn with_timeout(self, exchange: Duration) -> Self {
        Self { agent: agent(exchange), ..self }
    }

    pub(super) fn write(&mut self, new: &StoredSummary, writes_per_day: u32) -> Outcome {
        if let Some(until) = self.rest_until.filter(|until| *until > Instant::now()) {
            let left = until.saturating_duration_since(Instant::now()).as_secs() + 1;
            return self.kept(None, format!("it asked to be left alone for another {left} s"));
        }
        for _ in 0..ROUNDS {
            match self.round(new, writes_per_day) {
                Ok(writes_today) => return Outcome::Stored { writes_today },
                Err(Refusal::Final(outcome)) => return outcome,
                Err(Refusal::Overtaken) => {}
            }
        }
        self.kept(None, format!("overtaken by other writers {ROUNDS} times"))
    }

    fn round(&mut self, new: &StoredSummary, writes_per_day: u32) -> Result<u32, Refusal> {
        let token = self.token().map_err(|e| Refusal::Final(self.kept(None, e)))?;
        let stored = self.read(token.as_ref())?;
        let named = |outcome| match outcome {
            Outcome::Kept { writes_today, reason } => Refusal::Final(self.kept(writes_today, reason)),
            stored @ Outcome::Stored { .. } => Refusal::Final(stored),
        };
        let writes_today = judge(stored.head.as_ref(), new, writes_per_day).map_err(named)?;
        let bytes = encode(new, writes_today).map_err(named)?;
        let mut put = self.agent.put(&self.url).header(http::header::CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            put = put.header(http::header::AUTHORIZATION, token);
        }
        if let Some((name, value)) = stored.condition {
            put = put.header(name, value);
        }
        let response = put.send(&bytes[..]).map_err(|e| self.failed("PUT", &e))?;
        match response.status().as_u16() {
            200..=299 => Ok(writes_today),
            409 | 412 => Err(Refusal::Overtaken),
            _ => Err(self.refused("PUT", &response)),
        }
    }

    /// What is there now; a store that cannot be read is written without a condition.
    fn read(&mut self, token: Option<&http::HeaderValue>) -> Result<Stored, Refusal> {
        let mut get = self.agent.get(&self.url);
        if let Some(token) = token {
            get = get.header(http::header::AUTHORIZATION, token);
        }
        let mut response = get.call().map_err(|e| self.failed("GET", &e))?;
        match response.status().as_u16() {
            200..=299 => {
                // Only a strong validator proves that the value is the same (RFC 9110, section 13.1.1).
                let strong = |tag: &&http::HeaderValue| !tag.as_bytes().starts_with(b"W/");
                let tag = response.headers().get(http::header::ETAG).filter(strong).cloned();
                let body = response.body_mut().with_config().limit(STORED_BYTES_MAX).read_to_vec();
                let body = body.map_err(|e| self.failed("GET", &e))?;
                // A value that is no summary, cut off for instance, is replaced.
                let head = serde_json::from_slice(&body).ok();
                Ok(Stored { head, condition: tag.map(|tag| (http::header::IF_MATCH, tag)) })
            }
            404 | 410 => {
                let any = http::HeaderValue::from_static("*");
                Ok(Stored { head: None, condition: Some((http::header::IF_NONE_MATCH, any)) })
            }
            405 | 501 => Ok(Stored { head: None, condition: None }),
            _ => Err(self.refused("GET", &response)),
        }
    }

    fn token(&self) -> Result<Option<http::HeaderValue>, String> {
        use std::io::Read as _;
        let Some(path) = &self.token_file else { return Ok(None) };
        let wrong = |what: &str| format!("--sink-token-file {}: {what}", path.display());
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|e| wrong(&e.to_string()))?;
        file.take(TOKEN_BYTES_MAX).read_to_string(&mut text).map_err(|e| wrong(&e.to_string()))?;
        let token = text.trim();
        if token.is_empty() || token.contains(char::is_whitespace) {
            return Err(wrong("expected one token and nothing else"));
        }
        let mut value = http::HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| wrong("has characters that no token has"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn refused<B>(&mut self, method: &str, response: &http::Response<B>) -> Refusal {
        let status = response.status();
        if matches!(status.as_u16(), 429 | 503) {
            let told = response.headers().get(http::header::RETRY_AFTER).and_then(|v| v.to_str().ok());
            let rest = told.and_then(|v| v.trim().parse().ok()).map_or(REST, Duration::from_secs).min(REST_MAX);
            self.rest_until = Some(Instant::now() + rest);
        }
        let hint = match status.as_u16() {
            401 | 403 => ": is the token in --sink-token-file right?",
            300..=399 => ": redirects are not followed",
            _ => "",
        };
        Refusal::Final(self.kept(None, format!("{method} answered {status}{hint}")))
    }

    fn failed(&self, method: &str, error: &ureq::Error) -> Refusal {
        Refusal::Final(self.kept(None, format!("{method}: {error}")))
    }

    fn kept(&self, writes_today: Option<u32>, reason: String) -> Outcome {
        Outcome::Kept { writes_today, reason: format!("{}: {reason}", self.shown) }
    }
}

fn agent(exchange: Duration) -> Agent {
    let config = Agent::config_builder()
        .timeout_global(Some(exchange))
        // A bearer token is for the one host that it was given for.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(concat!("paceline/", env!("CARGO_PKG_VERSION")))
        .build();
    config.into()
}
