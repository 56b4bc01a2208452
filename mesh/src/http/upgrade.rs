//! WebSocket and every other upgrade: after a `101` on both sides, bytes pass through as they come.

use std::{
    any::Any,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

use super::Body;

/// Buffer of each direction, bytes.
const BUFFER_BYTES: usize = 16 * 1024;

/// From the response head to both sides having switched.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(10);

/// What is to last as long as an upgraded connection: in the extensions of a `101`.
#[derive(Clone)]
pub struct Kept {
    _what: Arc<dyn Any + Send + Sync>,
}

impl Kept {
    /// Keeps it.
    pub fn new(what: impl Any + Send + Sync) -> Self {
        Self { _what: Arc::new(what) }
    }
}

/// A connection that carries bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

enum Side {
    Hyper(OnUpgrade),
    Here(Box<dyn Duplex>),
    Soon(oneshot::Receiver<Box<dyn Duplex>>),
}

/// One side of an upgrade. In the extensions of a request it is the caller's, in those of a `101` the service's; whoever
/// takes it first has it.
#[derive(Clone)]
pub struct Switch(Arc<Mutex<Option<Side>>>);

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Switch")
    }
}

impl Switch {
    fn new(side: Side) -> Self {
        Self(Arc::new(Mutex::new(Some(side))))
    }

    /// A side that has switched.
    pub(crate) fn here(io: impl Duplex + 'static) -> Self {
        Self::new(Side::Here(Box::new(io)))
    }

    /// A side that will switch.
    pub(crate) fn soon() -> (oneshot::Sender<Box<dyn Duplex>>, Self) {
        let (promise, side) = oneshot::channel();
        (promise, Self::new(Side::Soon(side)))
    }

    /// The side's bytes, once it has switched.
    ///
    /// # Errors
    /// It never switches, or was taken by somebody else.
    pub async fn switched(self) -> io::Result<Box<dyn Duplex>> {
        let side = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match side {
            Some(Side::Hyper(upgrade)) => Ok(Box::new(TokioIo::new(upgrade.await.map_err(io::Error::other)?))),
            Some(Side::Here(io)) => Ok(io),
            Some(Side::Soon(side)) => side.await.map_err(io::Error::other),
            None => Err(io::Error::other("the upgrade was taken by somebody else")),
        }
    }
}

/// The caller's side of an upgrade, to be kept while the request is passed on.
pub fn requested(request: &Request<Body>) -> Option<Switch> {
    let extensions = request.extensions();
    let own = || extensions.get::<OnUpgrade>().map(|upgrade| Switch::new(Side::Hyper(upgrade.clone())));
    extensions.get::<Switch>().cloned().or_else(own)
}

/// The service's side of an upgrade, if it has switched.
pub fn answered(response: &mut Response<Body>) -> Option<Switch> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return None;
    }
    let extensions = response.extensions_mut();
    let switch = extensions.remove::<Switch>();
    switch.or_else(|| extensions.remove::<OnUpgrade>().map(|upgrade| Switch::new(Side::Hyper(upgrade))))
}

/// Where the response switched protocols and carries the other side, the join of the two: spawn it, then answer with
/// the response. `None` where nothing is to be joined, also when whoever answered has taken the caller's side itself.
pub fn accepted(
    requested: Option<Switch>,
    response: &mut Response<Body>,
) -> Option<impl Future<Output = io::Result<()>> + Send + 'static> {
    let kept = response.extensions_mut().remove::<Kept>();
    let answered = answered(response)?;
    let joined = join(requested?, answered);
    Some(async move {
        let ended = joined.await;
        drop(kept);
        ended
    })
}

/// Copies both ways until both directions have ended or one has failed; an end is passed on as an end, a failure as a
/// reset.
async fn join(caller: Switch, service: Switch) -> io::Result<()> {
    let both = async { tokio::try_join!(caller.switched(), service.switched()) };
    let (mut caller, mut service) = tokio::time::timeout(SWITCH_TIMEOUT, both).await??;
    tokio::io::copy_bidirectional_with_sizes(&mut caller, &mut service, BUFFER_BYTES, BUFFER_BYTES).await?;
    Ok(())
}
