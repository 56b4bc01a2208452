//! What a service writes to its standard output and standard error, line by line: in `NAME.log` of the log folder, and
//! the last lines in memory.
//!
//! Bounded whatever the service does: the file is rotated, a line is cut, and a service that floods loses lines instead
//! of filling the disk or waiting for it. It is always read, so that a full pipe never stops it.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;

use super::units::Bytes;

/// Size of a file at which the next one begins.
pub(crate) const FILE_BYTES_MAX: u64 = 8 << 20;
/// Older files that are kept beside the present one: NAME.log.1 is the youngest.
pub(crate) const FILES_KEPT: u32 = 3;
/// Longest line; the rest of it makes further lines.
pub(crate) const LINE_BYTES_MAX: usize = 16 * 1024;
/// Most lines in memory.
pub const TAIL_LINES_MAX: usize = 1000;
/// Most bytes in memory.
pub(crate) const TAIL_BYTES_MAX: usize = 256 * 1024;
/// What a service may write at once before lines are left out.
const BURST_BYTES: u64 = 4 << 20;
/// What it may write in the long run.
const BYTES_PER_SECOND: u64 = 1 << 20;
/// Between two notes of how much was left out.
const DROPPED_NOTE_EVERY: Duration = Duration::from_secs(1);
/// After each read of a flood: at most some 128 MiB a second are read, with little of a processor.
const FLOOD_PAUSE: Duration = Duration::from_micros(500);
/// One read of its pipe.
const READ_BYTES: usize = 64 * 1024;

/// The log of one service; it outlives the service's processes.
#[derive(Debug)]
pub(crate) struct Log {
    inner: Mutex<Inner>,
    /// The number of the next line.
    next: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: Option<File>,
    written: u64,
    tail: VecDeque<String>,
    tail_bytes: usize,
    next: u64,
    allowance: u64,
    refilled: Instant,
    dropped: u64,
    noted: Option<Instant>,
}

/// Lines of a log, and where the next ones begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    /// With their time, oldest first.
    pub lines: Vec<String>,
    /// The number of the line that comes next.
    pub next: u64,
}

/// Where a service's log is.
pub fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

impl Log {
    /// Of a service, in a folder that is made where it is missing.
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let path = path(folder, name);
        let inner = Inner {
            path,
            file: None,
            written: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
            next: 0,
            allowance: BURST_BYTES,
            refilled: Instant::now(),
            dropped: 0,
            noted: None,
        };
        Self { inner: Mutex::new(inner), next: watch::Sender::new(0) }
    }

    /// Adds a line of the node's own.
    pub(crate) fn note(&self, words: &str) {
        self.lock().line(format!("paceline: {words}").as_bytes());
        self.told();
    }

    /// The last `count` lines in memory.
    pub(crate) fn tail(&self, count: usize) -> Lines {
        let inner = self.lock();
        let skip = inner.tail.len().saturating_sub(count);
        Lines { lines: inner.tail.iter().skip(skip).cloned().collect(), next: inner.next }
    }

    /// The lines from number `from` on, as far as they are in memory.
    pub(crate) fn since(&self, from: u64) -> Lines {
        let inner = self.lock();
        let first = inner.next - inner.tail.len() as u64;
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        Lines { lines: inner.tail.iter().skip(skip).cloned().collect(), next: inner.next }
    }

    /// Tells the number of the next line as it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.next.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A line is whole or missing, whoever panicked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) {
        let next = self.lock().next;
        self.next.send_replace(next);
    }

    /// Takes what comes until all writers have gone, on a thread of its own: a flood keeps one thread busy, not the
    /// node's.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn follow(self: &Arc<Self>, name: &str, mut from: impl Read + Send + 'static) -> io::Result<()> {
        let log = self.clone();
        std::thread::Builder::new().name(format!("log {name}")).spawn(move || {
            let mut splitter = Splitter::default();
            let mut chunk = vec![0; READ_BYTES];
            loop {
                match from.read(&mut chunk) {
                    Ok(0) => break,
                    // A thread cannot do both, read what comes and leave the processor to others.
                    Ok(read) if log.take(&mut splitter, &chunk[..read]) => std::thread::sleep(FLOOD_PAUSE),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            let rest = std::mem::take(&mut splitter.partial);
            if !rest.is_empty() {
                log.lock().line(&rest);
            }
            log.lock().note_dropped(true);
            log.told();
        })?;
        Ok(())
    }

    /// Whether it floods: something was left out a moment ago.
    fn take(&self, splitter: &mut Splitter, bytes: &[u8]) -> bool {
        let mut inner = self.lock();
        if inner.spend(bytes.len() as u64) {
            splitter.split(bytes, |line| inner.line(line));
        } else {
            inner.dropped += bytes.len() as u64;
            splitter.partial.clear();
            splitter.skip = bytes.last() != Some(&b'\n');
        }
        inner.note_dropped(false);
        let flooding = inner.dropped > 0;
        drop(inner);
        self.told();
        flooding
    }
}

