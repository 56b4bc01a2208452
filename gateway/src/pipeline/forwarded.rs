//! What a service is told of its caller, and what it is not told: the admin key. Headers of ours are gone already
//! ([`super::wishes`]).

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{FORWARDED, HOST},
};

use super::Call;
use crate::{
    callers::{Caller, House, strip_credentials},
    request_id::X_REQUEST_ID,
};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST_SEEN: HeaderName = HeaderName::from_static("x-forwarded-host");
const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Who calls, for services that keep a record: `key:ID` or `jwt:SUBJECT`.
const CALLER: HeaderName = HeaderName::from_static("x-paceline-caller");

/// Rewrites a request's headers. What a proxy says of the caller that is configured to be believed is added to; from
/// anywhere else it is replaced.
pub(crate) fn rewrite(headers: &mut HeaderMap, call: &Call, caller: &Caller, house: &House) {
    strip_credentials(headers, caller, &house.admin_key);
    if let Caller::Known(identity) = caller
        && let Ok(label) = HeaderValue::from_str(&identity.label)
    {
        headers.insert(CALLER, label);
    }
    let believed = house.callers.trusts(call.peer);
    rewrite_for(headers, call.peer, call.target.mount(), believed, call.encrypted);
    headers.insert(X_REQUEST_ID, call.id.value());
}

fn rewrite_for(headers: &mut HeaderMap, peer: IpAddr, mount: &str, believed: bool, encrypted: bool) {
    if !believed {
        for name in [FOR, PROTO, HOST_SEEN, PREFIX, FORWARDED] {
            headers.remove(name);
        }
    }
    let before = joined(headers, &FOR);
    put(headers, FOR, &if before.is_empty() { peer.to_string() } else { format!("{before}, {peer}") });
    if !headers.contains_key(PROTO) {
        headers.insert(PROTO, HeaderValue::from_static(if encrypted { "https" } else { "http" }));
    }
    let host = headers.remove(HOST);
    if let Some(host) = host
        && !headers.contains_key(HOST_SEEN)
    {
        headers.insert(HOST_SEEN, host);
    }
    let before = joined(headers, &PREFIX);
    match before.trim_end_matches('/') {
        "" => put(headers, PREFIX, mount),
        before => put(headers, PREFIX, &format!("{before}{mount}")),
    }
}

/// All values of a header as one list.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let mut list = String::new();
    for value in headers.get_all(name).iter().filter_map(|value| value.to_str().ok()) {
        if !list.is_empty() {
            list.push_str(", ");
        }
        list.push_str(value);
    }
    list
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Made of header values, an address and a path: always a value itself.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn rewritten(peer: &str, believed: bool, lines: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut map = headers(lines);
        rewrite_for(&mut map, peer.parse().expect("ip"), "/api/service/files", believed, false);
        let text = |v: &HeaderValue| v.to_str().expect("ascii").to_owned();
        let mut all: Vec<_> = map.iter().map(|(n, v)| (n.to_string(), text(v))).collect();
        all.sort();
        all
    }

    fn expect(lines: &[(&str, &str)]) -> Vec<(String, String)> {
        lines.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_plain_caller_is_described() {
        let seen = rewritten("127.0.0.1", false, &[("host", "localhost:8080"), ("authorization", "Bearer x")]);
        let want = expect(&[
            ("authorization", "Bearer x"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", "localhost:8080"),
            ("x-forwarded-prefix", "/api/service/files"),
            ("x-forwarded-proto", "http"),
        ]);
        assert_eq!(seen, want);
    }

    #[test]
    fn a_tunnel_on_loopback_is_believed_and_a_stranger_is_not() {
        let lines = [
            ("host", "inner"),
            ("x-forwarded-for", "9.9.9.9"),
            ("x-forwarded-for", "8.8.8.8"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "public.example"),
            ("x-forwarded-prefix", "/base/"),
            ("forwarded", "for=9.9.9.9"),
        ];
        let believed = rewritten("::1", true, &lines);
        let want = expect(&[
            ("forwarded", "for=9.9.9.9"),
            ("x-forwarded-for", "9.9.9.9, 8.8.8.8, ::1"),
            ("x-forwarded-host", "public.example"),
            ("x-forwarded-prefix", "/base/api/service/files"),
            ("x-forwarded-proto", "https"),
        ]);
        assert_eq!(believed, want);
        let replaced = rewritten("10.0.0.7", false, &lines);
        let want = expect(&[
            ("x-forwarded-for", "10.0.0.7"),
            ("x-forwarded-host", "inner"),
            ("x-forwarded-prefix", "/api/service/files"),
            ("x-forwarded-proto", "http"),
        ]);
        assert_eq!(replaced, want);
    }
}
