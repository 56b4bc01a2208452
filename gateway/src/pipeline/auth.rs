//! Who may call. Without credentials only a caller on this machine, speaking to it by a loopback name, with nothing
//! between: a tunnel's traffic arrives from 127.0.0.1 too, and a web page can make a browser call 127.0.0.1.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::{
    HeaderMap, Uri,
    header::{AUTHORIZATION, FORWARDED, HOST, ORIGIN},
};

/// How callers are judged.
pub(crate) struct Policy {
    /// Bound to a loopback address.
    pub(crate) on_loopback: bool,
    /// Everybody may call, but what needs the admin key.
    pub(crate) insecure_no_auth: bool,
    /// Empty: nobody has it.
    pub(crate) admin_key: Box<str>,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Shows the admin key.
    Admin,
    /// Needs to show nothing.
    Local,
}

/// Why a caller is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No credentials, and the words say why they are needed.
    Missing(&'static str),
    /// A Bearer token that is not the admin key, where nothing else would do.
    Wrong,
}

impl Denied {
    pub(crate) fn words(&self) -> String {
        match self {
            Denied::Missing(why) => {
                format!(
                    "{why}, so the request needs `Authorization: Bearer KEY` with the admin key (<data-dir>/admin.key)"
                )
            }
            Denied::Wrong => "the Bearer token is not the admin key of this gateway".into(),
        }
    }
}

/// Judges a caller of anything that does not always need the key.
///
/// # Errors
/// Why it is refused.
pub(crate) fn authenticate(policy: &Policy, uri: &Uri, headers: &HeaderMap) -> Result<Caller, Denied> {
    if headers.contains_key(AUTHORIZATION) && shows_key(policy, headers) {
        return Ok(Caller::Admin);
    }
    if policy.insecure_no_auth {
        return Ok(Caller::Local);
    }
    match beyond_loopback(policy, uri, headers) {
        None => Ok(Caller::Local),
        Some(_) if headers.contains_key(AUTHORIZATION) => Err(Denied::Wrong),
        Some(why) => Err(Denied::Missing(why)),
    }
}

/// Judges a caller of what always needs the key.
///
/// # Errors
/// Why it is refused.
pub(crate) fn demand_key(policy: &Policy, headers: &HeaderMap) -> Result<Caller, Denied> {
    if shows_key(policy, headers) {
        Ok(Caller::Admin)
    } else if headers.contains_key(AUTHORIZATION) {
        Err(Denied::Wrong)
    } else {
        Err(Denied::Missing("this endpoint changes who may join"))
    }
}

fn shows_key(policy: &Policy, headers: &HeaderMap) -> bool {
    !policy.admin_key.is_empty()
        && headers
            .get(AUTHORIZATION)
            .and_then(|value| bearer(value.as_bytes()))
            .is_some_and(|token| equal_in_constant_time(token, policy.admin_key.as_bytes()))
}

/// The token of `Bearer TOKEN`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Takes as long for a wrong first byte as for a wrong last one; the length is no secret.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0u8, |seen, (x, y)| std::hint::black_box(seen | (x ^ y)));
    a.len() == b.len() && differing == 0
}

/// What shows that the request may come from beyond this machine.
fn beyond_loopback(policy: &Policy, uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
    if !policy.on_loopback {
        return Some("the gateway is not bound to loopback");
    }
    let mut hosts = headers.get_all(HOST).iter();
    let named_loopback = hosts.next().is_some_and(|host| host.to_str().is_ok_and(is_loopback_host))
        && hosts.next().is_none()
        && uri.authority().is_none_or(|authority| is_loopback_host(authority.as_str()));
    if !named_loopback {
        return Some("the Host is not a loopback address");
    }
    // An image or a link of another site's page bears no Origin, but browsers say where it stands (W3C Fetch Metadata).
    if headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none") {
        return Some("the request comes from another site's web page (Sec-Fetch-Site)");
    }
    headers.keys().find_map(|name| {
        if name == ORIGIN {
            Some("the request comes from a web page (Origin)")
        } else if is_of_a_proxy(name) {
            Some("the request came through a proxy or a tunnel")
        } else {
            None
        }
    })
}

/// What proxies and tunnels add. One that adds nothing and rewrites the Host looks like a caller on this machine.
fn is_of_a_proxy(name: &http::HeaderName) -> bool {
    let word = name.as_str();
    name == FORWARDED
        || name == http::header::VIA
        || ["x-real-ip", "true-client-ip", "cdn-loop", "x-forwarded"].contains(&word)
        || word.starts_with("x-forwarded-")
        || word.starts_with("cf-")
}

