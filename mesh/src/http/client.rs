//! A connection to an HTTP/1.1 service, driven by hyper, that comes back to its pool when its response was received whole;
//! whatever is dropped before is closed.

use std::{fmt, sync::Arc};

use http::{Request, Response, StatusCode};
use http_body::Body as _;
pub use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use tokio::task::AbortHandle;

use super::{
    body::{Body, PooledBody},
    pool::{Pool, Pooled},
};

/// Most bytes of a response head, and of trailers.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A connection that is ready for a request. Dropped, it is closed at once: hyper by itself would first send all that
/// it holds, and so never close a connection whose other side takes nothing.
pub struct Sender {
    inner: SendRequest<Body>,
    /// The task that drives the connection.
    task: Option<AbortHandle>,
}

impl Drop for Sender {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Pooled for Sender {
    fn is_usable(&self) -> bool {
        self.inner.is_ready()
    }
}

/// A connection over a new byte stream, not in the pool yet.
///
/// # Errors
/// The stream broke.
pub async fn adopt<Io>(pool: &Arc<Pool<Sender>>, io: Io) -> Result<Sender, hyper::Error>
where
    Io: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = Builder::new().max_header_size(HEAD_BYTES_MAX).handshake(io).await?;
    let open = pool.count();
    let task = tokio::spawn(async move {
        let _open = open;
        if let Err(error) = connection.with_upgrades().await {
            tracing::trace!(%error, "pooled connection ended");
        }
    });
    Ok(Sender { inner: sender, task: Some(task.abort_handle()) })
}

/// Sends the request on the connection and waits for the response head. The connection goes back to the pool when the
/// response's body has ended.
///
/// # Errors
/// hyper's, with the request where nothing of it was sent.
pub async fn exchange(
    pool: &Arc<Pool<Sender>>,
    mut sender: Sender,
    request: Request<Body>,
) -> Result<Response<Body>, TrySendError<Request<Body>>> {
    let (head, incoming) = sender.inner.try_send_request(request).await?.into_parts();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        // The task hands the connection over, and ends.
        sender.task = None;
        return Ok(Response::from_parts(head, Body::Empty));
    }
    let checkin = Checkin { sender, pool: pool.clone() };
    let ended = incoming.is_end_stream();
    let body = if checkin.sender.inner.is_ready() || ended {
        // hyper holds the whole body already (it is one chunk then), and the connection is free.
        checkin.done();
        if ended { Body::Empty } else { Body::Incoming(incoming) }
    } else {
        Body::Pooled(PooledBody::new(incoming, checkin))
    };
    Ok(Response::from_parts(head, body))
}

/// A connection at work, and where it goes when its response has ended. Dropped instead, it is closed.
pub(super) struct Checkin {
    sender: Sender,
    pool: Arc<Pool<Sender>>,
}

impl fmt::Debug for Checkin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Checkin")
    }
}

impl Checkin {
    pub(super) fn done(self) {
        let Self { mut sender, pool } = self;
        if sender.inner.is_ready() {
            pool.put(sender);
        } else if !sender.inner.is_closed() && tokio::runtime::Handle::try_current().is_ok() {
            // The answer came before the end of the request's body, which is still being sent: rare. The task ends
            // with the connection.
            tokio::spawn(async move {
                if sender.inner.ready().await.is_ok() {
                    pool.put(sender);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use std::time::Duration;

    use super::*;
    use crate::http::pool::PoolLimits;

    const LIMITS: PoolLimits = PoolLimits { idle_max: 2, idle_age_max: Duration::from_secs(5), open_max: 8 };

    async fn connect(pool: &Arc<Pool<Sender>>) -> (Sender, DuplexStream) {
        let (near, far) = tokio::io::duplex(1 << 16);
        (adopt(pool, TokioIo::new(near)).await.expect("handshake"), far)
    }

    async fn read_head(far: &mut DuplexStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(far.read_u8().await.expect("a head"));
        }
    }

    fn get() -> Request<Body> {
        Request::builder().uri("/").header("host", "x").body(Body::Empty).expect("a request")
    }

    #[tokio::test]
    async fn a_connection_comes_back_at_the_end_of_the_body_and_not_before() {
        let pool = Pool::new(LIMITS);
        let (sender, mut far) = connect(&pool).await;
        let served = tokio::spawn(async move {
            read_head(&mut far).await;
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await.expect("written");
            far
        });
        let mut response = exchange(&pool, sender, get()).await.expect("a response");
        let mut far = served.await.expect("served");
        assert_eq!(response.body_mut().frame().await.expect("frame").expect("data").into_data().expect("data"), "ab");
        assert!(pool.take().is_none(), "half the body is to come");
        far.write_all(b"cd").await.expect("written");
        assert_eq!(response.body_mut().frame().await.expect("frame").expect("data").into_data().expect("data"), "cd");
        assert!(pool.take().is_some(), "the body has ended, though nobody has polled for its end");
    }

    #[tokio::test]
    async fn a_body_dropped_early_closes_the_connection() {
        let pool = Pool::new(LIMITS);
        let (sender, mut far) = connect(&pool).await;
        let served = tokio::spawn(async move {
            read_head(&mut far).await;
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await.expect("written");
            far
        });
        drop(exchange(&pool, sender, get()).await.expect("a response"));
        let mut far = served.await.expect("served");
        assert_eq!(far.read(&mut [0; 8]).await.expect("closed cleanly"), 0);
        assert!(pool.take().is_none());
    }

    #[tokio::test]
    async fn the_last_one_back_goes_out_first_and_the_surplus_is_dropped() {
        let pool = Pool::new(LIMITS);
        let mut fars = Vec::new();
        for _ in 0..3 {
            let (sender, mut far) = connect(&pool).await;
            let exchange = exchange(&pool, sender, get());
            let serve = async {
                read_head(&mut far).await;
                far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("written");
            };
            let (response, ()) = tokio::join!(exchange, serve);
            assert_eq!(response.expect("a response").status(), 204);
            fars.push(far);
        }
        assert_eq!(pool.idle(), 2);
        assert_eq!(fars[2].read(&mut [0; 8]).await.expect("the surplus is closed"), 0);
        let sender = pool.take().expect("one waits");
        let exchange = exchange(&pool, sender, get());
        let serve = read_head(&mut fars[1]);
        tokio::select! {
            _ = exchange => panic!("nobody answered"),
            () = serve => {}
        }
    }

    #[tokio::test]
    async fn what_waits_too_long_is_closed() {
        let pool = Pool::new(PoolLimits { idle_age_max: Duration::from_millis(1), ..LIMITS });
        let (sender, mut far) = connect(&pool).await;
        let serve = async {
            read_head(&mut far).await;
            far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("written");
        };
        tokio::join!(exchange(&pool, sender, get()), serve).0.expect("a response");
        assert_eq!(far.read(&mut [0; 8]).await.expect("swept"), 0);
        assert_eq!(pool.idle(), 0);
    }

    #[tokio::test]
    async fn a_waiter_gets_what_comes_back() {
        let pool = Pool::new(LIMITS);
        let (sender, mut far) = connect(&pool).await;
        let exchange = exchange(&pool, sender, get());
        let serve = async {
            read_head(&mut far).await;
            far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("written");
        };
        let (_, response, ()) = tokio::join!(pool.wait(), exchange, serve);
        response.expect("a response");
        assert!(pool.take().is_none(), "the waiter has it");
    }
}
