//! The load: one process, one thread, one kind of request. What it prints is [`Outcome`].

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::sync::Barrier;
use tokio::task::LocalSet;

use super::connection::Connection;
use super::{origin, pattern, stats};

/// Bytes of a bulk body.
pub const BULK_BYTES: u64 = 64 << 20;
/// Events of one stream, and the time between two.
pub const EVENTS: u64 = 100;
/// See [`EVENTS`].
pub const EVENT_GAP_MS: u64 = 5;
/// Requests of a load that opens a connection for each: few enough not to run out of ports.
pub const NEW_CONNECTIONS: u64 = 2000;
/// A load ends at this many errors.
const ERRORS_MAX: u64 = 50;
/// Longest time of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Of the idle connections, one in so many must still answer at the end.
const IDLE_ASKED_EVERY: usize = 25;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// GET 1 KiB on kept connections.
    Get,
    /// GET [`BULK_BYTES`].
    Download,
    /// POST [`BULK_BYTES`].
    Upload,
    /// Event streams.
    Events,
    /// GET 1 KiB, a connection each.
    Connect,
    /// Connections that are held after one request: prints an [`Outcome`], waits for a line, asks some of them again.
    Idle,
}

/// One load.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What to do
    pub kind: Kind,
    /// `host:port`
    pub address: String,
    /// What stands before `/1k` and the other paths
    #[arg(long, default_value = "")]
    pub prefix: String,
    /// At once
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// How long new requests are begun
    #[arg(long, default_value_t = 2.0)]
    pub secs: f64,
}

/// What a load saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Requests that ended well.
    pub requests: u64,
    /// Requests that did not.
    pub errors: u64,
    /// What the first of them said.
    pub error: String,
    /// How long it took, s.
    pub secs: f64,
    /// By name: `p50_us`, `p99_us`, `mb_s`, ...
    pub figures: BTreeMap<String, f64>,
}

/// What the connections of a load add to.
#[derive(Default)]
struct Tally {
    latencies_ns: RefCell<Vec<u64>>,
    requests: Cell<u64>,
    errors: Cell<u64>,
    error: RefCell<String>,
}

impl Tally {
    fn count(&self, since: Instant) {
        self.requests.set(self.requests.get() + 1);
        self.latencies_ns.borrow_mut().push(since.elapsed().as_nanos() as u64);
    }

    /// Whether to go on.
    fn fail(&self, error: &anyhow::Error) -> bool {
        if self.errors.replace(self.errors.get() + 1) == 0 {
            *self.error.borrow_mut() = format!("{error:#}");
        }
        self.errors.get() < ERRORS_MAX
    }

    fn outcome(&self, elapsed: Duration) -> Outcome {
        let mut latencies = self.latencies_ns.borrow_mut();
        let mut figures = BTreeMap::new();
        for (name, share) in [("p50_us", 0.5), ("p99_us", 0.99)] {
            if let Some(value) = stats::percentile(&mut latencies, share) {
                figures.insert(name.to_owned(), value as f64 / 1e3);
            }
        }
        let secs = elapsed.as_secs_f64();
        figures.insert("req_s".to_owned(), self.requests.get() as f64 / secs);
        Outcome {
            requests: self.requests.get(),
            errors: self.errors.get(),
            error: self.error.borrow().clone(),
            secs,
            figures,
        }
    }
}

/// Runs one load and prints its [`Outcome`] as a line of JSON.
///
/// # Errors
/// When it cannot begin; errors of requests are counted instead.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let load = async {
        match options.kind {
            Kind::Get | Kind::Download | Kind::Upload | Kind::Connect => requests(options).await,
            Kind::Events => events(options).await,
            Kind::Idle => idle(options).await,
        }
    };
    let outcome = LocalSet::new().block_on(&runtime, load)?;
    print(&outcome)
}

fn print(outcome: &Outcome) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, outcome)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

async fn in_time<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(REQUEST_TIMEOUT, work).await.context("no answer in time")?
}

fn head(method: &str, options: &Options, path: &str, more: &str) -> Vec<u8> {
    format!("{method} {}{path} HTTP/1.1\r\nHost: {}\r\n{more}\r\n", options.prefix, options.address).into_bytes()
}

