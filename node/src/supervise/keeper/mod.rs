//! The process between a node and a command that it runs: `paceline __keep`.
//!
//! It promises that nothing of a service outlives the service, and nothing of a service outlives its node, however
//! either of them ends:
//!
//! - It holds one end of a socket whose other end only the node has. When the node is gone (SIGKILL too), the stream
//!   ends, and the keeper ends the service: SIGTERM, and SIGKILL one second later.
//! - It is the subreaper of all that the command starts (prctl(2), `PR_SET_CHILD_SUBREAPER`): a process that forks twice
//!   and takes a session of its own becomes the keeper's child, not init's. When the command ends, all of them are
//!   killed, round after round, until no child is left.
//! - If the keeper itself is killed, the kernel kills the command with it (`PR_SET_PDEATHSIG`, set by [`exec`]), and the
//!   node kills its process group. (What left that group is lost then, unless a cgroup holds it.)
//!
//! It has one thread, because the kernel sends that signal when the *thread* ends that forked.

pub(super) mod exec;

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, PipeReader, Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use nix::sys::{
    signal::{SigSet, Signal as Caught},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, set_child_subreaper, setsid, wait},
};

use super::{
    cgroup,
    order::{End, KILL, ORDER_BYTES_MAX, Order, Report, TERMINATE},
    tree,
};

/// The argument that makes this program a keeper.
pub(crate) const ARGUMENT: &str = "__keep";
/// This program, whatever was put in its file's place since.
pub(crate) const PROGRAM: &str = "/proc/self/exe";
/// From SIGTERM to SIGKILL once the node is gone: whoever starts it again wants the port.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);
/// Between two looks at the memory of a service that no cgroup holds.
const MEMORY_EVERY: Duration = Duration::from_millis(250);
/// Between two rounds of SIGKILL.
const KILL_EVERY: Duration = Duration::from_millis(20);
/// How long killed processes are waited for: one in an uninterruptible sleep stays.
const KILL_MAX: Duration = Duration::from_secs(5);
/// Longest reason of [`exec`] that is passed on.
const REASON_BYTES_MAX: u64 = 1024;

/// The whole life of a keeper.
pub(crate) fn main() -> ExitCode {
    match keep() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is the service's log.
            eprintln!("paceline: cannot keep this service: {error}");
            ExitCode::FAILURE
        }
    }
}

