//! Containers that say by their labels that they are services: `paceline.service=NAME`, and `paceline.port=PORT` where
//! they expose more than one; optionally `paceline.health=PATH|none` and `paceline.kind=http|openai`.
//!
//! Asked by one bounded `GET /containers/json` over the Docker or Podman socket, where this process may open it. A
//! client crate (bollard) would bring some hundred generated types for this one question.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use http::Uri;
use paceline_proto::{id::ServiceName, manifest::ServiceKind};
use serde::Deserialize;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{Found, names::in_container};
use crate::{client, services::HealthCheck};

/// For each socket: connect, question and answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// For each address of a container.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How much of an answer is read: several hundred containers, and only those with the label are asked for.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Most labelled containers that are looked at.
const CONTAINERS_MAX: usize = 32;
/// Most addresses that are tried of each.
const ADDRESSES_MAX: usize = 8;
/// Running containers with the label, as the Engine API wants its filter: JSON, percent-encoded.
const PATH: &str = "/containers/json?filters=%7B%22label%22%3A%5B%22paceline.service%22%5D%7D";

/// A labelled container, or what is wrong with its labels.
pub(super) type Labelled = Result<Found, String>;

/// The sockets of container engines that are there.
pub fn sockets() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let told = set("DOCKER_HOST").and_then(|host| host.strip_prefix("unix://").map(PathBuf::from));
    let user = set("XDG_RUNTIME_DIR").map(PathBuf::from);
    let users = user.iter().flat_map(|dir| [dir.join("docker.sock"), dir.join("podman/podman.sock")]);
    let all =
        told.into_iter().chain(["/var/run/docker.sock", "/run/podman/podman.sock"].map(PathBuf::from)).chain(users);
    let mut seen = Vec::new();
    // /var/run is /run nearly everywhere, and Podman's socket may stand in for Docker's.
    all.filter(|path| {
        let Ok(real) = path.canonicalize() else { return false };
        let new = !seen.contains(&real);
        seen.push(real);
        new
    })
    .collect()
}

/// The labelled containers that run. `None` where no socket answers.
pub(super) async fn look(sockets: &[PathBuf]) -> Option<Vec<Labelled>> {
    let mut all: Option<Vec<Labelled>> = None;
    for socket in sockets {
        let body = match timeout(TIMEOUT, ask(socket)).await {
            Ok(Ok(body)) => body,
            Ok(Err(words)) => {
                tracing::debug!(socket = %socket.display(), "cannot list containers: {words}");
                continue;
            }
            Err(_) => continue,
        };
        let found = all.get_or_insert_default();
        match parse(&body) {
            Ok(containers) => {
                for container in containers.into_iter().take(CONTAINERS_MAX.saturating_sub(found.len())) {
                    found.push(container.found().await);
                }
            }
            Err(words) => tracing::debug!(socket = %socket.display(), "cannot read the list of containers: {words}"),
        }
    }
    all
}

async fn ask(socket: &PathBuf) -> Result<bytes::Bytes, String> {
    let stream = UnixStream::connect(socket).await.map_err(|e| e.to_string())?;
    let answer = client::get_over(stream, "localhost", PATH, ANSWER_BYTES_MAX).await?;
    if answer.status.is_success() { Ok(answer.body) } else { Err(format!("it answered {}", answer.status.as_u16())) }
}

/// As the Engine API lists it; Podman writes `null` where Docker leaves out.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    names: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    ports: Option<Vec<Port>>,
    network_settings: Option<Settings>,
}

#[derive(Debug, Deserialize)]
struct Port {
    #[serde(rename = "IP")]
    ip: Option<String>,
    #[serde(rename = "PrivatePort")]
    private: u16,
    #[serde(rename = "PublicPort")]
    public: Option<u16>,
    #[serde(rename = "Type")]
    protocol: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Settings {
    networks: Option<BTreeMap<String, Network>>,
}

#[derive(Debug, Deserialize)]
struct Network {
    #[serde(rename = "IPAddress")]
    ip: Option<String>,
}

fn parse(body: &[u8]) -> Result<Vec<Container>, String> {
    let all: Vec<Container> = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    // An engine that knows no filter lists all.
    Ok(all.into_iter().filter(|c| c.label("service").is_some()).collect())
}

impl Container {
    fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(&format!("paceline.{key}")).map(|value| value.trim())
    }

