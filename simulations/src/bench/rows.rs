//! The rows: ways from a client to the origin. Each starts its own processes on free ports of 127.0.0.1.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::process::{Process, family, wait_for};

/// How long a process may take to be there.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Workers of each nginx: as many as the lanes of a gateway on two cores.
const NGINX_WORKERS: usize = 2;

/// The name of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Name {
    /// Straight to the service.
    Direct,
    /// `paceline up` with the service as its own: no network hop between gateway and worker.
    PacelineLocal,
    /// `paceline up`, QUIC, `paceline node`, service.
    Paceline,
    /// One nginx.
    Nginx,
    /// Two of them, mutual TLS 1.3 and keep-alive between: the like-for-like of `paceline`.
    #[value(name = "nginx-2hop-tls")]
    Nginx2HopTls,
}

impl Name {
    /// All of them, in the order of the tables.
    pub const ALL: [Name; 5] = [Name::Direct, Name::PacelineLocal, Name::Paceline, Name::Nginx, Name::Nginx2HopTls];

    /// As in the tables and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Name::Direct => "direct",
            Name::PacelineLocal => "paceline-local",
            Name::Paceline => "paceline",
            Name::Nginx => "nginx",
            Name::Nginx2HopTls => "nginx-2hop-tls",
        }
    }

    /// Whether it is made of Paceline's processes.
    pub const fn is_paceline(self) -> bool {
        matches!(self, Name::Paceline | Name::PacelineLocal)
    }
}

/// What rows are made with.
pub(super) struct Place<'a> {
    /// The origin's `host:port`.
    pub(super) origin: &'a str,
    /// The `paceline` binary.
    pub(super) paceline: &'a Path,
    /// For the files of all rows.
    pub(super) folder: &'a Path,
}

/// A running row.
pub(super) struct Row {
    pub(super) name: Name,
    /// `host:port` of its front.
    pub(super) address: String,
    /// Before each path.
    pub(super) prefix: &'static str,
    processes: Vec<Process>,
}

const PREFIX: &str = "/api/service/origin";

impl Row {
    /// Starts it; returns once a request passes.
    pub(super) fn start(name: Name, place: &Place<'_>) -> anyhow::Result<Self> {
        let folder = place.folder.join(name.as_str());
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let row = match name {
            Name::Direct => Self { name, address: place.origin.to_owned(), prefix: "", processes: Vec::new() },
            Name::PacelineLocal => {
                let up = Up::start(place, &folder, Some(place.origin))?;
                Self { name, address: up.address, prefix: PREFIX, processes: vec![up.process] }
            }
            Name::Paceline => {
                let up = Up::start(place, &folder, None)?;
                let node = start_node(place, &folder, &up.join)?;
                Self { name, address: up.address, prefix: PREFIX, processes: vec![up.process, node] }
            }
            Name::Nginx => nginx(place, &folder)?,
            Name::Nginx2HopTls => nginx_two_hops(place, &folder)?,
        };
        let url = format!("{}/1k", row.prefix);
        wait_for(name.as_str(), PATIENCE, || (get(&row.address, &url).ok()?.0 == 200).then_some(()))
            .with_context(|| row.last_words())?;
        Ok(row)
    }

    /// All its processes.
    pub(super) fn pids(&self) -> Vec<u32> {
        family(&self.processes.iter().map(Process::pid).collect::<Vec<_>>())
    }

    fn last_words(&self) -> String {
        self.processes.iter().map(Process::last_words).collect::<Vec<_>>().join("\n")
    }
}

/// A founding `paceline up`.
pub(super) struct Up {
    pub(super) process: Process,
    pub(super) address: String,
    /// What `--join` takes.
    pub(super) join: String,
    /// From its start to the runtime file, which it writes when it is ready.
    pub(super) ready: Duration,
}

impl Up {
    pub(super) fn start(place: &Place<'_>, folder: &Path, service: Option<&str>) -> anyhow::Result<Self> {
        let data_dir = folder.join("up");
        let service = service.map(|origin| format!("origin=http://{origin},health=none"));
        let mut more = vec!["--http", "127.0.0.1:0"];
        if let Some(service) = &service {
            more.extend(["--service", service]);
        }
        let process = paceline(place, "up", &data_dir, &more)?;
        let runtime = data_dir.join("runtime.json");
        let (runtime, ready) = wait_for("paceline up", PATIENCE, || {
            serde_json::from_slice::<serde_json::Value>(&fs::read(&runtime).ok()?).ok()
        })
        .with_context(|| process.last_words())?;
        let address = runtime["http"].as_str().context("runtime.json has no `http`")?.to_owned();
        let join = format!("@{}", data_dir.join("join-token").display());
        Ok(Self { process, address, join, ready })
    }
}

/// A `paceline node` that offers the origin.
pub(super) fn start_node(place: &Place<'_>, folder: &Path, join: &str) -> anyhow::Result<Process> {
    let service = format!("origin=http://{},health=none", place.origin);
    paceline(place, "node", &folder.join("node"), &["--name", "worker", "--join", join, "--service", &service])
}

fn paceline(place: &Place<'_>, command: &str, data_dir: &Path, more: &[&str]) -> anyhow::Result<Process> {
    let binary = place.paceline.to_str().context("the path of paceline is not UTF-8")?;
    let data_dir_text = data_dir.to_str().context("the folder's path is not UTF-8")?;
    let mut line = vec![binary, command, "--no-detect", "--data-dir", data_dir_text];
    line.extend(["--mesh", "127.0.0.1:0", "--data", "127.0.0.1:0", "--local-http", "127.0.0.1:0"]);
    line.extend(more);
    Process::start(&line, &data_dir.with_extension("log"), Stdio::null(), Stdio::null())
}