fn keep() -> io::Result<()> {
    // Away from the terminal's process group: Ctrl-C is the node's to handle. Fails for one that leads its group already.
    let _ = setsid();
    set_child_subreaper(rustix::process::getpid().into())?;
    let mut caught = SigSet::empty();
    // The node stops its services in its own order, also where the whole unit is told to end.
    for signal in [Caught::SIGCHLD, Caught::SIGTERM, Caught::SIGINT, Caught::SIGHUP] {
        caught.add(signal);
    }
    caught.thread_block()?;
    let signals = SignalFd::with_flags(&caught, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let node = UnixStream::from(rustix::stdio::stdin().try_clone_to_owned()?);
    let (order, early) = read_order(&node)?;
    let (refusal, refused) = io::pipe()?;
    let command = exec::command(&order, Stdio::from(refused))?.spawn();
    let command = match command {
        Ok(child) => pid(child.id())?,
        Err(error) => {
            tell(&node, &Report::Failed(error.to_string()));
            return Ok(());
        }
    };
    let (refusal, kill_at) = (Some(refusal), None);
    let mut keeper =
        Keeper { node, signals, order, command, refusal, started: false, over_memory: false, kill_at, alone: false };
    keeper.obey(&early);
    keeper.run()
}

/// The order, and what came with it.
fn read_order(node: &UnixStream) -> io::Result<(Order, Vec<u8>)> {
    let (mut line, mut reader) = (Vec::new(), BufReader::new(node));
    reader.by_ref().take(ORDER_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
    Ok((serde_json::from_slice(&line)?, reader.buffer().to_vec()))
}

fn pid(raw: u32) -> io::Result<Pid> {
    i32::try_from(raw).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no process id"))
}

/// A node that is gone hears nothing; that is seen where its bytes are read.
fn tell(mut node: &UnixStream, report: &Report) {
    let Ok(mut line) = serde_json::to_vec(report) else { return };
    line.push(b'\n');
    let _ = node.write_all(&line);
}

struct Keeper {
    node: UnixStream,
    signals: SignalFd,
    order: Order,
    /// The command, leader of its process group.
    command: Pid,
    /// Ends without a word once the command's program runs.
    refusal: Option<PipeReader>,
    started: bool,
    over_memory: bool,
    kill_at: Option<Instant>,
    /// The node is gone.
    alone: bool,
}

impl Keeper {
    fn run(mut self) -> io::Result<()> {
        loop {
            if let Some(end) = self.reap() {
                return self.finish(end);
            }
            if self.kill_at.is_some_and(|at| at <= Instant::now()) {
                self.kill_all();
            }
            self.watch_memory();
            self.sleep()?;
            while let Ok(Some(_)) = self.signals.read_signal() {}
        }
    }

    /// Until something happens.
    fn sleep(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let killing = self.kill_at.map(|at| at.saturating_duration_since(now).max(KILL_EVERY));
        let watching = (self.order.memory_max.is_some() && self.order.cgroup.is_none()).then_some(MEMORY_EVERY);
        let timeout = killing.into_iter().chain(watching).min().and_then(|t| Timespec::try_from(t).ok());
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if !self.alone {
            fds.push(PollFd::new(&self.node, PollFlags::IN));
        }
        if let Some(refusal) = &self.refusal {
            fds.push(PollFd::new(refusal, PollFlags::IN));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let node = !self.alone;
        if node && ready.get(1) == Some(&true) {
            self.hear();
        }
        if self.refusal.is_some() && ready.get(1 + usize::from(node)) == Some(&true) {
            self.launched();
        }
        Ok(())
    }

    /// What the node wants.
    fn hear(&mut self) {
        let mut bytes = [0; 16];
        match self.node.read(&mut bytes) {
            Ok(0) | Err(_) => {
                self.alone = true;
                self.terminate();
                self.kill_at = self.kill_at.or(Some(Instant::now() + ORPHAN_GRACE));
            }
            Ok(read) => self.obey(&bytes[..read]),
        }
    }

    fn obey(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match *byte {
                TERMINATE => self.terminate(),
                KILL => self.kill_at = Some(Instant::now()),
                _ => {}
            }
        }
    }

    /// The command's program runs, or [`exec`] says why not.
    fn launched(&mut self) {
        let Some(refusal) = self.refusal.take() else { return };
        let mut reason = String::new();
        let _ = refusal.take(REASON_BYTES_MAX).read_to_string(&mut reason);
        if reason.is_empty() {
            self.started = true;
            tell(&self.node, &Report::Started(self.command.as_raw_nonzero().get().unsigned_abs()));
        } else {
            tell(&self.node, &Report::Failed(reason));
        }
    }

    fn terminate(&self) {
        // Before its session is made, the group is not there yet.
        if kill_process_group(self.command, Signal::TERM).is_err() {
            let _ = kill_process(self.command, Signal::TERM);
        }
    }

    /// One round; those that are born meanwhile are for the next.
    fn kill_all(&self) {
        if let Some(cgroup) = &self.order.cgroup {
            cgroup::kill(cgroup);
        }
        for one in tree::descendants(std::process::id()) {
            if let Ok(one) = pid(one) {
                let _ = kill_process(one, Signal::KILL);
            }
        }
    }

    /// Takes leave of all that have ended; how the command did, if it was among them.
    fn reap(&self) -> Option<End> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.command => {
                    let end = status.terminating_signal().map(End::Signal);
                    return end.or_else(|| status.exit_status().map(End::Code));
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    fn watch_memory(&mut self) {
        let (Some(max), None) = (self.order.memory_max, &self.order.cgroup) else { return };
        if self.over_memory {
            return;
        }
        let held = tree::memory(&tree::descendants(std::process::id()), max);
        if held > max {
            self.over_memory = true;
            tell(&self.node, &Report::OverMemory(held));
            self.kill_at = Some(Instant::now());
        }
    }

    /// The command has ended: so does all that it started.
    fn finish(mut self, end: End) -> io::Result<()> {
        if self.refusal.is_some() {
            self.launched();
        }
        let until = Instant::now() + KILL_MAX;
        while Instant::now() < until {
            self.kill_all();
            match wait(WaitOptions::NOHANG) {
                Err(rustix::io::Errno::CHILD) => break,
                Ok(Some(_)) => continue,
                _ => {
                    let timeout = Timespec::try_from(KILL_EVERY).ok();
                    let mut fds = [PollFd::new(&self.signals, PollFlags::IN)];
                    let _ = poll(&mut fds, timeout.as_ref());
                    while let Ok(Some(_)) = self.signals.read_signal() {}
                }
            }
        }
        if let Some(cgroup) = &self.order.cgroup {
            if cgroup::oom_kills(cgroup) > 0 && !self.over_memory {
                tell(&self.node, &Report::OverMemory(self.order.memory_max.unwrap_or(0)));
            }
            cgroup::remove(cgroup);
        }
        if self.started {
            tell(&self.node, &Report::Ended(end));
        }
        Ok(())
    }
}

/// A keeper's command line, with the node's environment less what is the node's alone.
pub(crate) fn command(name: &str, node: Stdio, output: Stdio, errors: Stdio) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg0("paceline").args([ARGUMENT, name]).stdin(node).stdout(output).stderr(errors);
    let own: BTreeMap<_, _> = std::env::vars_os()
        .filter(|(key, _)| {
            let key = key.to_string_lossy();
            !key.starts_with("PACELINE_") && !["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"].contains(&key.as_ref())
        })
        .collect();
    command.env_clear().envs(own);
    command
}
