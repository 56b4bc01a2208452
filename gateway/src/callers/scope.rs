//! What a caller may do: `service:NAME`, `service:*`, `jobs`, `read`, `admin`. And what a path asks for.
//!
//! Whatever is not named here needs `admin`, so that an endpoint that is added and forgotten is closed.

use std::{fmt, str::FromStr};

use http::Method;
use paceline_proto::id::ServiceName;
use serde::{Deserialize, Serialize};

/// Most scopes of a key or a JWT; further ones of a JWT are passed over.
pub const SCOPES_MAX: usize = 64;

/// One permission.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// Call this service.
    Service(ServiceName),
    /// Call any service.
    AnyService,
    /// Submit jobs and see them.
    Jobs,
    /// See the cluster, its workers and metrics; change nothing.
    Read,
    /// Everything: keys and join tokens too.
    Admin,
}

impl FromStr for Scope {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match (s, s.strip_prefix("service:")) {
            ("admin", _) => Ok(Scope::Admin),
            ("jobs", _) => Ok(Scope::Jobs),
            ("read", _) => Ok(Scope::Read),
            (_, Some("*")) => Ok(Scope::AnyService),
            (_, Some(name)) => name.parse().map(Scope::Service).map_err(|e| format!("`{s}`: {e}")),
            _ => Err(format!("`{s}` is no scope: expected service:NAME, service:*, jobs, read or admin")),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Service(name) => write!(f, "service:{name}"),
            Scope::AnyService => f.write_str("service:*"),
            Scope::Jobs => f.write_str("jobs"),
            Scope::Read => f.write_str("read"),
            Scope::Admin => f.write_str("admin"),
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs<'a> {
    /// Nothing: a bare yes or no for orchestrators, whose probes bear no credentials and name the host by its address.
    Nothing,
    /// To be a caller at all.
    Caller,
    /// `service:NAME`, of a name that need not be valid.
    Service(&'a str),
    /// `service:*`.
    Services,
    Jobs,
    Read,
    /// Never given to somebody who shows nothing.
    Admin,
}

/// What anything but a service asks for.
pub(crate) fn needs(method: &Method, path: &str) -> Needs<'static> {
    let looks = *method == Method::GET || *method == Method::HEAD || *method == Method::OPTIONS;
    let below = |base: &str| path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match path {
        "/livez" | "/readyz" if looks => Needs::Nothing,
        "/health" | "/api/admin/services" | "/api/openapi.json" if looks => Needs::Caller,
        _ if below("/api/admin/tokens") || below("/api/admin/keys") || below("/api/admin/revocations") => Needs::Admin,
        _ if below("/api/jobs") => Needs::Jobs,
        _ if below("/v1") => Needs::Services,
        _ if looks => Needs::Read,
        _ => Needs::Admin,
    }
}

/// Whether these scopes are enough.
pub(crate) fn suffice(scopes: &[Scope], needs: Needs<'_>) -> bool {
    scopes.iter().any(|scope| match (scope, needs) {
        (_, Needs::Nothing | Needs::Caller) | (Scope::Admin, _) => true,
        (Scope::Service(name), Needs::Service(wanted)) => name.as_str() == wanted,
        (Scope::AnyService, Needs::Service(_) | Needs::Services) => true,
        (Scope::Jobs, Needs::Jobs) | (Scope::Read, Needs::Read) => true,
        _ => false,
    })
}

impl Needs<'_> {
    /// The scope's name, for the caller who lacks it.
    pub(crate) fn scope(self) -> String {
        match self {
            Needs::Nothing | Needs::Caller => String::new(),
            // A name that is none must not reach a header.
            Needs::Service(name) => match ServiceName::new(name) {
                Ok(name) => format!("service:{name}"),
                Err(_) => "service:*".to_owned(),
            },
            Needs::Services => "service:*".to_owned(),
            Needs::Jobs => "jobs".to_owned(),
            Needs::Read => "read".to_owned(),
            Needs::Admin => "admin".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(list: &[&str]) -> Vec<Scope> {
        list.iter().map(|s| s.parse().expect("a scope")).collect()
    }

    #[test]
    fn scopes_are_read_and_written() {
        for text in ["service:files", "service:*", "jobs", "read", "admin"] {
            assert_eq!(text.parse::<Scope>().map(|s| s.to_string()), Ok(text.to_owned()));
        }
        for bad in ["", "service:", "service:No Name", "Admin", "openid", "service"] {
            assert!(bad.parse::<Scope>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_path_needs_and_what_is_not_named_needs_all() {
        let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
        for (method, path, wanted) in [
            (&get, "/livez", Needs::Nothing),
            (&post, "/livez", Needs::Admin),
            (&get, "/health", Needs::Caller),
            (&get, "/api/admin/services", Needs::Caller),
            (&get, "/metrics", Needs::Read),
            (&get, "/", Needs::Read),
            (&get, "/api/admin/workers", Needs::Read),
            (&get, "/api/admin/tokens", Needs::Admin),
            (&get, "/api/admin/tokens/", Needs::Admin),
            (&get, "/api/admin/keys", Needs::Admin),
            (&delete, "/api/admin/keys/x", Needs::Admin),
            (&get, "/api/jobs", Needs::Jobs),
            (&post, "/api/jobs", Needs::Jobs),
            (&delete, "/api/jobs/1", Needs::Jobs),
            (&post, "/api/workers/add", Needs::Admin),
            (&delete, "/api/workers/jobs/clear", Needs::Admin),
            (&post, "/v1/chat/completions", Needs::Services),
            (&post, "/v1x", Needs::Admin),
            (&post, "/never/heard/of", Needs::Admin),
        ] {
            assert_eq!(needs(method, path), wanted, "{method} {path}");
        }
    }

    #[test]
    fn scopes_allow_what_they_say_and_no_more() {
        let files = scopes(&["service:files"]);
        assert!(suffice(&files, Needs::Service("files")) && suffice(&files, Needs::Caller));
        for more in
            [Needs::Service("file"), Needs::Service("*"), Needs::Services, Needs::Jobs, Needs::Read, Needs::Admin]
        {
            assert!(!suffice(&files, more), "{more:?}");
        }
        let any = scopes(&["service:*", "jobs"]);
        assert!(suffice(&any, Needs::Service("x")) && suffice(&any, Needs::Services) && suffice(&any, Needs::Jobs));
        assert!(!suffice(&any, Needs::Read) && !suffice(&any, Needs::Admin));
        assert!(suffice(&scopes(&["admin"]), Needs::Admin) && suffice(&scopes(&["admin"]), Needs::Service("x")));
        assert!(!suffice(&[], Needs::Caller));
        assert_eq!(Needs::Service("No\r\nName").scope(), "service:*");
    }
}
