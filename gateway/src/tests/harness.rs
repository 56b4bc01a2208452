//! A gateway on its own runtime, and clients that speak to it byte by byte or through hyper.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use paceline_mesh::{
    Bind,
    args::{CallerArgs, GatewayArgs, LimitArgs},
    http::{Body, ServiceHandler},
};
use paceline_proto::id::ServiceName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
};

use crate::{Callers, Gateway, GatewayConfig, Listeners, testing::FakeCluster};

pub(super) const KEY: &str = "the-admin-key";

/// What anything in a test waits for at most.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

type Handler = dyn Fn(ServiceName, Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync;

/// A local worker that is a function.
pub(super) struct Local(Box<Handler>);

impl ServiceHandler for Local {
    fn call(&self, _lane: usize, service: ServiceName, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        (self.0)(service, request)
    }
}

pub(super) fn local<F, R>(handler: F) -> Option<Arc<dyn ServiceHandler>>
where
    F: Fn(ServiceName, Request<Body>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    Some(Arc::new(Local(Box::new(move |service, request| Box::pin(handler(service, request))))))
}

/// Answers with what it was asked: method, URI and headers in the first lines, then the body.
pub(super) async fn mirror(request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("body");
    let trailers = body.trailers().cloned();
    let mut text = format!("{} {}\n", parts.method, parts.uri);
    for (name, value) in parts.headers.iter().chain(trailers.iter().flatten()) {
        text.push_str(&format!("{name}: {}\n", value.to_str().expect("ascii")));
    }
    text.push('\n');
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&body.to_bytes());
    Response::new(Body::full(bytes))
}

pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) gateway: Gateway,
}

pub(super) struct Options {
    pub(super) lanes: usize,
    pub(super) insecure_no_auth: bool,
    pub(super) first_byte_timeout: Duration,
    pub(super) body_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lanes: 1,
            insecure_no_auth: false,
            first_byte_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_millis(500),
        }
    }
}

pub(super) fn start(cluster: FakeCluster, local: Option<Arc<dyn ServiceHandler>>, options: &Options) -> Running {
    let bind = Bind { address: SocketAddr::from(([127, 0, 0, 1], 0)), explicit: true };
    let args = GatewayArgs {
        http: None,
        insecure_no_auth: options.insecure_no_auth,
        callers: CallerArgs::default(),
        limits: LimitArgs { body_timeout: options.body_timeout, ..LimitArgs::default() },
    };
    let callers = Arc::new(Callers::open(&args, Path::new("nowhere")).expect("no files"));
    let listeners = Listeners::bind(bind, options.lanes, &callers).expect("bind");
    let config =
        GatewayConfig { callers, admin_key: format!("{KEY}\n"), first_byte_timeout: options.first_byte_timeout };
    let runtimes = vec![Handle::current(); options.lanes];
    let gateway = Gateway::start_on(config, listeners, cluster, runtimes, local).expect("start");
    Running { address: gateway.address(), gateway }
}

impl Running {
    /// One request on a connection of its own; the answer with its whole body.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        tokio::time::timeout(PATIENCE, self.send_unbounded(request)).await.expect("an answer in time")
    }

    async fn send_unbounded(&self, mut request: Request<Full<Bytes>>) -> Response<Bytes> {
        let stream = TcpStream::connect(self.address).await.expect("connect");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
        tokio::spawn(connection);
        if !request.headers().contains_key("host") {
            let host = self.address.to_string().parse().expect("host");
            request.headers_mut().insert("host", host);
        }
        let (parts, body) = sender.send_request(request).await.expect("response").into_parts();
        Response::from_parts(parts, body.collect().await.expect("whole body").to_bytes())
    }

    pub(super) async fn get(&self, path: &str) -> Response<Bytes> {
        self.send(Request::get(path).body(Full::default()).expect("request")).await
    }

    /// A connection for words of one's own; `HOST` in them is the gateway's address.
    pub(super) async fn raw(&self, words: &str) -> Raw {
        let stream = TcpStream::connect(self.address).await.expect("connect");
        let mut raw = Raw { stream, host: self.address.to_string() };
        raw.say(words).await;
        raw
    }
}

pub(super) struct Raw {
    pub(super) stream: TcpStream,
    host: String,
}

impl Raw {
    pub(super) async fn say(&mut self, words: &str) {
        self.stream.write_all(words.replace("HOST", &self.host).as_bytes()).await.expect("write");
    }

    /// Reads until the text is there, or the end; all that was read.
    pub(super) async fn hear(&mut self, until: &str) -> String {
        let mut heard = Vec::new();
        let mut chunk = [0u8; 4096];
        tokio::time::timeout(PATIENCE, async {
            while !String::from_utf8_lossy(&heard).contains(until) {
                match self.stream.read(&mut chunk).await {
                    Ok(n) if n > 0 => heard.extend_from_slice(&chunk[..n]),
                    _ => break,
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("not heard in time: {until:?} in {:?}", String::from_utf8_lossy(&heard)));
        String::from_utf8_lossy(&heard).into_owned()
    }

    /// Waits for the other side's end.
    pub(super) async fn ended(&mut self) -> String {
        self.hear("\u{0}never said\u{0}").await
    }
}

pub(super) fn json(response: &Response<Bytes>) -> serde_json::Value {
    assert_eq!(response.headers()["content-type"], "application/json", "{response:?}");
    serde_json::from_slice(response.body()).expect("JSON")
}

pub(super) fn text(response: &Response<Bytes>) -> String {
    String::from_utf8(response.body().to_vec()).expect("UTF-8")
}

/// Fills once, waits for it.
pub(super) fn signal() -> (impl FnOnce(), tokio::sync::oneshot::Receiver<()>) {
    let (tell, told) = tokio::sync::oneshot::channel();
    (
        move || {
            let _ = tell.send(());
        },
        told,
    )
}

/// A value that several calls of a handler share.
pub(super) fn shared<T>(value: T) -> Arc<Mutex<T>> {
    Arc::new(Mutex::new(value))
}
