//! One look at one place: is the service there that is looked for?
//!
//! Whatever answers, a look takes at most [`TIMEOUT`] and [`models::ANSWER_BYTES_MAX`] of memory.

use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use super::{
    known::{Fingerprint, Known},
    models,
};
use crate::client::{self, Answer};

/// For the whole look: connect, head and body.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
/// How much of a health body is read.
const HEALTH_BYTES_MAX: usize = 64 * 1024;
/// Most characters of a foreign word in our log.
const WORD_CHARS_MAX: usize = 40;

/// What a look at a place found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The service.
    Is,
    /// Something else, and why it is taken for that.
    Other(String),
    /// Something that cannot be told now: it hangs, breaks off, or is out of order.
    Unclear(String),
    /// Nobody listens.
    Absent,
}

/// A place where a service may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// As a URL names it: a container's host name, or 127.0.0.1.
    pub(super) host: String,
    /// What the host name leads to.
    pub(super) addresses: Vec<SocketAddr>,
    /// The host name itself is the proof.
    pub(super) proof: bool,
}

/// Looks at a place.
pub(super) async fn look(known: &Known, place: &Place) -> Verdict {
    match timeout(TIMEOUT, look_now(known, place)).await {
        Ok(verdict) => verdict,
        Err(_) => Verdict::Unclear(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}

async fn look_now(known: &Known, place: &Place) -> Verdict {
    // Refused, unreachable or silent: nobody there to speak of.
    let Ok(Ok(stream)) = timeout(TIMEOUT / 2, TcpStream::connect(place.addresses.as_slice())).await else {
        return Verdict::Absent;
    };
    if place.proof {
        return Verdict::Is;
    }
    let authority = format!("{}:{}", place.host, known.port);
    let (path, limit) = match known.fingerprint {
        Fingerprint::OpenAi => (models::PATH, models::ANSWER_BYTES_MAX),
        Fingerprint::Ollama => ("/api/version", HEALTH_BYTES_MAX),
        Fingerprint::Named => (known.health.as_str(), HEALTH_BYTES_MAX),
    };
    let answer = match client::get_over(stream, &authority, path, limit).await {
        Ok(answer) => answer,
        Err(words) => return Verdict::Unclear(format!("GET {path}: {words}")),
    };
    let verdict = judge(known, path, &answer);
    if verdict != Verdict::Is || known.fingerprint != Fingerprint::OpenAi {
        return verdict;
    }
    // A gateway of ours answers /v1/models for others; taken for a service it would answer for itself.
    let again = async {
        let stream = TcpStream::connect(place.addresses.as_slice()).await.map_err(|e| e.to_string())?;
        client::get_over(stream, &authority, "/health", HEALTH_BYTES_MAX).await
    };
    match again.await {
        Ok(health) if is_paceline(&health.body) => Verdict::Other("it is a Paceline process".to_owned()),
        _ => Verdict::Is,
    }
}

/// Whether an answer bears the fingerprint.
fn judge(known: &Known, path: &str, answer: &Answer) -> Verdict {
    if is_paceline(&answer.body) {
        return Verdict::Other("it is a Paceline process".to_owned());
    }
    let status = answer.status;
    let is = match known.fingerprint {
        Fingerprint::OpenAi => status.is_success() && models::parse(&answer.body).is_some(),
        Fingerprint::Ollama => status.is_success() && version(&answer.body).is_some(),
        // A service that is not well may tell its name all the same.
        Fingerprint::Named => match called(&answer.body) {
            Some(said) if known.is_called(&said) => true,
            Some(said) => return Verdict::Other(format!("it calls itself `{}`", word(&said))),
            None => false,
        },
    };
    if is {
        return Verdict::Is;
    }
    match status.as_u16() {
        401 | 403 => Verdict::Other(format!("GET {path} answered {}: it asks for a key", status.as_u16())),
        500.. => Verdict::Unclear(format!("GET {path} answered {}", status.as_u16())),
        200..=299 => Verdict::Other(format!(
            "what GET {path} answered does not {}",
            match known.fingerprint {
                Fingerprint::OpenAi => "list models",
                Fingerprint::Ollama => "tell a version",
                Fingerprint::Named => "tell its name in `service`, `name` or `workerType`",
            }
        )),
        other => Verdict::Other(format!("GET {path} answered {other}")),
    }
}

fn version(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        version: String,
    }
    serde_json::from_slice::<Said>(body).ok().map(|said| said.version)
}

/// What a health body says that it is.
fn called(body: &[u8]) -> Option<String> {
    let said: Value = serde_json::from_slice(body).ok()?;
    ["service", "name", "workerType"].iter().find_map(|key| said.get(key)?.as_str().map(str::to_owned))
}

/// Our own `/health`: a node's tells its worker id, a gateway's who leads.
fn is_paceline(body: &[u8]) -> bool {
    let Ok(Value::Object(said)) = serde_json::from_slice(body) else { return false };
    let has = |keys: &[&str]| keys.iter().all(|key| said.contains_key(*key));
    has(&["worker_id", "capabilities", "uptime"]) || has(&["leader", "workers", "services", "uptime_s"])
}

/// A foreign word, fit for a log line.
fn word(said: &str) -> String {
    said.chars().filter(|c| !c.is_control()).take(WORD_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::known::built_in;
    use http::StatusCode;

    fn verdict(name: &str, status: u16, body: &str) -> Verdict {
        let known = built_in().into_iter().find(|k| k.name.as_str() == name).unwrap();
        let status = StatusCode::from_u16(status).unwrap();
        let answer = Answer { status, headers: Default::default(), body: body.to_owned().into() };
        judge(&known, "/p", &answer)
    }

    fn is_other(verdict: &Verdict, said: &str) -> bool {
        matches!(verdict, Verdict::Other(why) if why.contains(said))
    }

    #[test]
    fn each_fingerprint_and_what_lacks_it() {
        assert_eq!(verdict("vllm", 200, r#"{"object":"list","data":[{"id":"m"}]}"#), Verdict::Is);
        assert!(is_other(&verdict("vllm", 200, "<html>"), "list models"));
        assert!(is_other(&verdict("vllm", 404, r#"{"detail":"Not Found"}"#), "404"));
        assert!(is_other(&verdict("vllm", 401, r#"{"error":"Unauthorized"}"#), "key"));
        assert!(matches!(verdict("vllm", 503, "loading"), Verdict::Unclear(_)));
        assert_eq!(verdict("ollama", 200, r#"{"version":"0.6.2"}"#), Verdict::Is);
        assert!(is_other(&verdict("ollama", 200, "Ollama is running"), "version"));
        assert_eq!(verdict("upload", 200, r#"{"status":"ok","service":"upload-service"}"#), Verdict::Is);
        assert_eq!(verdict("upload", 503, r#"{"status":"down","name":"upload"}"#), Verdict::Is, "unwell, but itself");
        assert_eq!(verdict("agent-tool", 200, r#"{"workerType":"agent_tool"}"#), Verdict::Is);
        assert!(is_other(&verdict("assistant", 200, r#"{"name":"graf\nana"}"#), "`grafana`"));
        assert!(is_other(&verdict("upload", 200, r#"{"status":"ok"}"#), "workerType"));
        assert!(is_other(&verdict("upload", 200, r#"{"service":7}"#), "workerType"));
    }

    #[test]
    fn our_own_processes_are_told() {
        for body in [
            r#"{"status":"healthy","memory":{},"uptime":1,"capabilities":{},"services":{},"worker_id":"w","version":"0"}"#,
            r#"{"status":"healthy","services":1,"workers":1,"leader":null,"uptime_s":3,"version":"0"}"#,
        ] {
            assert!(is_other(&verdict("upload", 200, body), "Paceline"), "{body}");
            assert!(is_other(&verdict("vllm", 200, body), "Paceline"), "{body}");
        }
    }
}