impl Inner {
    /// Whether so much may be written now.
    fn spend(&mut self, bytes: u64) -> bool {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.refilled);
        let earned = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).saturating_mul(BYTES_PER_SECOND) / 1000;
        if earned > 0 {
            self.allowance = self.allowance.saturating_add(earned).min(BURST_BYTES);
            self.refilled = now;
        }
        let enough = self.allowance >= bytes;
        if enough {
            self.allowance -= bytes;
        }
        enough
    }

    fn note_dropped(&mut self, last: bool) {
        let now = Instant::now();
        let due = last || self.noted.is_none_or(|at| now >= at + DROPPED_NOTE_EVERY);
        if self.dropped > 0 && due {
            self.noted = Some(now);
            let dropped = std::mem::take(&mut self.dropped);
            let dropped = Bytes(dropped);
            self.line(format!("paceline: {dropped} left out: it writes more than 1 MiB a second").as_bytes());
        }
    }

    fn line(&mut self, line: &[u8]) {
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let line = format!("{time} {}", String::from_utf8_lossy(line));
        self.write(&line);
        self.tail_bytes += line.len();
        self.tail.push_back(line);
        self.next += 1;
        while self.tail.len() > TAIL_LINES_MAX || self.tail_bytes > TAIL_BYTES_MAX {
            let Some(first) = self.tail.pop_front() else { break };
            self.tail_bytes -= first.len();
        }
    }

    /// A disk that is full loses the file's lines, not the ones in memory.
    fn write(&mut self, line: &str) {
        if self.written >= FILE_BYTES_MAX {
            self.file = None;
            rotate(&self.path);
        }
        if self.file.is_none() {
            match open(&self.path) {
                Ok((file, length)) => (self.file, self.written) = (Some(file), length),
                Err(_) => return,
            }
        }
        let Some(file) = &mut self.file else { return };
        if file.write_all(format!("{line}\n").as_bytes()).is_err() {
            self.file = None;
        }
        self.written += line.len() as u64 + 1;
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // What a service says of its callers is nobody else's.
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// `NAME.log` becomes `NAME.log.1`, and so on; the last one goes.
fn rotate(path: &Path) {
    let numbered = |n: u32| PathBuf::from(format!("{}.{n}", path.display()));
    for n in (1..FILES_KEPT).rev() {
        let _ = fs::rename(numbered(n), numbered(n + 1));
    }
    let _ = fs::rename(path, numbered(1));
}

/// Bytes to lines of at most [`LINE_BYTES_MAX`].
#[derive(Debug, Default)]
struct Splitter {
    partial: Vec<u8>,
    /// The rest of a line of which a part was left out goes too.
    skip: bool,
}

impl Splitter {
    fn split(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        if self.skip {
            let Some(end) = bytes.iter().position(|b| *b == b'\n') else { return };
            bytes = &bytes[end + 1..];
            self.skip = false;
        }
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - self.partial.len();
            let end = bytes.iter().take(room + 1).position(|b| *b == b'\n');
            let (part, rest) = match end {
                Some(end) => (&bytes[..end], &bytes[end + 1..]),
                None if bytes.len() > room => bytes.split_at(room),
                None => {
                    self.partial.extend_from_slice(bytes);
                    return;
                }
            };
            self.partial.extend_from_slice(part);
            line(self.partial.strip_suffix(b"\r").unwrap_or(&self.partial));
            self.partial.clear();
            bytes = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &Path) -> Log {
        Log::new(&dir.join("logs"), "s")
    }

    fn texts(lines: &Lines) -> Vec<&str> {
        lines.lines.iter().map(|line| line.split_once(' ').expect("a time").1).collect()
    }

    #[test]
    fn bytes_become_lines_however_they_come() {
        let whole =
            [&b"a\nbb\r\n\n"[..], &[b'x'; LINE_BYTES_MAX + 5], b"\n", &[b'y'; LINE_BYTES_MAX], b"\nend"].concat();
        for size in [1, 2, 3, 7, 4096, whole.len()] {
            let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
            for chunk in whole.chunks(size) {
                splitter.split(chunk, |line| lines.push(line.to_vec()));
            }
            let lengths: Vec<usize> = lines.iter().map(Vec::len).collect();
            assert_eq!(lengths, [1, 2, 0, LINE_BYTES_MAX, 5, LINE_BYTES_MAX], "in chunks of {size}");
            assert_eq!(splitter.partial, b"end");
        }
    }

    #[test]
    fn the_tail_is_bounded_and_numbered() {
        let dir = tempfile::tempdir().expect("folder");
        let log = log(dir.path());
        for n in 0..TAIL_LINES_MAX + 10 {
            log.note(&n.to_string());
        }
        assert_eq!(log.tail(2), log.since(TAIL_LINES_MAX as u64 + 8));
        assert_eq!(texts(&log.tail(1)), [format!("paceline: {}", TAIL_LINES_MAX + 9)]);
        assert_eq!(log.since(0).lines.len(), TAIL_LINES_MAX, "what is gone is skipped");
        assert_eq!(log.since(u64::MAX).lines.len(), 0);
        assert_eq!(*log.watch().borrow(), TAIL_LINES_MAX as u64 + 10);
        for _ in 0..100 {
            log.note(&"x".repeat(LINE_BYTES_MAX));
        }
        assert!(log.lock().tail_bytes <= TAIL_BYTES_MAX);
    }

    #[test]
    fn files_are_rotated_and_the_oldest_goes() {
        let dir = tempfile::tempdir().expect("folder");
        let log = log(dir.path());
        let line = "x".repeat(LINE_BYTES_MAX - 100);
        for _ in 0..(u64::from(FILES_KEPT) + 2) * FILE_BYTES_MAX / line.len() as u64 {
            log.note(&line);
        }
        let mut names: Vec<_> =
            fs::read_dir(dir.path().join("logs")).expect("logs").map(|e| e.expect("entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["s.log", "s.log.1", "s.log.2", "s.log.3"]);
        let total: u64 = fs::read_dir(dir.path().join("logs"))
            .expect("logs")
            .map(|e| e.expect("entry").metadata().expect("metadata").len())
            .sum();
        assert!(total <= (u64::from(FILES_KEPT) + 1) * (FILE_BYTES_MAX + LINE_BYTES_MAX as u64), "{total}");
    }

    #[test]
    fn a_flood_loses_lines_and_says_how_many() {
        let dir = tempfile::tempdir().expect("folder");
        let log = log(dir.path());
        let mut splitter = Splitter::default();
        let chunk = b"0123456789abcde\n".repeat(4096);
        // So many that a slow machine cannot write them within what comes free meanwhile.
        let count = 5 * BURST_BYTES / chunk.len() as u64;
        for _ in 0..count {
            log.take(&mut splitter, &chunk);
        }
        log.lock().note_dropped(true);
        let all = log.tail(usize::MAX);
        let said = texts(&all).iter().filter(|line| line.contains("left out")).count();
        assert!(said >= 1, "{:?}", all.lines.last());
        assert!(all.next < count * 4096, "{} lines were kept", all.next);
    }

    #[test]
    fn the_file_goes_on_where_it_ended() {
        let dir = tempfile::tempdir().expect("folder");
        log(dir.path()).note("one");
        log(dir.path()).note("two");
        let text = fs::read_to_string(path(&dir.path().join("logs"), "s")).expect("text");
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}
