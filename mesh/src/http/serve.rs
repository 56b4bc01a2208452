//! The node's side of a stream: an HTTP/1.1 server whose `Host` is the name of a service.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use http::{Request, Response, header::HOST};
use hyper::{body::Incoming, server::conn::http1::Builder, service::service_fn};
use hyper_util::rt::TokioTimer;
use paceline_proto::id::ServiceName;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Body, NodeError, ServiceHandler, pool::HEAD_BYTES_MAX, upgrade};

/// From the end of a request to the end of the next one's head; longer than any gateway keeps an idle stream.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Serves the requests of streams on one lane.
pub struct StreamServer {
    /// The lane.
    pub lane: usize,
    /// Who answers; `None` has no services.
    pub services: Option<Arc<dyn ServiceHandler>>,
    /// Owns the upgraded connections.
    pub tasks: TaskTracker,
    /// Ends streams after the request that they serve; one that is opened later is told to go elsewhere.
    pub stop: CancellationToken,
}

impl StreamServer {
    /// Serves one stream until either side ends it. A request whose stream is gone, by what it reads or by `gone`, is
    /// dropped, and with it whatever its handler was doing.
    pub async fn serve<Io>(self: Arc<Self>, io: Io, gone: impl Future<Output = ()>)
    where
        Io: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let stop = self.stop.clone();
        let stopped = stop.is_cancelled();
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request, stopped).await) }
        });
        let connection = Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_header_size(HEAD_BYTES_MAX)
            // An origin that gave no date had its reasons.
            .auto_date_header(false)
            .keep_alive(!stopped)
            .serve_connection(io, service)
            .with_upgrades();
        let (mut connection, mut gone) = (pin!(connection), pin!(gone));
        let mut stopping = stopped;
        let ended = loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => break ended,
                () = gone.as_mut() => return,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        };
        if let Err(error) = ended {
            tracing::trace!(%error, "stream ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>, stopped: bool) -> Response<Body> {
        if stopped {
            return NodeError::Overloaded.response("this node is stopping");
        }
        let request = request.map(Body::from);
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let Some(service) = host.and_then(|host| ServiceName::new(host).ok()) else {
            return NodeError::NoSuchService.response("the request names no service");
        };
        let Some(services) = &self.services else {
            return NodeError::NoSuchService.response("this node offers no services");
        };
        let requested = upgrade::requested(&request);
        let mut response = services.call(self.lane, service, request).await;
        if let Some(join) = upgrade::accepted(requested, &mut response) {
            self.tasks.spawn(async move {
                if let Err(error) = join.await {
                    tracing::trace!(%error, "upgraded connection ended");
                }
            });
        }
        response
    }
}
