//! `NAME=URL[,health=PATH|none][,kind=http|openai][,protocol=h2]` and `NAME=DIR`: what a service is, as a person wrote
//! it.

use std::path::PathBuf;

use http::Uri;
use paceline_mesh::{args::WorkerArgs, http::Protocol, process::Fault};
use paceline_proto::{
    id::ServiceName,
    manifest::{SERVICES_MAX, ServiceKind, TEXT_BYTES_MAX},
};

use super::{HealthCheck, Origin, ServiceSpec, Source, check_protocol};

/// Path of the health check unless told otherwise.
const DEFAULT_HEALTH: &str = "/health";

/// Parses every `--service` and `--serve`.
///
/// # Errors
/// What is wrong with which of them, in words for the user.
pub fn parse(args: &WorkerArgs) -> Result<Vec<ServiceSpec>, Fault> {
    let services = args.service.iter().map(|s| service(s).map_err(|e| Fault::user(format!("--service {s}: {e}"))));
    let serves = args.serve.iter().map(|s| serve(s).map_err(|e| Fault::user(format!("--serve {s}: {e}"))));
    let specs: Vec<ServiceSpec> = services.chain(serves).collect::<Result<_, _>>()?;
    if specs.len() > SERVICES_MAX {
        return Err(Fault::user(format!("{} services given, at most {SERVICES_MAX}", specs.len())));
    }
    for (i, spec) in specs.iter().enumerate() {
        if specs[..i].iter().any(|s| s.name == spec.name) {
            return Err(Fault::user(format!("the service `{}` is given twice", spec.name)));
        }
    }
    let offered = specs.iter().map(ServiceSpec::unseen).collect();
    paceline_proto::envelope::check_services(offered).map_err(Fault::user)?;
    Ok(specs)
}

fn named(text: &str) -> Result<(ServiceName, &str), String> {
    let (name, rest) = text.split_once('=').ok_or("expected NAME=...")?;
    let name = ServiceName::new(name).map_err(|e| e.to_string())?;
    if rest.is_empty() { Err("nothing follows the `=`".to_owned()) } else { Ok((name, rest)) }
}

/// `NAME=URL[,health=PATH|none][,kind=http|openai][,protocol=http/1.1|h2]`, as `--service` has it.
///
/// # Errors
/// What is wrong with it, in words.
pub fn service(text: &str) -> Result<ServiceSpec, String> {
    let (name, rest) = named(text)?;
    let mut parts = rest.split(',');
    let url = url(parts.next().unwrap_or_default())?;
    let (mut health, mut kind, mut protocol) = (None, ServiceKind::Http, Protocol::Http1);
    for part in parts {
        match part.split_once('=') {
            Some(("health", check)) => health = Some(health_check(Some(check))?),
            Some(("kind", "http")) => kind = ServiceKind::Http,
            Some(("kind", "openai")) => kind = ServiceKind::OpenAi,
            Some(("kind", other)) => return Err(format!("kind `{other}` is neither http nor openai")),
            Some(("protocol", "http/1.1")) => protocol = Protocol::Http1,
            Some(("protocol", "h2")) => protocol = Protocol::Http2,
            Some(("protocol", other)) => return Err(format!("protocol `{other}` is neither http/1.1 nor h2")),
            _ => {
                let known = "health=PATH, health=none, kind=http, kind=openai, protocol=h2";
                return Err(format!("`{part}` is none of {known}"));
            }
        }
    }
    check_protocol(protocol, kind)?;
    let health = health.map_or_else(|| health_of(protocol, None), Ok)?;
    Ok(ServiceSpec { kind, protocol, ..ServiceSpec::new(name, Source::Http { url, health }, Origin::Flag) })
}

/// A service's URL: `http://host[:port][/base]`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn url(text: &str) -> Result<Uri, String> {
    let form = "expected a URL like http://127.0.0.1:8100";
    let uri: Uri = text.parse().map_err(|e| format!("{form}: {e}"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(
                "https is not spoken to services: let it listen for http on this machine, or put a local proxy before it"
                    .to_owned(),
            );
        }
        _ => return Err(form.to_owned()),
    }
    let authority = uri.authority().ok_or(form)?;
    if authority.as_str().contains('@') {
        return Err("a user or password in the URL is not supported".to_owned());
    }
    if authority.host().is_empty() || authority.host().len() > TEXT_BYTES_MAX || authority.port_u16() == Some(0) {
        return Err(form.to_owned());
    }
    if authority.port_u16().is_none() && authority.as_str() != authority.host() {
        return Err("the port must be a number from 1 to 65535".to_owned());
    }
    if uri.query().is_some() || text.contains('#') {
        return Err("a service's URL has no `?` and no `#`".to_owned());
    }
    Ok(uri)
}

