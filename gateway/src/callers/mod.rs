//! Who may call a gateway, and how much: credentials, scopes, limits, and what is refused in which words.
//!
//! A caller on this machine with nothing between needs to show nothing (`loopback`), and pays for nothing here but two
//! lookups in its headers: no lock, no allocation. Anybody else shows the admin key, an API key (`keys`) or a JWT
//! (`jwt`), as `Authorization: Bearer` or `X-API-Key`, and may do what its scopes say (`scope`). What needs `admin` is
//! never open to somebody who shows nothing.

mod connections;
mod cors;
mod failures;
mod files;
mod identity;
mod jwt;
mod keys;
mod loopback;
mod rate;
mod refusal;
mod scope;
mod source;
mod tls;
mod wire;

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Instant,
};

use http::{
    HeaderMap, HeaderName, Request, Response, Uri,
    header::{AUTHORIZATION, HeaderValue},
};
use paceline_mesh::args::{GatewayArgs, LimitArgs};
use tokio::net::TcpStream;

use self::{
    connections::Connections,
    cors::Cors,
    failures::Failures,
    identity::{Identity, Spent},
    jwt::Jwts,
    rate::ServiceRates,
    source::Proxies,
    tls::Tls,
    wire::Wire,
};
pub(crate) use self::{
    connections::{Held, check_host},
    identity::Place,
    refusal::Denied,
    scope::{Needs, needs},
    wire::{Agreed, Stream},
};
pub use self::{
    jwt::LEEWAY_S,
    keys::{KEYS_MAX, Keys, KeysError, NAME_BYTES_MAX, Record, TTL_S_MAX, Wanted},
    scope::{SCOPES_MAX, Scope},
};
use crate::{GatewayError, outgoing::Outgoing};

/// Where a key goes when `Authorization` is the service's own.
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Most bytes of a path in a log line.
const PATH_BYTES_MAX: usize = 128;

/// All that decides on callers.
#[derive(Debug)]
pub struct Callers {
    insecure_no_auth: bool,
    keys: Arc<Keys>,
    jwts: Option<Jwts>,
    proxies: Proxies,
    cors: Option<Cors>,
    tls: Option<Tls>,
    service_rates: Option<ServiceRates>,
    limits: LimitArgs,
    failures: Failures,
    connections: Arc<Connections>,
}

impl Default for Callers {
    /// Without any flag, and without a file for keys.
    fn default() -> Self {
        let limits = LimitArgs::default();
        Self {
            insecure_no_auth: false,
            keys: Arc::new(Keys::in_memory(None, limits.key_concurrency)),
            jwts: None,
            proxies: Proxies::default(),
            cors: None,
            tls: None,
            service_rates: None,
            connections: Connections::new(limits.max_connections_per_address),
            limits,
            failures: Failures::default(),
        }
    }
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Shows the admin key.
    Admin,
    /// Needs to show nothing.
    Local,
    /// Shows an API key or a JWT.
    Known(Arc<Identity>),
}

/// A request that may go on.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) caller: Caller,
    /// To be held until the answer has ended.
    pub(crate) place: Option<Place>,
}

/// Who is on the other side of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) ip: IpAddr,
    pub(crate) encrypted: bool,
}

/// What a request is judged by.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) peer: IpAddr,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
}

/// What the gateway's start adds.
#[derive(Debug)]
pub(crate) struct House {
    /// Bound to a loopback address.
    pub(crate) on_loopback: bool,
    /// Empty: nobody has it.
    pub(crate) admin_key: Box<str>,
    pub(crate) callers: Arc<Callers>,
}

