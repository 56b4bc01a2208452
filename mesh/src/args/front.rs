//! The flags of a gateway that say who may call it and how much: keys and JWTs, proxies that are believed, TLS, and
//! every bound, each with its default.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, builder::NonEmptyStringValueParser};
use ipnet::IpNet;
use paceline_proto::id::ServiceName;
use serde::{Deserialize, Serialize};

use super::{ENV_DELIMITER, headings, values};

/// Longest time of a rate, of a timeout.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// Shortest timeout of a client.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// Most requests that a rate may name.
const RATE_COUNT_MAX: u32 = 1_000_000_000;

/// Flags that say who may call.
#[derive(Args, Clone, Debug, Default)]
pub struct CallerArgs {
    /// Take JWTs that are signed with this secret (HS256): a file with at least 32 bytes
    #[arg(long, value_name = "FILE", env = "PACELINE_JWT_SECRET_FILE", help_heading = headings::CALLERS)]
    pub jwt_secret_file: Option<PathBuf>,

    /// Take JWTs that are signed with a key of this JWK set (RS256, ES256, EdDSA): a file, or a URL that is fetched
    #[arg(long, value_name = "FILE|URL", env = "PACELINE_JWT_JWKS", help_heading = headings::CALLERS)]
    pub jwt_jwks: Option<Jwks>,

    /// The issuer that a JWT must name (repeatable: one of them) [default: any]
    #[arg(long, value_name = "ISS", env = "PACELINE_JWT_ISSUER", value_delimiter = ENV_DELIMITER, value_parser = NonEmptyStringValueParser::new(), help_heading = headings::CALLERS)]
    pub jwt_issuer: Vec<String>,

    /// The audience that a JWT must name (repeatable: one of them) [default: a JWT that names one is refused]
    #[arg(long, value_name = "AUD", env = "PACELINE_JWT_AUDIENCE", value_delimiter = ENV_DELIMITER, value_parser = NonEmptyStringValueParser::new(), help_heading = headings::CALLERS)]
    pub jwt_audience: Vec<String>,

    /// A proxy or tunnel whose X-Forwarded-* headers are believed: an address or a network (repeatable)
    #[arg(long, value_name = "CIDR", env = "PACELINE_TRUSTED_PROXY", value_delimiter = ENV_DELIMITER, value_parser = network, help_heading = headings::CALLERS)]
    pub trusted_proxy: Vec<IpNet>,

    /// A web origin whose pages may call, its scheme and host, or * (repeatable) [default: none]
    #[arg(long, value_name = "ORIGIN", env = "PACELINE_CORS_ORIGIN", value_delimiter = ENV_DELIMITER, value_parser = origin, help_heading = headings::CALLERS)]
    pub cors_origin: Vec<String>,

    /// Serve HTTPS with this certificate chain (PEM); read again when it changes
    #[arg(long, value_name = "FILE", env = "PACELINE_TLS_CERT", help_heading = headings::CALLERS)]
    pub tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert (PEM)
    #[arg(long, value_name = "FILE", env = "PACELINE_TLS_KEY", help_heading = headings::CALLERS)]
    pub tls_key: Option<PathBuf>,
}

/// Flags that say how much.
#[derive(Args, Clone, Debug)]
pub struct LimitArgs {
    /// Requests of one API key or JWT subject, where the key says nothing else, like 60/min [default: no limit]
    #[arg(long, value_name = "RATE", env = "PACELINE_KEY_RATE", help_heading = headings::LIMITS)]
    pub key_rate: Option<Rate>,

    /// Requests of one API key or JWT subject at once
    #[arg(long, value_name = "N", env = "PACELINE_KEY_CONCURRENCY", default_value = "256", value_parser = clap::value_parser!(u32).range(1..), help_heading = headings::LIMITS)]
    pub key_concurrency: u32,

    /// Requests to one service at this gateway, like llm=60/min, or *=100/s for each (repeatable) [default: no limit]
    #[arg(long, value_name = "NAME=RATE", env = "PACELINE_SERVICE_RATE", value_delimiter = ENV_DELIMITER, help_heading = headings::LIMITS)]
    pub service_rate: Vec<ServiceRate>,

    /// Longest body of a request; bodies are streamed, not held
    #[arg(long, value_name = "SIZE", env = "PACELINE_MAX_BODY", default_value = "10GiB", value_parser = size, help_heading = headings::LIMITS)]
    pub max_body: u64,

    /// Client connections at once
    #[arg(long, value_name = "N", env = "PACELINE_MAX_CONNECTIONS", default_value = "32768", value_parser = clap::value_parser!(u32).range(1..), help_heading = headings::LIMITS)]
    pub max_connections: u32,

