//! Which running process a command asks: `--gateway`, a data directory's `runtime.json`, or the default directories.

use std::path::{Path, PathBuf};

use clap::Args;
use http::Uri;
use paceline_mesh::{
    args::ProcessRole,
    process::{ADMIN_KEY, Fault, Runtime},
};

/// Flags of every command that asks a running process.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct TargetArgs {
    /// A gateway, like http://127.0.0.1:8080 [default: the process that runs on this machine]
    #[arg(long, value_name = "URL", env = "PACELINE_GATEWAY", hide_env = true)]
    pub(super) gateway: Option<Uri>,

    #[command(flatten)]
    pub(super) local: LocalArgs,
}

/// Flags of every command that speaks to a process on this machine.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct LocalArgs {
    /// A file that holds the admin key [default: admin.key in the data directory]
    #[arg(long, value_name = "@FILE", env = "PACELINE_KEY", hide_env = true)]
    pub(super) key: Option<String>,

    /// The data directory of a process on this machine [default: where up, gateway, node and bootstrap keep theirs]
    #[arg(long, value_name = "DIR", env = "PACELINE_DATA_DIR", hide_env = true)]
    pub(super) data_dir: Option<PathBuf>,
}

/// Flags of every command that shows something.
#[derive(Args, Clone, Debug)]
pub(super) struct QueryArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,

    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Where to ask, and with which key.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) url: Uri,
    pub(super) key: Option<String>,
}

impl TargetArgs {
    /// A gateway.
    ///
    /// # Errors
    /// There is none, in words that say what to do.
    pub(super) fn gateway(&self) -> Result<Target, Fault> {
        let given = self.local.key.as_deref().map(read_key).transpose()?;
        if let Some(url) = &self.gateway {
            let in_directory = self.local.data_dir.as_deref().and_then(|d| read_key_file(&d.join(ADMIN_KEY)).ok());
            return Ok(Target { url: check(url)?, key: given.or(in_directory) });
        }
        let (directory, runtime) = self.local.process(|r| r.http.is_some())?;
        let Some(http) = runtime.http else {
            return Err(Fault::user(format!(
                "the {} in {} has no gateway: give --gateway URL",
                runtime.role,
                directory.display()
            )));
        };
        let key = given.or_else(|| read_key_file(&runtime.admin_key_file).ok());
        Ok(Target { url: url_of(reachable(http))?, key })
    }
}

impl LocalArgs {
    /// The local API of a process on this machine, with its key.
    ///
    /// # Errors
    /// There is none, or more than one, in words that say what to do.
    pub(super) fn find(&self) -> Result<(Target, Runtime), Fault> {
        let found = match &self.data_dir {
            Some(_) => vec![self.process(|_| true)?],
            None => default_processes(),
        };
        match found.as_slice() {
            [] => Err(self.process(|_| true).err().unwrap_or_else(nobody)),
            [(_, runtime)] => {
                let key = match &self.key {
                    Some(key) => read_key(key)?,
                    None => read_key_file(&runtime.admin_key_file)?,
                };
                Ok((Target { url: url_of(runtime.local_http)?, key: Some(key) }, runtime.clone()))
            }
            several => {
                let directories: Vec<_> = several.iter().map(|(d, _)| d.display().to_string()).collect();
                Err(Fault::user(format!("several processes run here: choose --data-dir {}", directories.join(" or "))))
            }
        }
    }

    /// The local APIs of all processes on this machine that these flags may mean, with their keys where those can be read.
    pub(super) fn all(&self) -> Vec<Target> {
        let found = match &self.data_dir {
            Some(_) => self.process(|_| true).into_iter().collect(),
            None => default_processes(),
        };
        let key = |runtime: &Runtime| read_key_file(&runtime.admin_key_file).ok();
        let target = |(_, runtime): (PathBuf, Runtime)| {
            Some(Target { key: key(&runtime), url: url_of(runtime.local_http).ok()? })
        };
        found.into_iter().filter_map(target).collect()
    }

    fn process(&self, wanted: impl Fn(&Runtime) -> bool) -> Result<(PathBuf, Runtime), Fault> {
        if let Some(directory) = &self.data_dir {
            return match Runtime::read(directory) {
                Ok(Some(runtime)) => Ok((directory.clone(), runtime)),
                Ok(None) => Err(Fault::user(format!(
                    "no process runs with the data directory {}: it has no runtime.json",
                    directory.display()
                ))),
                Err(e) => Err(Fault::user(format!("{}/runtime.json: {e}", directory.display()))),
            };
        }
        let mut running = default_processes();
        let at = running.iter().position(|(_, r)| wanted(r)).or((!running.is_empty()).then_some(0));
        at.map(|at| running.swap_remove(at)).ok_or_else(nobody)
    }
}