impl Callers {
    /// Reads all files that the flags name, and the API keys of the data directory; nothing is changed or started.
    ///
    /// # Errors
    /// What the user must change, in one line.
    pub fn open(args: &GatewayArgs, data_dir: &Path) -> Result<Self, GatewayError> {
        let (callers, limits) = (&args.callers, &args.limits);
        let keys = Keys::open(data_dir, limits.key_rate, limits.key_concurrency)
            .map_err(|e| GatewayError::Config(e.to_string()))?;
        Ok(Self {
            insecure_no_auth: args.insecure_no_auth,
            keys: Arc::new(keys),
            jwts: Jwts::open(callers, limits)?,
            proxies: Proxies::new(callers.trusted_proxy.clone()),
            cors: Cors::new(&callers.cors_origin),
            tls: Tls::open(callers)?,
            service_rates: ServiceRates::new(&limits.service_rate),
            connections: Connections::new(limits.max_connections_per_address),
            limits: limits.clone(),
            failures: Failures::default(),
        })
    }

    /// Refuses an address that others can reach where nobody could show anything; the admin key alone does not count,
    /// for it is not to be handed to callers.
    ///
    /// # Errors
    /// [`GatewayError::Config`], with what to do.
    pub fn check_bind(&self, wanted: SocketAddr) -> Result<(), GatewayError> {
        if self.insecure_no_auth && !wanted.ip().is_loopback() {
            tracing::warn!(http = %wanted, "--insecure-no-auth: whoever reaches this address may call every service");
        }
        if wanted.ip().is_loopback() || self.insecure_no_auth || self.jwts.is_some() || !self.keys.is_empty() {
            return Ok(());
        }
        Err(GatewayError::Config(format!(
            "--http {wanted} can be reached from other machines, and there is nothing that callers could show: make an \
             API key first (`paceline key create` with this --data-dir) or configure JWTs (--jwt-jwks); or say \
             --insecure-no-auth to serve anybody"
        )))
    }

    /// Everybody may call, but what needs `admin`.
    #[cfg(test)]
    pub(crate) fn insecure() -> Self {
        Self { insecure_no_auth: true, ..Self::default() }
    }

    /// The API keys.
    pub(crate) fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    pub(crate) fn limits(&self) -> &LimitArgs {
        &self.limits
    }

    /// Whether what a peer says of its caller is believed.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        self.proxies.trusts(peer)
    }

    /// Follows files and the URL of the JWK set until it is dropped.
    pub(crate) async fn keep(self: Arc<Self>) {
        let jwts = async {
            if let Some(jwts) = &self.jwts {
                jwts.keep().await;
            }
        };
        let tls = async {
            if let Some(tls) = &self.tls {
                tls.keep().await;
            }
        };
        tokio::join!(jwts, tls);
    }

    /// A place for a connection of this address; `Err` where it has as many as it may. Loopback and proxies, which are
    /// many callers in one, are not counted.
    pub(crate) fn hold(&self, ip: IpAddr, now: Instant) -> Result<Option<Held>, ()> {
        if ip.to_canonical().is_loopback() || self.proxies.trusts(ip) {
            return Ok(None);
        }
        match self.connections.hold(ip) {
            Some(held) => Ok(Some(held)),
            None => {
                if let Some(left_out) = self.failures.may_write(now) {
                    let max = self.limits.max_connections_per_address;
                    tracing::warn!(source = %ip, max, left_out, "an address has too many connections: one more is closed");
                }
                Err(())
            }
        }
    }

    /// Makes a connection ready to be served, and tells whether it is encrypted; `None` where it ended before that.
    pub(crate) async fn wrap(&self, stream: TcpStream, ip: IpAddr) -> Option<(Stream, bool)> {
        let wire = Wire::new(stream, self.limits.write_timeout);
        match &self.tls {
            None => Some((Stream::Plain(wire), false)),
            // Boxed, so that the task of a plain connection is small.
            Some(tls) => Box::pin(tls.accept(wire, ip, self.limits.header_timeout)).await,
        }
    }

    /// The origin whose pages may read the answer, where one is named and allowed.
    pub(crate) fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        self.cors.as_ref()?.origin(headers)
    }

    /// The answer to a preflight of an allowed origin.
    pub(crate) fn preflight<B>(request: &Request<B>) -> Option<Response<Outgoing>> {
        cors::preflight(request)
    }

    /// Lets an allowed origin's page read an answer.
    pub(crate) fn expose(headers: &mut HeaderMap, origin: HeaderValue) {
        cors::allow(headers, origin);
    }

    /// Takes one of a service's rate.
    ///
    /// # Errors
    /// It is used up.
    pub(crate) fn enter_service(&self, service: &str) -> Result<(), Denied> {
        match &self.service_rates {
            None => Ok(()),
            Some(rates) => rates.take(service, Instant::now()).map_err(Denied::ServiceRate),
        }
    }
}

