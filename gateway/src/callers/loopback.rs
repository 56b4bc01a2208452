//! Whether a request comes from this machine, with nothing between: a tunnel's traffic arrives from 127.0.0.1 too, and
//! a web page can make a browser call 127.0.0.1.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::{
    HeaderMap, Uri,
    header::{FORWARDED, HOST, ORIGIN},
};

/// What shows that the request may come from beyond this machine.
pub(crate) fn beyond(on_loopback: bool, uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
    if !on_loopback {
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

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, value.parse().expect("value"));
        }
        map
    }

    fn is_local(lines: &[(&'static str, &str)]) -> bool {
        beyond(true, &Uri::from_static("/api/service/a"), &headers(lines)).is_none()
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
        let host = ("host", "127.0.0.1:8080");
        assert!(is_local(&[host]) && is_local(&[host, ("authorization", "Bearer of-the-service")]));
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
            assert!(!is_local(&[host, (name, value)]), "{name}");
        }
        assert!(!is_local(&[]), "no Host");
        assert!(!is_local(&[host, ("host", "evil.example")]), "two Hosts");
        assert!(!is_local(&[("host", "gateway.example")]));
        let other = Uri::from_static("http://evil.example/api/service/a");
        assert!(beyond(true, &other, &headers(&[host])).is_some(), "the absolute form names another host");
        assert!(beyond(false, &Uri::from_static("/"), &headers(&[host])).is_some(), "not bound to loopback");
    }
}
