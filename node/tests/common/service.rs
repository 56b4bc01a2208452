//! Services for tests: plain sockets, one thread a connection, so that a test can misbehave in any way it likes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// A request's head as a test service reads it.
#[derive(Debug)]
pub struct Head {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head; `None` at the end of the connection.
    pub fn read(reader: &mut impl BufRead) -> Option<Head> {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let mut words = line.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((k, v)) = line.trim_end().split_once(':') else { break };
            headers.push((k.to_ascii_lowercase(), v.trim().to_owned()));
        }
        Some(Head { method, path, headers })
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v)
    }

    /// Reads the body that the head announces, chunked or counted, decoded.
    pub fn body(&self, reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if self.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
            loop {
                let mut line = String::new();
                reader.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim().split(';').next().unwrap_or(""), 16)
                    .map_err(std::io::Error::other)?;
                let at = body.len();
                body.resize(at + size, 0);
                reader.read_exact(&mut body[at..])?;
                let mut end = String::new();
                reader.read_line(&mut end)?;
                if size == 0 {
                    // trailers, if any, run to the empty line
                    while !end.trim().is_empty() {
                        end.clear();
                        reader.read_line(&mut end)?;
                    }
                    return Ok(body);
                }
            }
        }
        body.resize(self.header("content-length").parse().unwrap_or(0), 0);
        reader.read_exact(&mut body)?;
        Ok(body)
    }
}

/// A listening socket with a handler for each connection.
pub struct Service {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    accept: Option<JoinHandle<()>>,
}

impl Service {
    /// Hands each accepted connection to `handler` on a thread of its own.
    pub fn raw(handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::raw_at("127.0.0.1:0".parse().expect("address"), handler)
    }

    pub fn raw_at(address: SocketAddr, handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).expect("bind");
        let address = listener.local_addr().expect("address");
        let (stop, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count, handler) = (stop.clone(), connections.clone(), Arc::new(handler));
        let accept = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                count.fetch_add(1, Ordering::SeqCst);
                let handler = handler.clone();
                std::thread::spawn(move || handler(stream));
            }
        });
        Self { address, connections, stop, accept: Some(accept) }
    }

    /// An HTTP/1.1 keep-alive service; `respond` writes each answer. `/health` answers 200 by itself.
    pub fn http(
        respond: impl Fn(&Head, Vec<u8>, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::raw(move |stream| {
            let mut out = stream.try_clone().expect("clone");
            let mut reader = BufReader::new(stream);
            while let Some(head) = Head::read(&mut reader) {
                let Ok(body) = head.body(&mut reader) else { return };
                let done = if head.path == "/health" {
                    answer(&mut out, 200, br#"{"status":"healthy","version":"1.2.3"}"#)
                } else {
                    respond(&head, body, &mut out)
                };
                if done.is_err() {
                    return;
                }
            }
        })
    }

    /// Answers every request with its own name, method, path and body.
    pub fn echo(name: &'static str) -> Self {
        Self::http(move |head, body, out| {
            let text = format!("{name} {} {} {}", head.method, head.path, String::from_utf8_lossy(&body));
            answer(out, 200, text.as_bytes())
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accept loop
        if let Some(t) = self.accept.take() {
            let _ = t.join();
        }
    }
}

/// Writes a counted answer.
pub fn answer(out: &mut impl Write, status: u16, body: &[u8]) -> std::io::Result<()> {
    write!(out, "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len())?;
    out.write_all(body)?;
    out.flush()
}

/// Reads until the connection ends, which must be within the socket's read timeout.
pub fn read_to_end(stream: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).map(|_| all)
}