/// The requests of one kind, made once.
struct Request {
    kind: Kind,
    head: Vec<u8>,
}

impl Request {
    fn new(options: &Options) -> Self {
        let kind = options.kind;
        let head = match kind {
            Kind::Download => head("GET", options, &format!("/big?n={BULK_BYTES}"), ""),
            Kind::Upload => head("POST", options, "/upload", &format!("Content-Length: {BULK_BYTES}\r\n")),
            Kind::Events => head("GET", options, &format!("/sse?n={EVENTS}&ms={EVENT_GAP_MS}"), ""),
            Kind::Connect => head("GET", options, "/1k", "Connection: close\r\n"),
            Kind::Get | Kind::Idle => head("GET", options, "/1k", ""),
        };
        Self { kind, head }
    }

    /// A small one, whatever the kind: the connection is warm after it.
    fn small(options: &Options) -> Self {
        Self { kind: Kind::Get, head: head("GET", options, "/1k", "") }
    }

    fn buffer_bytes(&self) -> usize {
        if self.kind == Kind::Download { 256 << 10 } else { 0 }
    }

    async fn run(&self, connection: &mut Connection) -> anyhow::Result<()> {
        connection.send(&self.head).await?;
        match self.kind {
            Kind::Download => {
                let mut offset = 0;
                let length = connection
                    .receive(|piece| {
                        ensure!(pattern::fits(piece, offset), "wrong byte near {offset}");
                        offset += piece.len() as u64;
                        Ok(())
                    })
                    .await?;
                ensure!(length == BULK_BYTES, "{length} bytes of {BULK_BYTES}");
            }
            Kind::Upload => {
                for _ in 0..BULK_BYTES / pattern::PERIOD_BYTES as u64 {
                    connection.send(pattern::block()).await?;
                }
                let mut said = Vec::new();
                let keep = |piece: &[u8]| {
                    said.extend_from_slice(piece);
                    Ok(())
                };
                connection.receive(keep).await?;
                let said = String::from_utf8_lossy(&said);
                ensure!(said == BULK_BYTES.to_string(), "the service received `{said}`");
            }
            Kind::Get | Kind::Connect | Kind::Events | Kind::Idle => {
                let mut offset = 0;
                let length = connection
                    .receive(|piece| {
                        let expected = pattern::small().get(offset..offset + piece.len());
                        ensure!(expected == Some(piece), "wrong body");
                        offset += piece.len();
                        Ok(())
                    })
                    .await?;
                ensure!(length == pattern::SMALL_BYTES as u64, "{length} bytes of {}", pattern::SMALL_BYTES);
            }
        }
        Ok(())
    }
}

async fn requests(options: &Options) -> anyhow::Result<Outcome> {
    let tally = Rc::new(Tally::default());
    let request = Rc::new(Request::new(options));
    let small = Rc::new(Request::small(options));
    // All connections are open and warm before the first of them begins.
    let begin = Rc::new(Barrier::new(options.connections + 1));
    let left = Rc::new(Cell::new(if options.kind == Kind::Connect { NEW_CONNECTIONS } else { u64::MAX }));
    let mut tasks = Vec::new();
    for _ in 0..options.connections {
        let (tally, request, small) = (tally.clone(), request.clone(), small.clone());
        let (begin, left, options) = (begin.clone(), left.clone(), options.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let warm = async {
                let mut connection = Connection::open(&options.address, request.buffer_bytes()).await?;
                small.run(&mut connection).await.map(|()| connection)
            };
            let mut connection = match in_time(warm).await {
                Ok(connection) => Some(connection),
                Err(error) => {
                    tally.fail(&error);
                    None
                }
            };
            begin.wait().await;
            let end = Instant::now() + Duration::from_secs_f64(options.secs);
            let mut begun = 0;
            while left.get() > 0 && (begun == 0 || options.kind == Kind::Connect || Instant::now() < end) {
                begun += 1;
                left.set(left.get() - 1);
                let since = Instant::now();
                let one = async {
                    let mut open = match connection.take() {
                        Some(open) if request.kind != Kind::Connect => open,
                        _ => Connection::open(&options.address, request.buffer_bytes()).await?,
                    };
                    request.run(&mut open).await.map(|()| open)
                };
                match in_time(one).await {
                    Ok(open) => {
                        tally.count(since);
                        connection = Some(open);
                    }
                    Err(error) if tally.fail(&error) => {}
                    Err(_) => break,
                }
            }
        }));
    }
    begin.wait().await;
    let start = Instant::now();
    for task in tasks {
        task.await?;
    }
    let mut outcome = tally.outcome(start.elapsed());
    if matches!(options.kind, Kind::Download | Kind::Upload) {
        let megabytes = (outcome.requests * BULK_BYTES) as f64 / 1e6;
        outcome.figures.insert("mb_s".to_owned(), megabytes / outcome.secs);
        outcome.figures.insert("mb".to_owned(), megabytes);
    }
    Ok(outcome)
}

