//! WebSocket and every other upgrade: after a `101` on both sides, bytes pass through as they come.

use std::{any::Any, io, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

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

/// The caller's side of an upgrade, to be kept while the request is passed on.
pub fn requested(request: &Request<Body>) -> Option<OnUpgrade> {
    request.extensions().get::<OnUpgrade>().cloned()
}

/// Where the response switched protocols and carries the other side, the join of the two: spawn it, then answer with
/// the response. `None` where nothing is to be joined, also when whoever answered has taken the caller's side itself.
pub fn accepted(
    requested: Option<OnUpgrade>,
    response: &mut Response<Body>,
) -> Option<impl Future<Output = io::Result<()>> + Send + 'static> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return None;
    }
    let kept = response.extensions_mut().remove::<Kept>();
    let answered = response.extensions_mut().remove::<OnUpgrade>()?;
    let joined = join(requested?, answered);
    Some(async move {
        let ended = joined.await;
        drop(kept);
        ended
    })
}

/// Copies both ways until both directions have ended or one has failed; an end is passed on as an end, a failure as a
/// reset.
async fn join(caller: OnUpgrade, service: OnUpgrade) -> io::Result<()> {
    let both = async { tokio::try_join!(caller, service) };
    let (caller, service) = tokio::time::timeout(SWITCH_TIMEOUT, both).await?.map_err(io::Error::other)?;
    let (mut caller, mut service) = (TokioIo::new(caller), TokioIo::new(service));
    tokio::io::copy_bidirectional_with_sizes(&mut caller, &mut service, BUFFER_BYTES, BUFFER_BYTES).await?;
    Ok(())
}
