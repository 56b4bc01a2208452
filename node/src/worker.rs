//! Serves requests for this node's own services: to an HTTP service beside it, or from a directory.
//!
//! Lives on the lane that calls. Each service has a bound on requests at once; over it the caller is told so before
//! anything was sent, and another peer can take the request.

use std::{
    collections::BTreeMap,
    fmt::Write,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use paceline_mesh::{
    http::{Body, BoxError, NodeError, ServiceHandler, forward::Upstream},
    process::Fault,
};
use paceline_proto::id::ServiceName;

use crate::{
    files::Files,
    services::{ServiceSpec, Source},
};

/// Requests at once for one service; generous until limits can be configured.
pub const MAX_CONCURRENCY: u32 = 1024;

enum Target {
    Upstream(Upstream),
    Files(Files),
}

struct Entry {
    target: Target,
    in_flight: AtomicU32,
    requests: AtomicU64,
    refused: AtomicU64,
}

/// The services of this node, ready to serve.
pub struct Worker {
    entries: BTreeMap<ServiceName, Arc<Entry>>,
}

impl Worker {
    /// For `lanes` lanes.
    ///
    /// # Errors
    /// A service that cannot be served, in words for the user.
    pub fn new(specs: &[ServiceSpec], lanes: usize) -> Result<Self, Fault> {
        let entry = |spec: &ServiceSpec| {
            let target = match &spec.source {
                // No deadline here: how long a service may take is the gateway's to say, which ends a request by
                // closing its stream.
                Source::Http { url, .. } => Target::Upstream(
                    Upstream::new(url, lanes, None)
                        .map_err(|e| Fault::user(format!("--service {}={url}: {e}", spec.name)))?,
                ),
                Source::Directory(path) => Target::Files(Files::new(path.clone())),
            };
            let (in_flight, requests, refused) = Default::default();
            Ok((spec.name.clone(), Arc::new(Entry { target, in_flight, requests, refused })))
        };
        Ok(Self { entries: specs.iter().map(entry).collect::<Result<_, Fault>>()? })
    }

    /// Lines for `/metrics`.
    pub fn metrics(&self, out: &mut String) {
        type Read = fn(&Entry) -> u64;
        let families: [(&str, &str, &str, Read); 3] = [
            ("paceline_service_requests_in_flight", "gauge", "Requests that this node's service works on.", |e| {
                e.in_flight.load(Ordering::Relaxed).into()
            }),
            ("paceline_service_requests_total", "counter", "Requests handed to this node's service.", |e| {
                e.requests.load(Ordering::Relaxed)
            }),
            ("paceline_service_overloaded_total", "counter", "Requests refused over max_concurrency.", |e| {
                e.refused.load(Ordering::Relaxed)
            }),
        ];
        for (family, kind, help, read) in families {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {family} {help}\n# TYPE {family} {kind}");
            for (name, entry) in &self.entries {
                let _ = writeln!(out, "{family}{{service=\"{name}\"}} {}", read(entry));
            }
        }
    }
}

impl ServiceHandler for Worker {
    fn call(&self, lane: usize, service: ServiceName, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let Some(entry) = self.entries.get(&service).cloned() else {
            return Box::pin(async move {
                NodeError::NoSuchService.response(&format!("this node does not offer `{service}`"))
            });
        };
        Box::pin(async move {
            let Some(permit) = Permit::take(entry) else {
                let words = format!("`{service}` works on {MAX_CONCURRENCY} requests already");
                return NodeError::Overloaded.response(&words);
            };
            let response = match &permit.0.target {
                Target::Upstream(upstream) => upstream.forward(lane, request).await,
                Target::Files(files) => files.serve(request).await,
            };
            permit.into_response(response)
        })
    }
}

/// One request's place among those at once.
struct Permit(Arc<Entry>);

impl Permit {
    fn take(entry: Arc<Entry>) -> Option<Self> {
        let permit = Self(entry);
        let before = permit.0.in_flight.fetch_add(1, Ordering::Relaxed);
        if before >= MAX_CONCURRENCY {
            permit.0.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        permit.0.requests.fetch_add(1, Ordering::Relaxed);
        Some(permit)
    }

    /// Kept until the body has ended; an answer without one gives it back now.
    fn into_response(self, response: Response<Body>) -> Response<Body> {
        if http_body::Body::is_end_stream(response.body()) {
            return response;
        }
        response.map(|body| match body {
            // Goes out with the head.
            Body::Empty | Body::Full(_) => body,
            body => Body::boxed(Held { body, _permit: self }),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Held {
    body: Body,
    _permit: Permit,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn worker() -> (tempfile::TempDir, Worker) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.txt"), "hello").unwrap();
        let spec =
            ServiceSpec { name: ServiceName::new("files").unwrap(), source: Source::Directory(dir.path().to_owned()) };
        let worker = Worker::new(&[spec], 1).unwrap();
        (dir, worker)
    }

    async fn get(worker: &Worker, service: &str, path: &str) -> Response<Body> {
        let request = Request::builder().uri(path).body(Body::Empty).unwrap();
        worker.call(0, ServiceName::new(service).unwrap(), request).await
    }

    fn in_flight(worker: &Worker) -> u32 {
        worker.entries.values().map(|e| e.in_flight.load(Ordering::Relaxed)).sum()
    }

    #[tokio::test]
    async fn a_request_counts_until_its_body_has_ended() {
        let (_dir, worker) = worker();
        let response = get(&worker, "files", "/a.txt").await;
        assert_eq!(response.headers()["content-length"], "5");
        assert_eq!(in_flight(&worker), 1);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&body[..], b"hello");
        assert_eq!(in_flight(&worker), 0);
        drop(get(&worker, "files", "/a.txt").await);
        assert_eq!(in_flight(&worker), 0, "a response that nobody reads gives its place back");
        let mut metrics = String::new();
        worker.metrics(&mut metrics);
        assert!(metrics.contains("paceline_service_requests_total{service=\"files\"} 2\n"), "{metrics}");
    }

    #[tokio::test]
    async fn an_unknown_service_and_one_too_many_are_told_apart() {
        let (_dir, worker) = worker();
        assert_eq!(NodeError::of(get(&worker, "other", "/").await.headers()), Some(NodeError::NoSuchService));
        let mut held = Vec::new();
        for _ in 0..MAX_CONCURRENCY {
            held.push(get(&worker, "files", "/a.txt").await);
        }
        assert_eq!(NodeError::of(get(&worker, "files", "/a.txt").await.headers()), Some(NodeError::Overloaded));
        held.pop();
        assert_eq!(NodeError::of(get(&worker, "files", "/a.txt").await.headers()), None);
    }
}
