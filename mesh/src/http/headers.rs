//! What a hop may not pass on (RFC 9110, section 7.6.1), and the headers that only Paceline sets.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CONNECTION, CONTENT_LENGTH, EXPECT, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
    },
};

/// What Paceline's own headers begin with.
pub const OWN_PREFIX: &str = "x-paceline-";

/// Most header names that a message's `Connection` may take away; hyper admits 100 headers.
const NAMED_MAX: usize = 100;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|token| !token.is_empty())
}

/// Whether it asks for another HTTP or for TLS (RFC 9110, 7.8): then requests that nobody looks at would follow.
fn is_http(value: &HeaderValue) -> bool {
    let begins =
        |token: &str, with: &str| token.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    tokens(value).any(|token| ["h2", "http/", "tls/"].iter().any(|with| begins(token, with)))
}

/// Removes what belongs to the connection: `Connection` and all that it names, `Keep-Alive`, `Proxy-*`, and `Upgrade`
/// unless `Connection` asks for it. Returns whether an upgrade is left, with its `Connection: upgrade`.
fn strip_connection(headers: &mut HeaderMap) -> bool {
    let mut upgrade = false;
    if headers.contains_key(CONNECTION) {
        let mut named: Vec<HeaderName> = Vec::new();
        for token in headers.get_all(CONNECTION).iter().flat_map(tokens).take(NAMED_MAX) {
            if token.eq_ignore_ascii_case("upgrade") {
                upgrade = true;
            } else if let Ok(name) = HeaderName::from_bytes(token.as_bytes()) {
                // Framing, trailers and the like are named by old clients too, but are dealt with by themselves; a
                // message may not take away what routes it.
                if ![TE, TRANSFER_ENCODING, http::header::TRAILER, http::header::HOST, http::header::CONTENT_LENGTH]
                    .contains(&name)
                {
                    named.push(name);
                }
            }
        }
        headers.remove(CONNECTION);
        for name in named {
            headers.remove(name);
        }
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    let upgrade = upgrade && headers.contains_key(UPGRADE) && !headers.get_all(UPGRADE).iter().any(is_http);
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
    upgrade
}

/// Whether CGI, WSGI and their like take a header for one that Paceline sets or judges by: they write both with
/// underscores.
fn is_twin(name: &HeaderName) -> bool {
    if !name.as_str().contains('_') {
        return false;
    }
    let read = name.as_str().replace('_', "-");
    read.starts_with(OWN_PREFIX)
        || read.starts_with("x-forwarded-")
        || ["x-request-id", "x-real-ip", "content-length", "transfer-encoding"].contains(&read.as_str())
}

/// Makes a caller's request fit for the next hop. `te: trailers` and `trailer` stay, and an upgrade's two headers;
/// `transfer-encoding` stays, because hyper takes it as the wish for a chunked body, also of a `GET`; `expect` goes,
/// because each hop answers it itself. Returns whether the request asks for an upgrade.
pub fn strip_request(headers: &mut HeaderMap) -> bool {
    let upgrade = strip_connection(headers);
    headers.remove(PROXY_AUTHORIZATION);
    headers.remove(EXPECT);
    if headers.keys().any(is_twin) {
        let twins: Vec<HeaderName> = headers.keys().filter(|name| is_twin(name)).cloned().collect();
        for name in twins {
            headers.remove(name);
        }
    }
    if headers.contains_key(TE) {
        let trailers = headers.get_all(TE).iter().flat_map(tokens).any(|token| token.eq_ignore_ascii_case("trailers"));
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
    upgrade
}

/// Makes a service's response fit for the next hop; hyper frames the body anew. `trailer` stays, and on a `101` the
/// upgrade's two headers (`switched`).
pub fn strip_response(headers: &mut HeaderMap, switched: bool) {
    if !strip_connection(headers) || !switched {
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
    }
    headers.remove(PROXY_AUTHENTICATE);
    if headers.remove(TRANSFER_ENCODING).is_some() {
        // It said where the body ends, and a length beside it says something else (RFC 9112, 6.3).
        headers.remove(CONTENT_LENGTH);
    }
}

/// Removes every header that only Paceline sets.
pub fn strip_own(headers: &mut HeaderMap) {
    if headers.keys().any(|name| name.as_str().starts_with(OWN_PREFIX)) {
        let own: Vec<HeaderName> =
            headers.keys().filter(|name| name.as_str().starts_with(OWN_PREFIX)).cloned().collect();
        for name in own {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    fn names(map: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_belongs_to_the_connection_goes() {
        let mut map = headers(&[
            ("connection", "close, X-Mine"),
            ("connection", "x-other"),
            ("x-mine", "1"),
            ("x-other", "2"),
            ("x-stays", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("te", "gzip"),
            ("trailer", "x-sum"),
        ]);
        assert!(!strip_request(&mut map));
        assert_eq!(names(&map), ["trailer", "x-stays"]);
    }

    #[test]
    fn an_upgrade_and_trailers_pass() {
        let mut map = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("te", "gzip;q=0.5, trailers"),
            ("transfer-encoding", "chunked"),
        ]);
        assert!(strip_request(&mut map));
        assert_eq!(map[CONNECTION], "upgrade");
        assert_eq!(map[UPGRADE], "websocket");
        assert_eq!(map[TE], "trailers");
        assert_eq!(map[TRANSFER_ENCODING], "chunked");
    }

    #[test]
    fn twins_of_what_is_set_here_and_upgrades_to_another_http_do_not_pass() {
        let mut map = headers(&[
            ("x_paceline_caller", "key:root"),
            ("x-forwarded_for", "6.6.6.6"),
            ("x_request_id", "1"),
            ("transfer_encoding", "chunked"),
            ("x_mine", "2"),
            ("connection", "Upgrade, HTTP2-Settings"),
            ("http2-settings", "AAMAAABk"),
            ("upgrade", "websocket, H2C"),
        ]);
        assert!(!strip_request(&mut map));
        assert_eq!(names(&map), ["x_mine"]);
    }

    #[test]
    fn a_length_beside_a_coding_goes() {
        let mut map = headers(&[("content-length", "5"), ("transfer-encoding", "chunked"), ("a", "b")]);
        strip_response(&mut map, false);
        assert_eq!(names(&map), ["a"]);
    }

    #[test]
    fn connection_cannot_take_away_what_routes_a_message() {
        let mut map = headers(&[("connection", "host, content-length, te"), ("host", "a"), ("content-length", "3")]);
        strip_request(&mut map);
        assert_eq!(names(&map), ["content-length", "host"]);
    }

    #[test]
    fn a_response_keeps_its_upgrade_only_when_it_switched() {
        let lines = [("connection", "upgrade"), ("upgrade", "websocket"), ("transfer-encoding", "chunked")];
        let mut map = headers(&lines);
        strip_response(&mut map, true);
        assert_eq!(names(&map), ["connection", "upgrade"]);
        let mut map = headers(&lines);
        strip_response(&mut map, false);
        assert!(map.is_empty());
    }

    #[test]
    fn own_headers_are_not_taken_from_outside() {
        let mut map = headers(&[("x-paceline-error", "timeout"), ("x-paceline-worker", "a"), ("x-pace", "b")]);
        strip_own(&mut map);
        assert_eq!(names(&map), ["x-pace"]);
    }
}
