//! Why a caller is refused, and what the answer says of it (RFC 6750, section 3; RFC 6585, section 4).

use std::time::Duration;

use http::StatusCode;

/// Why a caller is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No credentials, and the words say why they are needed.
    Missing(&'static str),
    /// Credentials of no form that this gateway takes, or not its admin key.
    Wrong,
    UnknownKey,
    ExpiredKey,
    /// In words.
    Jwt(String),
    /// A JWT of a key that may come with a fetch.
    NewKey,
    /// A JWT, and the keys for it were never fetched.
    NoKeys,
    /// Known, and not allowed.
    Scope {
        label: String,
        scope: String,
    },
    /// The caller's rate is used up.
    Rate {
        label: String,
        wait: Duration,
    },
    /// As many of the caller's requests run as may.
    Places {
        label: String,
        max: u32,
    },
    /// The service's rate is used up.
    ServiceRate(Duration),
    /// Too many wrong credentials came from the same address.
    Failures(Duration),
    /// The request's head can be read in two ways.
    Head(&'static str),
}

impl Denied {
    /// What the caller is told; the log too.
    pub(crate) fn words(&self) -> String {
        match self {
            Denied::Missing(why) => {
                format!(
                    "{why}, so the request needs `Authorization: Bearer KEY`, with an API key, a JWT or the admin key"
                )
            }
            Denied::Wrong => {
                "the credentials are neither an API key, nor a JWT, nor the admin key of this gateway".into()
            }
            Denied::UnknownKey => "the API key is not one of this gateway: unknown or revoked".into(),
            Denied::ExpiredKey => "the API key has expired".into(),
            Denied::Jwt(words) => words.clone(),
            Denied::NewKey => "no key of this gateway fits the JWT's algorithm and key id".into(),
            Denied::NoKeys => "the keys that JWTs are judged by could not be fetched yet".into(),
            Denied::Scope { label, scope } => format!("`{label}` lacks the scope `{scope}`"),
            Denied::Rate { label, .. } => format!("`{label}` has used up its rate"),
            Denied::Places { label, max } => format!("`{label}` has {max} requests at once, as many as it may"),
            Denied::ServiceRate(_) => "the service's rate at this gateway is used up".into(),
            Denied::Failures(_) => "too many wrong credentials came from this address".into(),
            Denied::Head(words) => (*words).into(),
        }
    }

    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Denied::Missing(_)
            | Denied::Wrong
            | Denied::UnknownKey
            | Denied::ExpiredKey
            | Denied::Jwt(_)
            | Denied::NewKey => StatusCode::UNAUTHORIZED,
            Denied::NoKeys => StatusCode::SERVICE_UNAVAILABLE,
            Denied::Scope { .. } => StatusCode::FORBIDDEN,
            Denied::Rate { .. } | Denied::Places { .. } | Denied::ServiceRate(_) | Denied::Failures(_) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Denied::Head(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// `WWW-Authenticate`.
    pub(crate) fn challenge(&self) -> Option<String> {
        match (self, self.status()) {
            (Denied::Scope { scope, .. }, _) => {
                Some(format!("Bearer realm=\"paceline\", error=\"insufficient_scope\", scope=\"{scope}\""))
            }
            (Denied::Missing(_), _) => Some("Bearer realm=\"paceline\"".to_owned()),
            (_, StatusCode::UNAUTHORIZED) => Some("Bearer realm=\"paceline\", error=\"invalid_token\"".to_owned()),
            _ => None,
        }
    }

    /// Whole seconds after which it may go better.
    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        match self {
            Denied::Rate { wait, .. } | Denied::ServiceRate(wait) | Denied::Failures(wait) => {
                Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
            }
            Denied::Places { .. } => Some(1),
            Denied::NoKeys => Some(5),
            _ => None,
        }
    }

    /// Whether the connection is closed: who goes on guessing pays for a new one each time, and where the next request
    /// would begin is not known after a head that can be read in two ways.
    pub(crate) const fn closes(&self) -> bool {
        matches!(self, Denied::Failures(_) | Denied::Head(_))
    }

    /// Whether somebody may be guessing.
    pub(crate) const fn is_guess(&self) -> bool {
        matches!(self, Denied::Wrong | Denied::UnknownKey | Denied::ExpiredKey | Denied::Jwt(_) | Denied::NewKey)
    }
}
