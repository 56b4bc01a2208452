//! A small HTTP/1.1 client: one keep-alive connection, as little work per request as can be, because it shares its
//! cores with what it measures. It trusts nothing: a status other than 200 and a body that ends early are errors.

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest response head.
const HEAD_BYTES_MAX: usize = 4 << 10;

/// One connection and what was read ahead on it.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// How a body ends.
enum Length {
    Known(u64),
    Chunked,
}

impl Connection {
    /// Connects; `buffer_bytes` is also the largest piece that a body arrives in.
    pub(super) async fn open(address: &str, buffer_bytes: usize) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("connect")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; buffer_bytes.max(HEAD_BYTES_MAX)], start: 0, end: 0 })
    }

    /// Sends a whole request.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).await.context("send")
    }

    /// Reads a response; hands each piece of its body to `take`, and returns the body's length.
    pub(super) async fn receive(&mut self, mut take: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<u64> {
        match self.head().await? {
            Length::Known(length) => self.pass(length, &mut take).await.map(|()| length),
            Length::Chunked => {
                let mut total = 0;
                loop {
                    let line = self.line().await?;
                    let size = line.split(';').next().unwrap_or("").trim();
                    let size = u64::from_str_radix(size, 16).with_context(|| format!("chunk size `{size}`"))?;
                    if size == 0 {
                        while !self.line().await?.is_empty() {}
                        return Ok(total);
                    }
                    self.pass(size, &mut take).await?;
                    ensure!(self.line().await?.is_empty(), "a chunk is longer than it says");
                    total += size;
                }
            }
        }
    }

    /// Reads more; an error at the end of the stream.
    async fn fill(&mut self) -> anyhow::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        ensure!(self.end < self.buffer.len(), "a line or head longer than {} bytes", self.buffer.len());
        let count = self.stream.read(&mut self.buffer[self.end..]).await.context("receive")?;
        ensure!(count > 0, "the connection was closed early");
        self.end += count;
        Ok(())
    }

    async fn head(&mut self) -> anyhow::Result<Length> {
        loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(length) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let parsed = parse_head(&unread[..length]);
                self.start += length + 4;
                return parsed;
            }
            self.fill().await?;
        }
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(length) = unread.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&unread[..length]).into_owned();
                self.start += length + 2;
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    async fn pass(&mut self, mut left: u64, take: &mut impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        while left > 0 {
            if self.start == self.end {
                self.fill().await?;
            }
            let size = left.min((self.end - self.start) as u64) as usize;
            take(&self.buffer[self.start..self.start + size])?;
            self.start += size;
            left -= size as u64;
        }
        Ok(())
    }
}

fn parse_head(head: &[u8]) -> anyhow::Result<Length> {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let status = lines.next().unwrap_or_default();
    if !status.starts_with(b"HTTP/1.1 200") {
        bail!("answered `{}`", String::from_utf8_lossy(status));
    }
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            return Ok(Length::Known(std::str::from_utf8(value)?.parse().context("content-length")?));
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Ok(Length::Chunked);
        }
    }
    bail!("a response without length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_and_refused() {
        let length = |head: &[u8]| match parse_head(head) {
            Ok(Length::Known(n)) => format!("{n}"),
            Ok(Length::Chunked) => "chunked".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nA: b"), "12");
        assert_eq!(length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked"), "chunked");
        assert_eq!(
            length(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0"),
            "answered `HTTP/1.1 503 Service Unavailable`"
        );
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nA: b"), "a response without length");
    }
}