impl House {
    /// Judges a request. Where a JWT names a key that may have come meanwhile, waits for it, though not for long.
    ///
    /// # Errors
    /// Why it is refused; the log has been told.
    pub(crate) async fn admit(&self, asked: Asked<'_>, needs: Needs<'_>) -> Result<Admitted, Denied> {
        match self.judge(asked, needs) {
            Err(Denied::NewKey) => {}
            judged => return judged.map_err(|denied| self.note(asked, denied)),
        }
        if let Some(jwts) = &self.callers.jwts {
            jwts.refreshed().await;
        }
        self.judge(asked, needs).map_err(|denied| self.note(asked, denied))
    }

    fn judge(&self, asked: Asked<'_>, needs: Needs<'_>) -> Result<Admitted, Denied> {
        if needs == Needs::Nothing {
            return Ok(Admitted { caller: Caller::Local, place: None });
        }
        match self.identify(asked, needs)? {
            Caller::Known(identity) => {
                if !scope::suffice(&identity.scopes, needs) {
                    return Err(Denied::Scope { label: identity.label.clone(), scope: needs.scope() });
                }
                let place = identity.account.enter(Instant::now()).map_err(|spent| match spent {
                    Spent::Rate(wait) => Denied::Rate { label: identity.label.clone(), wait },
                    Spent::Places(max) => Denied::Places { label: identity.label.clone(), max },
                })?;
                Ok(Admitted { caller: Caller::Known(identity), place: Some(place) })
            }
            caller => Ok(Admitted { caller, place: None }),
        }
    }

    fn identify(&self, asked: Asked<'_>, needs: Needs<'_>) -> Result<Caller, Denied> {
        let headers = asked.headers;
        let shows = headers.contains_key(AUTHORIZATION) || headers.contains_key(X_API_KEY);
        let mut wrong = None;
        if shows {
            for token in shown(headers) {
                match self.known(asked, token) {
                    Ok(Some(caller)) => return Ok(caller),
                    // What is of our form is nobody else's.
                    Err(denied @ (Denied::UnknownKey | Denied::ExpiredKey)) => return Err(denied),
                    Err(denied) => wrong = Some(denied),
                    Ok(None) => {}
                }
            }
        }
        let wrong = |why| wrong.unwrap_or(if shows { Denied::Wrong } else { Denied::Missing(why) });
        if needs == Needs::Admin {
            return Err(wrong("this endpoint needs the admin key or the scope `admin`"));
        }
        if self.callers.insecure_no_auth {
            return Ok(Caller::Local);
        }
        match loopback::beyond(self.on_loopback, asked.uri, headers) {
            // Whatever it shows is for the service.
            None => Ok(Caller::Local),
            Some(why) => Err(wrong(why)),
        }
    }