/// `127.0.0.0/8`, `[::1]` or `localhost`, with or without a port.
fn is_loopback_host(host: &str) -> bool {
    let (name, port) = if host.starts_with('[') {
        host.split_once(']').map_or((host, ""), |(name, port)| (&host[..name.len() + 1], port))
    } else {
        host.find(':').map_or((host, ""), |colon| host.split_at(colon))
    };
    let port_fits =
        port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok() && !p.starts_with('+'));
    let inner = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    port_fits
        && (name.eq_ignore_ascii_case("localhost")
            || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
            || inner.and_then(|ip| ip.parse::<Ipv6Addr>().ok()).is_some_and(|ip| ip.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(on_loopback: bool, insecure_no_auth: bool) -> Policy {
        Policy { on_loopback, insecure_no_auth, admin_key: "s3cret".into() }
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, value.parse().expect("value"));
        }
        map
    }

    fn judged(policy: &Policy, lines: &[(&'static str, &str)]) -> Result<Caller, Denied> {
        authenticate(policy, &Uri::from_static("/api/service/a"), &headers(lines))
    }

    #[test]
    fn only_loopback_names_are_loopback() {
        for good in ["127.0.0.1", "127.0.0.1:8080", "127.9.9.9:1", "localhost", "LocalHost:80", "[::1]", "[::1]:8080"] {
            assert!(is_loopback_host(good), "{good}");
        }
        for bad in [
            "",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.nip.io",
            "127.1",
            "0.0.0.0",
            "[::]",
            "::1",
            "10.0.0.1",
            "localhost:",
            "localhost:x",
            "localhost:99999",
            "localhost:+80",
            "127.0.0.1:80:80",
            "[::1",
            "[::1]x",
            "user@localhost",
            "0x7f.0.0.1",
            "[::ffff:127.0.0.1]",
            "localhost.",
        ] {
            assert!(!is_loopback_host(bad), "{bad}");
        }
    }

    #[test]
    fn the_loopback_rule() {
        let p = policy(true, false);
        let host = ("host", "127.0.0.1:8080");
        assert_eq!(judged(&p, &[host]), Ok(Caller::Local));
        for (name, value) in [
            ("origin", "http://127.0.0.1:8080"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-anything", "x"),
            ("x-real-ip", "1.2.3.4"),
            ("via", "1.1 proxy"),
            ("x-forwarded", "for=1.2.3.4"),
            ("true-client-ip", "1.2.3.4"),
            ("cdn-loop", "x"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("cf-ray", "x"),
            ("cf-connecting-ip", "1.2.3.4"),
        ] {
            assert!(matches!(judged(&p, &[host, (name, value)]), Err(Denied::Missing(_))), "{name}");
            assert_eq!(
                judged(&p, &[host, (name, value), ("authorization", "bearer s3cret")]),
                Ok(Caller::Admin),
                "{name}"
            );
            assert_eq!(judged(&policy(true, true), &[host, (name, value)]), Ok(Caller::Local), "{name}");
        }
        assert!(judged(&p, &[]).is_err(), "no Host");
        assert!(judged(&p, &[host, ("host", "evil.example")]).is_err(), "two Hosts");
        assert!(judged(&p, &[("host", "gateway.example")]).is_err());
        let other = Uri::from_static("http://evil.example/api/service/a");
        assert!(authenticate(&p, &other, &headers(&[host])).is_err(), "the absolute form names another host");
        assert!(judged(&policy(false, false), &[host]).is_err(), "not bound to loopback");
        assert_eq!(judged(&p, &[host, ("authorization", "Bearer of-the-service")]), Ok(Caller::Local));
        assert_eq!(judged(&policy(false, false), &[host, ("authorization", "Bearer no")]), Err(Denied::Wrong));
    }

    #[test]
    fn the_key_is_demanded_whatever_else_is_lifted() {
        let p = policy(true, true);
        let host = ("host", "localhost");
        assert!(matches!(demand_key(&p, &headers(&[host])), Err(Denied::Missing(_))));
        for wrong in ["Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret", "Bearer", "Bearer "] {
            assert_eq!(demand_key(&p, &headers(&[host, ("authorization", wrong)])), Err(Denied::Wrong), "{wrong}");
        }
        assert_eq!(demand_key(&p, &headers(&[("authorization", "Bearer s3cret")])), Ok(Caller::Admin));
        let keyless = Policy { on_loopback: true, insecure_no_auth: true, admin_key: "".into() };
        assert!(demand_key(&keyless, &headers(&[("authorization", "Bearer ")])).is_err());
    }
}