/// The health check of a service that speaks `protocol`: where nothing is said, one of HTTP/2 is looked at by a connection
/// alone, for gRPC servers answer no `GET`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn health_of(protocol: Protocol, text: Option<&str>) -> Result<HealthCheck, String> {
    match (protocol, text) {
        (Protocol::Http2, None) => Ok(HealthCheck::Connect),
        _ => health_check(text),
    }
}

/// A health check as a person writes it: a path, or `none`; `/health` where nothing is said.
///
/// # Errors
/// What is wrong with it, in words.
pub fn health_check(text: Option<&str>) -> Result<HealthCheck, String> {
    match text.unwrap_or(DEFAULT_HEALTH) {
        "none" => Ok(HealthCheck::Connect),
        path if path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok() => {
            Ok(HealthCheck::Path(path.to_owned()))
        }
        other => Err(format!("health={other}: expected a path like /ping, or none")),
    }
}

/// `NAME=DIR`, as `--serve` has it.
///
/// # Errors
/// What is wrong with it, in words.
pub fn serve(text: &str) -> Result<ServiceSpec, String> {
    let (name, path) = named(text)?;
    Ok(ServiceSpec::new(name, Source::Directory(directory(path)?), Origin::Flag))
}

/// A directory that can be served, by its canonical path.
///
/// # Errors
/// Why it cannot, in words.
pub fn directory(path: &str) -> Result<PathBuf, String> {
    let words = |e: std::io::Error| format!("{path}: {e}");
    let directory = std::fs::canonicalize(path).map_err(words)?;
    if !directory.is_dir() {
        return Err(format!("{}: is not a directory", directory.display()));
    }
    std::fs::read_dir(&directory).map_err(words)?;
    if directory.ancestors().any(crate::files::is_data_directory) {
        return Err(format!(
            "{}: is (in) a data directory of Paceline, whose keys must not be served",
            directory.display()
        ));
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(service: &[&str], serve: &[&str]) -> WorkerArgs {
        let own = |v: &[&str]| v.iter().map(|s| (*s).to_owned()).collect();
        WorkerArgs { service: own(service), serve: own(serve), max_concurrency: None, no_detect: false }
    }

    #[test]
    fn good_services() {
        let specs = parse(&args(
            &[
                "a=http://127.0.0.1:8100",
                "b=http://[::1]/x/,health=/ping?deep=1",
                "c=http://h:1,health=none,kind=openai",
            ],
            &[],
        ))
        .unwrap();
        let checks: Vec<_> = specs
            .iter()
            .map(|s| match &s.source {
                Source::Http { health, .. } => (health.clone(), s.kind),
                Source::Directory(_) => unreachable!(),
            })
            .collect();
        assert_eq!(
            checks,
            [
                (HealthCheck::Path("/health".into()), ServiceKind::Http),
                (HealthCheck::Path("/ping?deep=1".into()), ServiceKind::Http),
                (HealthCheck::Connect, ServiceKind::OpenAi),
            ]
        );
    }

    #[test]
    fn bad_services_are_named_with_words() {
        for (text, said) in [
            ("notes", "NAME="),
            ("Notes=http://a", "must match"),
            ("notes=", "nothing follows"),
            ("notes=8100", "like http://127.0.0.1:8100"),
            ("notes=ftp://a", "like http"),
            ("notes=https://a", "https is not spoken"),
            ("notes=http://", "like http"),
            ("notes=http://u:p@a", "user or password"),
            ("notes=http://a:0", "like http"),
            ("notes=http://a:99999", "1 to 65535"),
            ("notes=http://a:", "1 to 65535"),
            ("notes=http://a/?x", "no `?`"),
            ("notes=http://a,ping", "none of health=PATH"),
            ("notes=http://a,health=ping", "like /ping"),
            ("notes=http://a,kind=grpc", "neither http nor openai"),
        ] {
            let fault = parse(&args(&[text], &[])).unwrap_err();
            assert_eq!(fault.code(), 2);
            let words = fault.to_string();
            assert!(words.starts_with(&format!("--service {text}: ")) && words.contains(said), "{words}");
        }
        assert!(parse(&args(&["a=http://x", "a=http://y"], &[])).unwrap_err().to_string().contains("twice"));
        let many: Vec<String> = (0..=SERVICES_MAX).map(|i| format!("s{i}=http://x")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(parse(&args(&many, &[])).unwrap_err().to_string().contains("at most"));
    }

    #[test]
    fn directories_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "").unwrap();
        assert!(parse(&args(&[], &[&format!("f={}", dir.path().display())])).is_ok());
        for (path, said) in [(file, "not a directory"), (dir.path().join("none"), "No such file")] {
            let words = parse(&args(&[], &[&format!("f={}", path.display())])).unwrap_err().to_string();
            assert!(words.contains(said) && words.contains(path.to_str().unwrap()), "{words}");
        }
    }
}