    /// Whose credentials these are; `None` where they are not of a form that this gateway gives or takes.
    fn known(&self, asked: Asked<'_>, token: &str) -> Result<Option<Caller>, Denied> {
        if self.is_admin_key(asked, token) {
            return Ok(Some(Caller::Admin));
        }
        if let Some(found) = self.callers.keys.find(token, keys::unix_now()) {
            return found.map(|identity| Some(Caller::Known(identity))).map_err(|bad| match bad {
                keys::Bad::Unknown => Denied::UnknownKey,
                keys::Bad::Expired => Denied::ExpiredKey,
            });
        }
        let found = self.callers.jwts.as_ref().and_then(|j| j.find(token, Instant::now(), keys::unix_now()));
        match found {
            None => Ok(None),
            Some(Ok(identity)) => Ok(Some(Caller::Known(identity))),
            Some(Err(jwt::Bad::Refused(words))) => Err(Denied::Jwt(words)),
            Some(Err(jwt::Bad::NewKey)) => Err(Denied::NewKey),
            Some(Err(jwt::Bad::NoKeys)) => Err(Denied::NoKeys),
        }
    }

    fn is_admin_key(&self, asked: Asked<'_>, token: &str) -> bool {
        if self.admin_key.is_empty() || !equal_in_constant_time(token.as_bytes(), self.admin_key.as_bytes()) {
            return false;
        }
        // Looked at last, so that the usual request takes no lock: who waits learns nothing from being refused.
        let at_home =
            || asked.peer.to_canonical().is_loopback() && loopback::beyond(true, asked.uri, asked.headers).is_none();
        let source = self.callers.proxies.source(asked.peer, asked.headers);
        self.callers.failures.wait(source, Instant::now()).is_none() || at_home()
    }

    /// Counts and tells a refusal; never the credentials, nor the query, which may hold some.
    #[cold]
    fn note(&self, asked: Asked<'_>, denied: Denied) -> Denied {
        let now = Instant::now();
        let source = self.callers.proxies.source(asked.peer, asked.headers);
        let wait = if denied.is_guess() { self.callers.failures.note(source, now) } else { None };
        if let Some(left_out) = self.callers.failures.may_write(now) {
            let path: String = asked.uri.path().chars().take(PATH_BYTES_MAX).collect();
            let left_out = (left_out > 0).then_some(left_out);
            tracing::warn!(%source, %path, reason = %denied.words(), left_out, "a caller was refused");
        }
        wait.map_or(denied, Denied::Failures)
    }
}

/// The credentials of a request: `X-API-Key`, and the token of `Authorization: Bearer`.
fn shown(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let key = headers.get(X_API_KEY).and_then(|value| value.to_str().ok()).map(str::trim);
    let token = headers.get(AUTHORIZATION).and_then(|value| bearer(value.to_str().ok()?));
    key.into_iter().chain(token)
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case("bearer ").then(|| token.trim())
}

/// Takes out of a request's headers what was shown to this gateway, which no service is to see; what is the service's
/// own stays.
pub(crate) fn strip_credentials(headers: &mut HeaderMap, caller: &Caller, admin_key: &str) {
    let own: &dyn Fn(&str) -> bool = match caller {
        Caller::Local => return,
        Caller::Admin => &|token| token == admin_key,
        Caller::Known(identity) if identity.label.starts_with("key:") => &keys::has_form,
        Caller::Known(_) => &|token| token.starts_with("ey"),
    };
    let by_key = headers.get(X_API_KEY).and_then(|value| value.to_str().ok()).is_some_and(|value| own(value.trim()));
    let token = headers.get(AUTHORIZATION).and_then(|value| bearer(value.to_str().ok()?));
    // The second JWT of a request is the service's: only one of the two was looked at.
    let is_jwt = token.is_some_and(|token| token.starts_with("ey"));
    let by_token = token.is_some_and(own) && !(by_key && is_jwt);
    if by_key {
        headers.remove(X_API_KEY);
    }
    if by_token {
        headers.remove(AUTHORIZATION);
    }
}

/// Takes as long for a wrong first byte as for a wrong last one; the length is no secret.
pub(crate) fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0u8, |seen, (x, y)| std::hint::black_box(seen | (x ^ y)));
    a.len() == b.len() && differing == 0
}

#[cfg(test)]
mod tests;
