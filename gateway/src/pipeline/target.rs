//! `/api/service/{name}/{path}`: which service, and the URI that it is to see. Percent-encoding and dots stay as sent.

use bytes::Bytes;
use http::{
    HeaderName, Request, Uri,
    header::CONTENT_TYPE,
    uri::{Parts, PathAndQuery},
};
use paceline_proto::id::ServiceName;

/// What every service path begins with.
pub(crate) const PREFIX: &str = "/api/service/";

/// Which service a gRPC call is for, where its path cannot say so.
pub(crate) const SERVICE: HeaderName = HeaderName::from_static("x-paceline-service");
/// What the media types of gRPC begin with.
const GRPC: &[u8] = b"application/grpc";

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

/// The target of a gRPC call, whose path is made of its protocol's names alone (`/package.Service/Method`): a metadatum
/// names the service here. Only gRPC is routed so: for anything else the path decides.
pub(crate) fn of_grpc<B>(request: &Request<B>) -> Option<Target> {
    let headers = request.headers();
    let mut names = headers.get_all(SERVICE).iter();
    let name = ServiceName::new(names.next()?.to_str().ok()?).ok().filter(|_| names.next().is_none())?;
    if !headers.get(CONTENT_TYPE)?.as_bytes().starts_with(GRPC) {
        return None;
    }
    let path = request.uri().path_and_query()?;
    let whole = PathAndQuery::from_maybe_shared(Bytes::from(format!("{PREFIX}{name}{path}"))).ok()?;
    Some(Target { whole, end: PREFIX.len() + name.as_str().len() })
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
    fn a_grpc_call_says_its_service_in_a_header() {
        let call = |kind: &str, names: &[&str]| {
            let mut request = Request::post("http://a/pkg.Greeter/Hello").header(CONTENT_TYPE, kind);
            for name in names {
                request = request.header(SERVICE, *name);
            }
            of_grpc(&request.body(()).expect("a request"))
        };
        let target = call("application/grpc+proto", &["greeter"]).expect("a target");
        assert_eq!((target.service(), target.uri().to_string().as_str()), ("greeter", "/pkg.Greeter/Hello"));
        assert!(call("application/json", &["greeter"]).is_none(), "only gRPC");
        assert!(call("application/grpc", &[]).is_none());
        assert!(call("application/grpc", &["a", "b"]).is_none(), "one of two");
        assert!(call("application/grpc", &["a/../b"]).is_none(), "no name");
    }

    #[test]
    fn other_paths_are_not_for_a_service() {
        for sent in ["/", "/api/service", "/api/service/", "/api/service//a", "/api/services/x", "/api/service/?a"] {
            assert!(of(&sent.parse().expect("uri")).is_none(), "{sent}");
        }
        assert!(of(&Uri::from_static("example.org:443")).is_none(), "CONNECT");
    }
}