fn nobody() -> Fault {
    let directories: Vec<_> =
        ProcessRole::ALL.iter().filter_map(|r| r.default_data_dir()).map(|d| d.display().to_string()).collect();
    Fault::user(format!(
        "no running process was found in {}: start `paceline up`, or give --gateway URL or --data-dir DIR",
        directories.join(", ")
    ))
}

/// What runs with the default data directories.
pub(super) fn default_processes() -> Vec<(PathBuf, Runtime)> {
    let directories = ProcessRole::ALL.iter().filter_map(|r| r.default_data_dir());
    directories.filter_map(|d| Runtime::read(&d).ok().flatten().map(|r| (d, r))).collect()
}

/// A gateway bound to every address is asked on loopback.
fn reachable(mut http: std::net::SocketAddr) -> std::net::SocketAddr {
    if http.ip().is_unspecified() {
        let loopback: std::net::IpAddr =
            if http.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        http.set_ip(loopback);
    }
    http
}

fn url_of(address: std::net::SocketAddr) -> Result<Uri, Fault> {
    format!("http://{address}/").parse().map_err(Fault::failed)
}

fn check(url: &Uri) -> Result<Uri, Fault> {
    match url.scheme_str() {
        Some("http") if url.host().is_some() => Ok(url.clone()),
        Some("https") => Err(Fault::user(format!(
            "--gateway {url}: https is not spoken by these commands yet: ask the gateway itself, at its http:// address"
        ))),
        _ => Err(Fault::user(format!("--gateway {url}: expected a URL like http://127.0.0.1:8080"))),
    }
}

/// `@FILE`. A bare key would stand in the process list and in shell histories.
fn read_key(text: &str) -> Result<String, Fault> {
    match text.strip_prefix('@') {
        Some(path) => read_key_file(Path::new(path)),
        None => Err(Fault::user("--key: expected @FILE, a file that holds the admin key")),
    }
}

fn read_key_file(path: &Path) -> Result<String, Fault> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Fault::user(format!("cannot read the admin key {}: {e}", path.display())))?;
    let key = text.trim();
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Fault::user(format!("{} does not hold an admin key", path.display())));
    }
    Ok(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(dir: &Path, http: Option<&str>) {
        std::fs::write(dir.join(ADMIN_KEY), "k".repeat(43)).unwrap();
        let runtime = Runtime {
            pid: 1,
            role: "up".to_owned(),
            worker_id: "w".to_owned(),
            peer_id: "p".to_owned(),
            cluster_id: "c".to_owned(),
            http: http.map(|h| h.parse().unwrap()),
            local_http: "127.0.0.1:9".parse().unwrap(),
            mesh: Vec::new(),
            data: "127.0.0.1:8".parse().unwrap(),
            admin_key_file: dir.join(ADMIN_KEY),
            join_token_file: None,
        };
        std::fs::write(dir.join("runtime.json"), serde_json::to_string(&runtime).unwrap()).unwrap();
    }

    #[test]
    fn a_data_directory_leads_to_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let local = LocalArgs { data_dir: Some(dir.path().to_owned()), ..LocalArgs::default() };
        let args = TargetArgs { gateway: None, local };
        let words = args.gateway().unwrap_err().to_string();
        assert!(words.contains("no process runs") && words.contains(dir.path().to_str().unwrap()), "{words}");
        runtime(dir.path(), Some("0.0.0.0:8080"));
        let target = args.gateway().unwrap();
        assert_eq!(target.url.to_string(), "http://127.0.0.1:8080/");
        assert_eq!(target.key.as_deref(), Some("k".repeat(43).as_str()));
        assert_eq!(args.local.find().unwrap().0.url.to_string(), "http://127.0.0.1:9/");
        runtime(dir.path(), None);
        assert!(args.gateway().unwrap_err().to_string().contains("has no gateway"));
    }

    #[test]
    fn urls_and_keys_are_checked() {
        let gateway = |url: &str| TargetArgs { gateway: Some(url.parse().unwrap()), ..TargetArgs::default() };
        assert!(gateway("http://127.0.0.1:1").gateway().unwrap().key.is_none());
        for (url, said) in
            [("https://x", "https is not spoken"), ("127.0.0.1:1", "like http://"), ("/x", "like http://")]
        {
            let words = gateway(url).gateway().unwrap_err().to_string();
            assert!(words.contains(said), "{words}");
        }
        let local = LocalArgs { key: Some("secret".to_owned()), ..LocalArgs::default() };
        let args = TargetArgs { local, ..gateway("http://127.0.0.1:1") };
        let words = args.gateway().unwrap_err().to_string();
        assert!(words.contains("@FILE") && !words.contains("secret"), "{words}");
    }
}