    /// Of them from one address (IPv6: one /64), but for loopback and trusted proxies
    #[arg(long, value_name = "N", env = "PACELINE_MAX_CONNECTIONS_PER_ADDRESS", default_value = "1024", value_parser = clap::value_parser!(u32).range(1..), help_heading = headings::LIMITS)]
    pub max_connections_per_address: u32,

    /// How long a client may take for a request's head, and for a TLS handshake
    #[arg(long, value_name = "TIME", env = "PACELINE_HEADER_TIMEOUT", default_value = "30s", value_parser = timeout, help_heading = headings::LIMITS)]
    pub header_timeout: Duration,

    /// How long nothing may come of a request's body before there is an answer
    #[arg(long, value_name = "TIME", env = "PACELINE_BODY_TIMEOUT", default_value = "30s", value_parser = timeout, help_heading = headings::LIMITS)]
    pub body_timeout: Duration,

    /// How long a client may take nothing of an answer that waits for it; a silent event stream is not meant
    #[arg(long, value_name = "TIME", env = "PACELINE_WRITE_TIMEOUT", default_value = "60s", value_parser = timeout, help_heading = headings::LIMITS)]
    pub write_timeout: Duration,

    /// How long a connection may stay open without a request
    #[arg(long, value_name = "TIME", env = "PACELINE_IDLE_TIMEOUT", default_value = "5m", value_parser = timeout, help_heading = headings::LIMITS)]
    pub idle_timeout: Duration,
}

impl Default for LimitArgs {
    /// As without any flag, which a test compares.
    fn default() -> Self {
        Self {
            key_rate: None,
            key_concurrency: 256,
            service_rate: Vec::new(),
            max_body: 10 << 30,
            max_connections: 32 * 1024,
            max_connections_per_address: 1024,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
        }
    }
}

/// Where a JWK set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jwks {
    /// Looked at every second, read when it has changed.
    File(PathBuf),
    /// `https`, or `http` on loopback.
    Url(http::Uri),
}

impl FromStr for Jwks {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if s.is_empty() {
            return Err("expected a file, or a URL like https://id.example/.well-known/jwks.json".to_owned());
        }
        if !s.contains("://") {
            return Ok(Jwks::File(s.into()));
        }
        let url: http::Uri = s.parse().map_err(|e| format!("not a URL: {e}"))?;
        if url.authority().is_none_or(|a| a.as_str().contains('@')) {
            return Err("expected a URL without a user".to_owned());
        }
        match (url.scheme_str(), url.host().unwrap_or_default()) {
            (Some("https"), _) | (Some("http"), "127.0.0.1" | "[::1]" | "localhost") => Ok(Jwks::Url(url)),
            _ => Err("expected https: whoever is on the way could put in keys of their own".to_owned()),
        }
    }
}

/// So many requests in so much time, like `60/min`, `5/s`, `1000/h` or `10/30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    /// Requests; at least 1. So many may come at once after a rest.
    pub count: u32,
    /// In which; 1 s to 24 h.
    pub per: Duration,
}

impl FromStr for Rate {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let form = || format!("`{s}` is no rate like 60/min, 5/s, 1000/h or 10/30s");
        let (count, per) = s.split_once('/').ok_or_else(form)?;
        let count = count.trim().parse::<u32>().map_err(|_| form())?;
        let per = match per.trim() {
            "s" | "sec" | "second" => Duration::from_secs(1),
            "m" | "min" | "minute" => Duration::from_secs(60),
            "h" | "hour" => Duration::from_secs(3600),
            "d" | "day" => TIME_MAX,
            other => values::duration(other).map_err(|_| form())?,
        };
        if !(1..=RATE_COUNT_MAX).contains(&count) || !(Duration::from_secs(1)..=TIME_MAX).contains(&per) {
            return Err(format!("`{s}`: 1 to {RATE_COUNT_MAX} requests in 1s to 24h"));
        }
        Ok(Self { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per.as_secs() {
            1 => "s".to_owned(),
            60 => "min".to_owned(),
            3600 => "h".to_owned(),
            _ => humantime::format_duration(self.per).to_string().replace(' ', ""),
        };
        write!(f, "{}/{per}", self.count)
    }
}

impl TryFrom<String> for Rate {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

/// `--service-rate NAME=RATE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRate {
    /// `None`: each service that is not named.
    pub service: Option<ServiceName>,
    /// Its rate.
    pub rate: Rate,
}

impl FromStr for ServiceRate {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (name, rate) = s.split_once('=').ok_or("expected NAME=RATE, like llm=60/min")?;
        let service = match name.trim() {
            "*" => None,
            name => Some(name.parse::<ServiceName>().map_err(|e| e.to_string())?),
        };
        Ok(Self { service, rate: rate.parse()? })
    }
}