/// One stream for each connection, at once; `delay` is from the service's send to the client's receipt.
async fn events(options: &Options) -> anyhow::Result<Outcome> {
    let tally = Rc::new(Tally::default());
    let delays = Rc::new(RefCell::new(Vec::new()));
    let start = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..options.connections {
        let (tally, delays, options) = (tally.clone(), delays.clone(), options.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let stream = async {
                let mut connection = Connection::open(&options.address, 0).await?;
                Request::small(&options).run(&mut connection).await?;
                let since = Instant::now();
                connection.send(&Request::new(&options).head).await?;
                let (mut text, mut seen, mut first) = (Vec::new(), Vec::new(), None);
                let take = |piece: &[u8]| {
                    let now = origin::clock_ns();
                    first.get_or_insert_with(|| since.elapsed().as_nanos() as u64);
                    text.extend_from_slice(piece);
                    while let Some(end) = text.windows(2).position(|window| window == b"\n\n") {
                        let event = String::from_utf8_lossy(&text[..end]).into_owned();
                        let sent = event.split(' ').nth(1).and_then(|at| at.parse::<u64>().ok());
                        seen.push(now.saturating_sub(sent.with_context(|| format!("event `{event}`"))?));
                        text.drain(..end + 2);
                    }
                    Ok(())
                };
                connection.receive(take).await?;
                ensure!(seen.len() as u64 == EVENTS, "{} events of {EVENTS}", seen.len());
                Ok((seen, first.unwrap_or_default()))
            };
            match in_time(stream).await {
                Ok((seen, first)) => {
                    tally.requests.set(tally.requests.get() + 1);
                    tally.latencies_ns.borrow_mut().push(first);
                    delays.borrow_mut().extend(seen);
                }
                Err(error) => _ = tally.fail(&error),
            }
        }));
    }
    for task in tasks {
        task.await?;
    }
    let mut outcome = tally.outcome(start.elapsed());
    let mut delays = delays.borrow_mut();
    for (name, share) in [("delay_p50_us", 0.5), ("delay_p99_us", 0.99)] {
        if let Some(value) = stats::percentile(&mut delays, share) {
            outcome.figures.insert(name.to_owned(), value as f64 / 1e3);
        }
    }
    Ok(outcome)
}

async fn idle(options: &Options) -> anyhow::Result<Outcome> {
    let tally = Tally::default();
    let request = Request::small(options);
    let start = Instant::now();
    let mut held = Vec::new();
    for _ in 0..options.connections {
        let since = Instant::now();
        let open = async {
            let mut connection = Connection::open(&options.address, 0).await?;
            request.run(&mut connection).await.map(|()| connection)
        };
        match in_time(open).await {
            Ok(connection) => {
                tally.count(since);
                held.push(connection);
            }
            Err(error) if tally.fail(&error) => {}
            Err(_) => break,
        }
    }
    print(&tally.outcome(start.elapsed()))?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    let tally = Tally::default();
    let start = Instant::now();
    for connection in held.iter_mut().step_by(IDLE_ASKED_EVERY) {
        let since = Instant::now();
        match in_time(request.run(connection)).await {
            Ok(()) => tally.count(since),
            Err(error) => _ = tally.fail(&error),
        }
    }
    Ok(tally.outcome(start.elapsed()))
}