/// One GET on a connection of its own: status and body.
pub(super) fn get(address: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no response head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Whether nginx is installed.
pub(super) fn nginx_is_there() -> bool {
    std::process::Command::new("nginx").arg("-v").output().is_ok_and(|output| output.status.success())
}

fn start_nginx(folder: &Path, name: &str, servers: &str) -> anyhow::Result<Process> {
    let at = |end: &str| folder.join(format!("{name}.{end}"));
    // As a user who cares would set it: keep-alive everywhere, nothing buffered on disk, no access log.
    let conf = format!(
        "daemon off; worker_processes {NGINX_WORKERS}; worker_rlimit_nofile 20000; pid {pid}; error_log stderr warn;\n\
         {user}\n\
         events {{ worker_connections 16384; }}\n\
         http {{\n\
           access_log off; tcp_nodelay on; keepalive_timeout 600s; keepalive_requests 100000000;\n\
           client_max_body_size 0; client_body_buffer_size 256k;\n\
           proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
           proxy_request_buffering off; proxy_buffer_size 16k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;\n\
           proxy_max_temp_file_size 0;\n\
           client_body_temp_path {tmp}1; proxy_temp_path {tmp}2; fastcgi_temp_path {tmp}3;\n\
           uwsgi_temp_path {tmp}4; scgi_temp_path {tmp}5;\n{servers}\n}}\n",
        pid = at("pid").display(),
        tmp = at("tmp").display(),
        // A master that runs as root would else give its workers to a user that cannot read this folder.
        user = if is_root() { "user root;" } else { "" },
    );
    let path = at("conf");
    fs::write(&path, conf)?;
    let path = path.to_str().context("the folder's path is not UTF-8")?;
    Process::start(&["nginx", "-e", "stderr", "-c", path], &at("log"), Stdio::null(), Stdio::null())
}

fn is_root() -> bool {
    std::process::Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn upstream(name: &str, address: &str) -> String {
    format!("upstream {name} {{ server {address}; keepalive 512; keepalive_requests 100000000; }}")
}

fn locations(to: &str) -> String {
    format!(
        "location / {{ proxy_pass {to}; }}\n\
         location /sse {{ proxy_pass {to}; proxy_buffering off; }}"
    )
}

fn nginx(place: &Place<'_>, folder: &Path) -> anyhow::Result<Row> {
    let port = free_port()?;
    let servers = format!(
        "{}\nserver {{ listen 127.0.0.1:{port} backlog=4096;\n{} }}",
        upstream("origin", place.origin),
        locations("http://origin")
    );
    let process = start_nginx(folder, "nginx", &servers)?;
    Ok(Row { name: Name::Nginx, address: format!("127.0.0.1:{port}"), prefix: "", processes: vec![process] })
}

fn nginx_two_hops(place: &Place<'_>, folder: &Path) -> anyhow::Result<Row> {
    let certificates = Certificates::write(folder)?;
    let (front, back) = (free_port()?, free_port()?);
    ensure!(front != back, "one port was given twice");
    let node = format!(
        "{}\nserver {{ listen 127.0.0.1:{back} ssl backlog=4096; ssl_protocols TLSv1.3;\n\
         ssl_certificate {leaf}; ssl_certificate_key {key}; ssl_client_certificate {ca}; ssl_verify_client on;\n\
         ssl_session_cache shared:s:4m;\n{} }}",
        upstream("origin", place.origin),
        locations("http://origin"),
        leaf = certificates.leaf.display(),
        key = certificates.key.display(),
        ca = certificates.ca.display(),
    );
    let gateway = format!(
        "{}\nproxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {leaf}; proxy_ssl_certificate_key {key};\n\
         proxy_ssl_trusted_certificate {ca}; proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_server_name on;\n\
         server {{ listen 127.0.0.1:{front} backlog=4096;\n{} }}",
        upstream("node", &format!("127.0.0.1:{back}")),
        locations("https://node"),
        leaf = certificates.leaf.display(),
        key = certificates.key.display(),
        ca = certificates.ca.display(),
    );
    let processes = vec![start_nginx(folder, "node", &node)?, start_nginx(folder, "gateway", &gateway)?];
    Ok(Row { name: Name::Nginx2HopTls, address: format!("127.0.0.1:{front}"), prefix: "", processes })
}

/// Files of a CA and of one leaf for both sides.
struct Certificates {
    ca: PathBuf,
    leaf: PathBuf,
    key: PathBuf,
}

impl Certificates {
    fn write(folder: &Path) -> anyhow::Result<Self> {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        ca.distinguished_name.push(rcgen::DnType::CommonName, "benchmark");
        let ca_pem = ca.self_signed(&ca_key)?.pem();
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(vec!["localhost".to_owned()])?;
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let files = Self { ca: folder.join("ca.pem"), leaf: folder.join("leaf.pem"), key: folder.join("leaf.key") };
        fs::write(&files.ca, ca_pem)?;
        fs::write(&files.leaf, leaf.signed_by(&key, &issuer)?.pem())?;
        fs::write(&files.key, key.serialize_pem())?;
        Ok(files)
    }
}