fn timeout(s: &str) -> Result<Duration, String> {
    let time = values::duration(s)?;
    if (TIMEOUT_MIN..=TIME_MAX).contains(&time) { Ok(time) } else { Err("must be between 100ms and 24h".to_owned()) }
}

/// An address stands for itself alone.
fn network(s: &str) -> Result<IpNet, String> {
    let alone = || s.parse::<std::net::IpAddr>().map(IpNet::from);
    s.parse::<IpNet>()
        .or_else(|_| alone())
        .map(|net| net.trunc())
        .map_err(|_| "expected an address or a network, like 127.0.0.1 or 10.0.0.0/8".to_owned())
}

/// As a browser writes it: scheme, host, and a port that is not the scheme's own.
fn origin(s: &str) -> Result<String, String> {
    let form = "expected an origin as browsers write it, like https://app.example or http://localhost:3000, or *";
    if s == "*" {
        return Ok(s.to_owned());
    }
    let (scheme, host) = s.split_once("://").ok_or(form)?;
    let fine = !scheme.is_empty()
        && !host.is_empty()
        && s.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase())
        && !host.contains(['/', '@', '?', '#', '*', ',']);
    if fine { Ok(s.to_owned()) } else { Err(form.to_owned()) }
}

/// Bytes, alone or with a unit: `65536`, `64KiB`, `10GiB`, `10GB`.
fn size(s: &str) -> Result<u64, String> {
    let form = || format!("`{s}` is no size like 65536, 64KiB or 10GiB");
    let text = s.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1_u64 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(form()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(form)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        limits: LimitArgs,
    }

    #[test]
    fn the_defaults_are_those_of_the_flags() {
        let parsed = Alone::try_parse_from(["x"]).expect("no flag is needed").limits;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", LimitArgs::default()));
    }

    #[test]
    fn rates_are_read_and_written() {
        for (text, count, per_s, written) in [
            ("60/min", 60, 60, "60/min"),
            ("5/s", 5, 1, "5/s"),
            ("1000/h", 1000, 3600, "1000/h"),
            ("10/30s", 10, 30, "10/30s"),
            ("7/d", 7, 86400, "7/1day"),
            ("60/1m", 60, 60, "60/min"),
        ] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!(rate, Rate { count, per: Duration::from_secs(per_s) }, "{text}");
            assert_eq!(rate.to_string(), written);
            assert_eq!(written.parse(), Ok(rate));
        }
        for bad in ["60", "0/s", "x/s", "1/0s", "1/2d", "-1/s", "1/fortnight", "/s", "1/"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        let each: ServiceRate = "*=1/s".parse().expect("each");
        assert_eq!((each.service, each.rate.count), (None, 1));
        assert!("Bad Name=1/s".parse::<ServiceRate>().is_err() && "llm".parse::<ServiceRate>().is_err());
    }

    #[test]
    fn sizes_networks_origins_and_urls() {
        for (text, bytes) in
            [("65536", 65_536), ("64KiB", 65_536), ("1 k", 1024), ("10GiB", 10 << 30), ("2MB", 2_000_000)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "GiB", "1.5GiB", "99999999999GiB", "1 parsec", "-1"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(network("127.0.0.1").map(|n| n.to_string()), Ok("127.0.0.1/32".to_owned()));
        assert_eq!(network("10.1.2.3/8").map(|n| n.to_string()), Ok("10.0.0.0/8".to_owned()));
        assert!(network("10.0.0.0/33").is_err() && network("proxy.example").is_err());
        for good in ["*", "https://app.example", "http://localhost:3000"] {
            assert!(origin(good).is_ok(), "{good}");
        }
        for bad in
            ["app.example", "https://app.example/", "https://App.example", "https://*.example", "https://", "null"]
        {
            assert!(origin(bad).is_err(), "{bad}");
        }
        assert_eq!("keys.json".parse(), Ok(Jwks::File("keys.json".into())));
        assert!(matches!("https://id.example/jwks".parse(), Ok(Jwks::Url(_))));
        assert!(matches!("http://127.0.0.1:1/jwks".parse(), Ok(Jwks::Url(_))));
        for bad in
            ["", "http://id.example/jwks", "ftp://x/y", "https://u:p@id.example/", "http://127.0.0.1.evil.example/"]
        {
            assert!(bad.parse::<Jwks>().is_err(), "{bad}");
        }
    }
}
