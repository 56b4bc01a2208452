//! One look at one service. Whatever it answers, a look takes at most [`TIMEOUT`] and [`BODY_BYTES_MAX`], and
//! as long again for the list of an OpenAI-like service's models.

use std::{path::Path, time::Duration};

use http::Uri;
use paceline_mesh::http::Protocol;
use paceline_proto::manifest::{Health, ServiceKind, TEXT_BYTES_MAX};

use super::{HealthCheck, ServiceSpec, Source};
use crate::{
    client::{self, Got},
    detect::models,
};

/// For the whole look: connect, head and body.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
/// How much of a health body is read.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;

/// What a look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it is.
    pub health: Health,
    /// What it says of its version.
    pub version: Option<String>,
    /// The models that it lists.
    pub models: Vec<String>,
    /// Why it is not healthy, for the log.
    pub reason: Option<String>,
}

impl Finding {
    fn well() -> Self {
        Self { health: Health::Healthy, version: None, models: Vec::new(), reason: None }
    }

    fn unwell(reason: String) -> Self {
        Self { health: Health::Unhealthy, version: None, models: Vec::new(), reason: Some(reason) }
    }
}

/// Looks at a service.
pub async fn probe(spec: &ServiceSpec) -> Finding {
    if spec.keeper.as_ref().is_some_and(|keeper| keeper.0.is_asleep()) {
        return Finding::well();
    }
    match &spec.source {
        Source::Directory(path) => directory(path).await,
        Source::Http { url, health } => {
            let mut finding = match tokio::time::timeout(TIMEOUT, http(url, health, spec.protocol)).await {
                Ok(finding) => finding,
                Err(_) => Finding::unwell(format!("no answer within {} s", TIMEOUT.as_secs())),
            };
            if finding.health != Health::Unhealthy && spec.kind == ServiceKind::OpenAi && spec.models.is_empty() {
                // A service that is well but does not list its models is well.
                finding.models = models::list(url).await.unwrap_or_default();
            }
            finding
        }
    }
}

async fn directory(path: &Path) -> Finding {
    match tokio::fs::read_dir(path).await {
        Ok(_) => Finding::well(),
        Err(e) => Finding::unwell(format!("{}: {e}", path.display())),
    }
}

async fn http(url: &Uri, check: &HealthCheck, protocol: Protocol) -> Finding {
    let path = match check {
        HealthCheck::Connect => {
            return match client::connect(url).await {
                Ok(_) => Finding::well(),
                Err(e) => Finding::unwell(e),
            };
        }
        HealthCheck::Path(path) => path,
    };
    let base = url.path().trim_end_matches('/');
    let path = format!("{base}{path}");
    let got = match protocol {
        Protocol::Http1 => client::get_some(url, &path, BODY_BYTES_MAX).await,
        Protocol::Http2 => client::get_some_h2(url, &path, BODY_BYTES_MAX).await,
    };
    let (status, finding) = match got {
        Ok(Got::Whole(answer)) => (answer.status, judge(&answer.body)),
        // A whole page, perhaps: its status is what counts, and what is too long is no word on how it is.
        Ok(Got::Long(status)) => (status, Finding::well()),
        Err(e) => return Finding::unwell(e),
    };
    if status.is_success() {
        return finding;
    }
    Finding::unwell(format!(
        "GET {path} answered {}; if it has no health check there, say health=PATH or health=none",
        status.as_u16()
    ))
}

/// A JSON object's `status` and `version` count; any other body is as good as none.
fn judge(body: &[u8]) -> Finding {
    #[derive(serde::Deserialize)]
    struct Said {
        status: Option<serde_json::Value>,
        version: Option<serde_json::Value>,
    }
    let Ok(said) = serde_json::from_slice::<Said>(body) else { return Finding::well() };
    let version = match said.version {
        Some(serde_json::Value::String(text)) => bounded(&text),
        Some(serde_json::Value::Number(number)) => bounded(&number.to_string()),
        _ => None,
    };
    let status = said.status.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_ascii_lowercase();
    match status.as_str() {
        "degraded" | "warning" | "warn" => {
            let reason = Some(format!("it says that it is {status}"));
            Finding { health: Health::Degraded, version, models: Vec::new(), reason }
        }
        _ => Finding { version, ..Finding::well() },
    }
}