    /// What its labels say, at an address that takes a connection.
    async fn found(&self) -> Labelled {
        let called = self.names.iter().flatten().next().map_or("?", |name| name.trim_start_matches('/'));
        let wrong = |words: String| format!("container {called}: {words}");
        let name = ServiceName::new(self.label("service").unwrap_or_default())
            .map_err(|e| wrong(format!("paceline.service: {e}")))?;
        let port = self.port().map_err(wrong)?;
        let health = match self.label("health") {
            None => HealthCheck::Path("/health".to_owned()),
            Some("none") => HealthCheck::Connect,
            Some(path) if path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok() => {
                HealthCheck::Path(path.to_owned())
            }
            Some(other) => return Err(wrong(format!("paceline.health={other}: expected a path like /ping, or none"))),
        };
        let kind = match self.label("kind") {
            None | Some("http") => ServiceKind::Http,
            Some("openai") => ServiceKind::OpenAi,
            Some(other) => return Err(wrong(format!("paceline.kind={other}: neither http nor openai"))),
        };
        let mut tried = 0;
        for (ip, port) in self.addresses(port).into_iter().take(ADDRESSES_MAX) {
            tried += 1;
            if let Ok(Ok(_)) = timeout(CONNECT_TIMEOUT, TcpStream::connect((ip, port))).await {
                let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
                let url: Uri = format!("http://{host}:{port}").parse().map_err(|e| wrong(format!("{e}")))?;
                return Ok(Found { name, url, health, kind, why: format!("container {called} is labelled so") });
            }
        }
        Err(wrong(if tried == 0 {
            format!("port {port} is neither published nor on a network that this machine reaches")
        } else {
            format!("nothing takes a connection on its port {port}")
        }))
    }

    /// The port inside the container.
    fn port(&self) -> Result<u16, String> {
        if let Some(text) = self.label("port") {
            let port = text.parse().ok().filter(|port| *port != 0);
            return port.ok_or_else(|| format!("paceline.port={text}: expected a number from 1 to 65535"));
        }
        let mut exposed: Vec<u16> = self.tcp().map(|port| port.private).collect();
        exposed.sort_unstable();
        exposed.dedup();
        match exposed.as_slice() {
            [port] => Ok(*port),
            [] => Err("it exposes no port: say paceline.port=PORT".to_owned()),
            several => Err(format!("it exposes {several:?}: say paceline.port=PORT")),
        }
    }

    fn tcp(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter().flatten().filter(|port| port.protocol.as_deref().is_none_or(|p| p == "tcp"))
    }

    /// Published on this machine, then on the container's networks; the other way round where we are in a container
    /// ourselves, whose 127.0.0.1 is another.
    fn addresses(&self, port: u16) -> Vec<(IpAddr, u16)> {
        let published = self.tcp().filter(|p| p.private == port).filter_map(|p| {
            let ip: IpAddr = p.ip.as_deref().unwrap_or("0.0.0.0").parse().ok()?;
            let reached = match ip {
                IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
                IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
                ip => ip,
            };
            Some((reached, p.public?))
        });
        let networks = self.network_settings.iter().filter_map(|s| s.networks.as_ref()).flat_map(BTreeMap::values);
        let inside = networks.filter_map(|n| Some((n.ip.as_deref()?.parse().ok()?, port)));
        let mut all: Vec<(IpAddr, u16)> =
            if in_container() { inside.chain(published).collect() } else { published.chain(inside).collect() };
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, UnixListener},
    };

    /// An engine that answers every question with `body`, and what it was asked.
    fn engine(dir: &tempfile::TempDir, body: String) -> PathBuf {
        let path = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 4096];
                let n = stream.read(&mut head).await.unwrap_or_default();
                let asked = String::from_utf8_lossy(&head[..n]).into_owned();
                assert!(asked.starts_with("GET /containers/json?filters="), "{asked}");
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        path
    }

    #[tokio::test]
    async fn a_labelled_container_is_found_at_its_published_port() {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = service.local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let body = serde_json::json!([
            { "Names": ["/embed-1"], "Labels": { "paceline.service": "embeddings", "paceline.kind": "openai" },
              "Ports": [{ "IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": port, "Type": "tcp" }],
              "NetworkSettings": { "Networks": { "bridge": { "IPAddress": "" } } }, "State": "running" },
            { "Names": ["/bad"], "Labels": { "paceline.service": "Not A Name" }, "Ports": null },
            { "Names": ["/two"], "Labels": { "paceline.service": "two" },
              "Ports": [{ "PrivatePort": 80, "Type": "tcp" }, { "PrivatePort": 81, "Type": "tcp" }] },
            { "Names": ["/other"], "Labels": null },
        ]);
        let found = look(&[engine(&dir, body.to_string())]).await.unwrap();
        assert_eq!(found.len(), 3, "{found:?}");
        let first = found[0].as_ref().unwrap();
        assert_eq!((first.name.as_str(), first.kind), ("embeddings", ServiceKind::OpenAi));
        assert_eq!(first.url.to_string(), format!("http://127.0.0.1:{port}/"));
        assert!(found[1].as_ref().unwrap_err().contains("container bad: paceline.service"), "{found:?}");
        assert!(found[2].as_ref().unwrap_err().contains("say paceline.port"), "{found:?}");
    }

    #[tokio::test]
    async fn no_engine_and_one_that_talks_nonsense() {
        let dir = tempfile::tempdir().unwrap();
        assert!(look(&[dir.path().join("none.sock")]).await.is_none());
        let found = look(&[engine(&dir, "{\"message\":\"no\"}".to_owned())]).await.unwrap();
        assert!(found.is_empty());
    }
}
