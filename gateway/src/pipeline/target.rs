//! `/api/service/{name}/{path}`: which service, and the URI that it is to see. Percent-encoding and dots stay as sent.

use bytes::Bytes;
use http::{
    Uri,
    uri::{Parts, PathAndQuery},
};

/// What every service path begins with.
pub(crate) const PREFIX: &str = "/api/service/";

/// A service path, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    whole: PathAndQuery,
    /// End of the name.
    end: usize,
}

/// The target of a request; `None` where it is not for a service.
pub(crate) fn of(uri: &Uri) -> Option<Target> {
    let whole = uri.path_and_query()?;
    let rest = whole.as_str().strip_prefix(PREFIX)?;
    let length = rest.find(['/', '?']).unwrap_or(rest.len());
    (length > 0).then(|| Target { whole: whole.clone(), end: PREFIX.len() + length })
}

impl Target {
    /// The name as sent; it need not be of a valid form.
    pub(crate) fn service(&self) -> &str {
        &self.whole.as_str()[PREFIX.len()..self.end]
    }

    /// `/api/service/{name}`, for the service that wants to know where it is.
    pub(crate) fn mount(&self) -> &str {
        &self.whole.as_str()[..self.end]
    }

    /// What the service is to see: the path after the name, `/` where there is none, and the query.
    pub(crate) fn uri(&self) -> Uri {
        let rest = &self.whole.as_str()[self.end..];
        let bytes = match rest.as_bytes().first() {
            Some(b'/') => Bytes::copy_from_slice(rest.as_bytes()),
            _ => Bytes::from(format!("/{rest}")),
        };
        let mut parts = Parts::default();
        // A part of a valid path and query is one, and parts without a scheme make a URI: neither arm is taken.
        parts.path_and_query = PathAndQuery::from_maybe_shared(bytes).ok().or(Some(PathAndQuery::from_static("/")));
        Uri::from_parts(parts).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_sees_what_was_sent() {
        for (sent, service, seen) in [
            ("/api/service/files", "files", "/"),
            ("/api/service/files/", "files", "/"),
            ("/api/service/files?q=1", "files", "/?q=1"),
            ("/api/service/files/a/b?x=%20&y", "files", "/a/b?x=%20&y"),
            ("/api/service/files/%2e%2e/%2F?", "files", "/%2e%2e/%2F?"),
            ("/api/service/files/../../etc", "files", "/../../etc"),
            ("/api/service/files//evil.example/x", "files", "//evil.example/x"),
            ("http://127.0.0.1:8080/api/service/files/a", "files", "/a"),
            ("/api/service/UPPER/a", "UPPER", "/a"),
        ] {
            let target = of(&sent.parse().expect("uri")).expect(sent);
            assert_eq!((target.service(), target.uri().to_string().as_str()), (service, seen), "{sent}");
            assert!(target.uri().authority().is_none(), "{sent}");
        }
    }

    #[test]
    fn other_paths_are_not_for_a_service() {
        for sent in ["/", "/api/service", "/api/service/", "/api/service//a", "/api/services/x", "/api/service/?a"] {
            assert!(of(&sent.parse().expect("uri")).is_none(), "{sent}");
        }
        assert!(of(&Uri::from_static("example.org:443")).is_none(), "CONNECT");
    }
}