/// The text without control characters, cut to what a manifest may carry.
fn bounded(text: &str) -> Option<String> {
    let mut out = String::new();
    for c in text.trim().chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > TEXT_BYTES_MAX {
            break;
        }
        out.push(c);
    }
    (!out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::Origin;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    /// A server that sends `answer` on each connection and then acts as told.
    async fn server(answer: &'static [u8], repeat: usize, hang: bool) -> Uri {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 1024]).await;
                    for _ in 0..repeat {
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                    if hang {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        format!("http://{address}").parse().unwrap()
    }

    async fn look(url: Uri, health: HealthCheck) -> Finding {
        let name = paceline_proto::id::ServiceName::new("s").unwrap();
        probe(&ServiceSpec::new(name, Source::Http { url, health }, Origin::Flag)).await
    }

    fn path() -> HealthCheck {
        HealthCheck::Path("/health".to_owned())
    }

    #[tokio::test]
    async fn a_well_service_tells_its_version() {
        let url = server(
            b"HTTP/1.1 200 OK\r\ncontent-length: 36\r\n\r\n{\"status\":\"healthy\",\"version\":\"1.2\"}",
            1,
            true,
        )
        .await;
        let finding = look(url, path()).await;
        assert_eq!((finding.health, finding.version.as_deref()), (Health::Healthy, Some("1.2")));
    }

    #[tokio::test]
    async fn degraded_is_its_own_word() {
        let url = server(b"HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n{\"status\":\"DEGRADED\"}", 1, false).await;
        assert_eq!(look(url, path()).await.health, Health::Degraded);
    }

    #[tokio::test]
    async fn an_error_rubbish_and_an_early_close_are_unhealthy() {
        for answer in [
            &b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
            b"\x00\x01\x02 SSH-2.0 this is not HTTP \xff\xfe\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
            b"",
        ] {
            let finding = look(server(answer, 1, false).await, path()).await;
            assert_eq!(finding.health, Health::Unhealthy, "{}", String::from_utf8_lossy(answer));
            assert!(finding.reason.is_some());
        }
    }

    #[tokio::test]
    async fn a_silent_service_is_unhealthy_but_connects() {
        let started = std::time::Instant::now();
        let url = server(b"", 1, true).await;
        assert_eq!(look(url.clone(), path()).await.health, Health::Unhealthy);
        assert!(started.elapsed() < TIMEOUT + Duration::from_secs(1));
        assert_eq!(look(url, HealthCheck::Connect).await.health, Health::Healthy);
    }

    #[tokio::test]
    async fn a_long_body_is_left_and_an_endless_head_is_unhealthy() {
        for (answer, health) in [
            (&b"HTTP/1.1 200 OK\r\n\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"[..], Health::Healthy),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\nxxxxxxxxxxxxxxxxxxx", Health::Healthy),
            (b"HTTP/1.1 503 Oh\r\n\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", Health::Unhealthy),
            (b"X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", Health::Unhealthy),
        ] {
            let started = std::time::Instant::now();
            let finding = look(server(answer, 1 << 40, false).await, path()).await;
            assert_eq!(finding.health, health, "{}", String::from_utf8_lossy(answer));
            assert!(started.elapsed() < TIMEOUT + Duration::from_secs(1));
        }
        // Begun, and never ended: no answer within its time.
        let url = server(b"HTTP/1.1 200 OK\r\n\r\nx", 1, true).await;
        assert_eq!(look(url, path()).await.health, Health::Unhealthy);
    }

    #[tokio::test]
    async fn nobody_there_is_unhealthy() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        drop(listener);
        for check in [path(), HealthCheck::Connect] {
            assert_eq!(look(url.clone(), check).await.health, Health::Unhealthy);
        }
    }

    #[test]
    fn versions_fit_a_manifest() {
        assert_eq!(bounded(" 1\n.2 "), Some("1.2".to_owned()));
        assert_eq!(bounded(&"é".repeat(500)).map(|v| v.len()), Some(TEXT_BYTES_MAX));
        assert_eq!(bounded("\n"), None);
        assert_eq!(judge(b"{\"version\": 3}").version.as_deref(), Some("3"));
        assert_eq!(judge(b"[1]"), Finding::well());
    }
}
