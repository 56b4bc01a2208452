//! The forms of single values, each with an error that says what was expected.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr},
    path::Path,
    str::FromStr,
    time::Duration,
};

use paceline_proto::manifest::TEXT_BYTES_MAX;
use paceline_proto::token::Token;

use crate::process::Fault;

/// Most bytes of a token file, of standard input with `--join -`, or of a file of capabilities.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;

/// One `--capability`: `K=V` or `K` alone, several of them parted by commas, a JSON object of booleans or list of names,
/// or `@FILE` with any of these. In order, so that a later word on the same capability counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub Vec<(String, bool)>);

/// `--label K=V`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Which.
    pub key: String,
    /// Free text.
    pub value: String,
}

pub(super) fn bounded(what: &str, text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(format!("{what} must have 1 to {TEXT_BYTES_MAX} bytes without control characters"));
    }
    Ok(text.to_owned())
}

fn capability(text: &str) -> Result<(String, bool), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, "true"));
    let value = match value.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => true,
        "false" | "no" | "off" | "0" => false,
        other => return Err(format!("`{other}` is neither true nor false")),
    };
    Ok((bounded("a capability", key.trim())?, value))
}

impl FromStr for Capabilities {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Json {
            Object(std::collections::BTreeMap<String, bool>),
            List(Vec<String>),
        }
        let text = match s.strip_prefix('@') {
            Some(path) => std::fs::File::open(path)
                .map_err(|e| format!("{path}: {e}"))
                .and_then(|file| read_bounded(file, path).map_err(|e| e.to_string()))?,
            None => s.to_owned(),
        };
        let text = text.trim();
        if text.starts_with(['{', '[']) {
            let form = "expected JSON like {\"docker\": true, \"gpu\": false} or [\"docker\"]";
            let list: Vec<(String, bool)> = match serde_json::from_str(text).map_err(|_| form)? {
                Json::Object(map) => map.into_iter().collect(),
                Json::List(names) => names.into_iter().map(|name| (name, true)).collect(),
            };
            let bounded = |(key, value): (String, bool)| Ok((bounded("a capability", &key)?, value));
            return list.into_iter().map(bounded).collect::<Result<_, String>>().map(Self);
        }
        let words = text.split([',', '\n']).map(str::trim).filter(|word| !word.is_empty());
        let list: Vec<_> = words.map(capability).collect::<Result<_, _>>()?;
        if list.is_empty() { Err("expected K=V".to_owned()) } else { Ok(Self(list)) }
    }
}

impl FromStr for Label {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (key, value) = s.split_once('=').ok_or("expected K=V")?;
        Ok(Self { key: bounded("a label's key", key.trim())?, value: bounded("a label's value", value)? })
    }
}

/// `--entry`: any multiaddr; kept as text.
pub(super) fn multiaddr(s: &str) -> Result<String, String> {
    s.parse::<libp2p::Multiaddr>()
        .map(|m| m.to_string())
        .map_err(|e| format!("not a multiaddr like /ip4/192.0.2.7/udp/4900/quic-v1 ({e})"))
}

/// `--advertise`: port 0 stands for the bound one.
pub(super) fn advertise(s: &str) -> Result<SocketAddr, String> {
    let address = s.parse::<SocketAddr>().or_else(|_| {
        let ip = s.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(s);
        ip.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0))
    });
    match address {
        Ok(a) if a.ip().is_unspecified() || a.ip().is_multicast() => Err("nobody can reach that address".to_owned()),
        Ok(a) => Ok(a),
        Err(_) => Err("expected IP or IP:PORT, like 192.0.2.7 or 192.0.2.7:4900".to_owned()),
    }
}

/// A time like `10m`; a bare number is in seconds, as other systems' variables have it.
pub(super) fn duration(s: &str) -> Result<Duration, String> {
    match s.trim().parse::<u64>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(s).map_err(|e| e.to_string()),
    }
}

/// `--leaf-ttl`.
pub(super) fn leaf_ttl(s: &str) -> Result<Duration, String> {
    let ttl = duration(s)?;
    if (super::LEAF_TTL_MIN..=super::LEAF_TTL_MAX).contains(&ttl) {
        Ok(ttl)
    } else {
        Err("must be between 1m and 366d".to_owned())
    }
}

/// `--log-level`: a word for Paceline's own lines, or tracing's filters.
pub(super) fn log_level(s: &str) -> Result<String, String> {
    crate::process::log_filter(s).map(|_| s.to_owned())
}

/// The token that `--join` or `--join-file` names.
pub(super) fn join_token(join: Option<&str>, file: Option<&Path>) -> Result<Option<Token>, Fault> {
    let (source, text) = match (join, file) {
        (Some("-"), _) => ("--join - (standard input)".to_owned(), read_bounded(std::io::stdin(), "standard input")?),
        (Some(join), _) => match join.strip_prefix('@') {
            Some(path) => (format!("--join {join}"), read_file("--join", Path::new(path))?),
            None if Path::new(join).is_file() => {
                return Err(Fault::user(format!(
                    "--join {join}: this is a file; to read the token in it: --join @{join}"
                )));
            }
            None => ("--join".to_owned(), join.to_owned()),
        },
        (None, Some(path)) => (format!("--join-file {}", path.display()), read_file("--join-file", path)?),
        (None, None) => return Ok(None),
    };
    Token::parse(text.trim()).map(Some).map_err(|e| Fault::user(format!("{source}: {e}")))
}

fn read_file(flag: &str, path: &Path) -> Result<String, Fault> {
    let file = std::fs::File::open(path)
        .map_err(|e| Fault::user(format!("{flag}: cannot read the token file {}: {e}", path.display())))?;
    read_bounded(file, &path.display().to_string())
}

fn read_bounded(source: impl Read, what: &str) -> Result<String, Fault> {
    let mut text = String::new();
    let read = source.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|e| Fault::user(format!("cannot read {what}: {e}")))?;
    if text.len() as u64 > TOKEN_BYTES_MAX {
        return Err(Fault::user(format!("{what} has more than {TOKEN_BYTES_MAX} bytes")));
    }
    Ok(text)
}
