//! The node's end of a keeper: starts it, tells it what to do, and hears what becomes of the command.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    process::Stdio,
    sync::Arc,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixStream, unix::OwnedReadHalf},
    process::{Child, Command},
    sync::mpsc,
    task::JoinSet,
};

use super::{
    keeper,
    log::Log,
    order::{End, KILL, ORDER_BYTES_MAX, Order, REPORT_BYTES_MAX, Report, TERMINATE},
};

/// Reports that wait for the service's task: a keeper sends at most four.
const REPORTS_MAX: usize = 8;
/// Words of the node for its keeper that wait to be written.
const WORDS_MAX: usize = 8;

/// What becomes of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It runs, as this process.
    Started(u32),
    /// It takes too much memory, so many bytes, and is killed.
    OverMemory(u64),
    /// It could not be run.
    Failed(String),
    /// It has ended. The last event, as [`Event::Failed`] and [`Event::Lost`] are.
    Ended(End),
    /// Its keeper has ended without a word.
    Lost,
}

/// A command under a keeper. Dropped, its keeper ends it as if the node were gone.
#[derive(Debug)]
pub(crate) struct Process {
    keeper: u32,
    words: mpsc::Sender<u8>,
    events: mpsc::Receiver<Event>,
    /// Speaks with the keeper, and reaps it.
    _task: JoinSet<()>,
}

impl Process {
    /// Starts a keeper for the command; its output goes to `log`.
    ///
    /// # Errors
    /// The system gives no process, no socket or no thread.
    pub(crate) fn spawn(name: &str, order: &Order, log: &Arc<Log>) -> io::Result<Self> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        if line.len() > ORDER_BYTES_MAX {
            return Err(io::Error::other("the command and its environment are too long"));
        }
        let (own, its) = StdStream::pair()?;
        own.set_nonblocking(true)?;
        let (output, writer) = io::pipe()?;
        let stdio = |fd: OwnedFd| Stdio::from(fd);
        let errors = stdio(writer.try_clone()?.into());
        let command = keeper::command(name, stdio(its.into()), stdio(writer.into()), errors);
        // Not killed on drop: the end of the socket makes it end the service first.
        let child = Command::from(command).spawn()?;
        log.follow(name, output)?;
        let (words, wanted) = mpsc::channel(WORDS_MAX);
        let (told, events) = mpsc::channel(REPORTS_MAX);
        let keeper = child.id().unwrap_or_default();
        let mut task = JoinSet::new();
        task.spawn(speak(child, UnixStream::from_std(own)?, line, wanted, told));
        Ok(Self { keeper, words, events, _task: task })
    }

    /// What comes next; `None` after the last.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// SIGTERM to the command's processes.
    pub(crate) fn terminate(&self) {
        // Full or closed: the words before say the same, or it has ended.
        let _ = self.words.try_send(TERMINATE);
    }

    /// SIGKILL to all that the command started.
    pub(crate) fn kill(&self) {
        let _ = self.words.try_send(KILL);
    }

    /// The keeper's process: all of the service's are below it.
    pub(crate) fn keeper(&self) -> u32 {
        self.keeper
    }
}

async fn speak(
    mut child: Child,
    socket: UnixStream,
    order: Vec<u8>,
    mut words: mpsc::Receiver<u8>,
    told: mpsc::Sender<Event>,
) {
    let (read, mut write) = socket.into_split();
    // A keeper that does not read has ended, which the other half sees.
    let _ = write.write_all(&order).await;
    let mut reports = JoinSet::new();
    reports.spawn(hear(read, told.clone()));
    let last = loop {
        tokio::select! {
            word = words.recv() => match word {
                Some(word) => drop(write.write_all(&[word]).await),
                // The service's task is gone: so is the command soon.
                None => break false,
            },
            ended = reports.join_next() => break matches!(ended, Some(Ok(true))),
        }
    };
    drop(write);
    let _ = child.wait().await;
    if !last {
        // Whoever asked may be gone.
        let _ = told.send(Event::Lost).await;
    }
}

/// Passes the keeper's reports on; whether the last of them was among them.
async fn hear(read: OwnedReadHalf, told: mpsc::Sender<Event>) -> bool {
    let mut lines = BufReader::new(read.take(4 * REPORT_BYTES_MAX as u64)).lines();
    let mut group = None;
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(report) = serde_json::from_str::<Report>(&line) else { continue };
        let (event, last) = match report {
            Report::Started(pid) => {
                group = Some(pid);
                (Event::Started(pid), false)
            }
            Report::OverMemory(bytes) => (Event::OverMemory(bytes), false),
            Report::Failed(reason) => (Event::Failed(reason), true),
            Report::Ended(end) => (Event::Ended(end), true),
        };
        if told.send(event).await.is_err() || last {
            return true;
        }
    }
    // The keeper was killed, and the kernel has killed the command; its group may go on.
    if let Some(group) = group.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    false
}

/// How a command ended, in words.
pub(crate) fn words(end: End) -> String {
    match end {
        End::Code(0) => "ended by itself (exit code 0)".to_owned(),
        End::Code(code) => format!("ended with exit code {code}"),
        End::Signal(signal) => {
            let name = nix::sys::signal::Signal::try_from(signal).ok();
            format!("ended by the signal {}", name.map_or(signal.to_string(), |s| s.as_str().to_owned()))
        }
    }
}
