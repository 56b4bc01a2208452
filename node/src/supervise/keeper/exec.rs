//! The step between fork and the command's program: `paceline __exec` takes on the service's session, limits, user and
//! death signal, and becomes the program. As a program of its own it needs no code between fork and exec, which would be
//! `unsafe`.
//!
//! Its standard input is a pipe to the keeper: a reason written there says that the program could not be run; closed by
//! the exec itself, it says that it runs.

use std::{
    ffi::CString,
    fs,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use nix::{
    sys::signal::SigSet,
    unistd::{Gid, Uid, User, initgroups, setgid, setuid},
};
use rustix::{
    process::{Pid, Resource, Rlimit, Signal, getpid, getppid, set_parent_process_death_signal, setrlimit, setsid},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde::{Deserialize, Serialize};

use super::{super::order::Order, PROGRAM};

/// The argument that makes this program such a step.
pub(crate) const ARGUMENT: &str = "__exec";
/// The variable that holds the [`Step`].
const VARIABLE: &str = "PACELINE_EXEC";
/// How much sooner the kernel picks a service than its node when the machine runs out of memory.
const OOM_SCORE: &str = "300";
/// Above the watched limit, what one process may map at most without a cgroup: a look comes only every 250 ms. Far above
/// it, because stacks of threads and reserved heaps count here though nothing is in them.
const BACKSTOP_BYTES: u64 = 1 << 30;

#[derive(Serialize, Deserialize)]
struct Step {
    order: Order,
    keeper: u32,
}

/// The command line of this step, from the keeper that calls.
pub(super) fn command(order: &Order, refused: Stdio) -> io::Result<Command> {
    let step = Step { order: Order { env: Default::default(), ..order.clone() }, keeper: std::process::id() };
    let mut command = Command::new(PROGRAM);
    command.arg0("paceline").arg(ARGUMENT).stdin(refused);
    command.envs(&order.env).env(VARIABLE, serde_json::to_string(&step)?);
    Ok(command)
}

/// Becomes the program; returns only where it cannot.
pub(crate) fn main() -> ExitCode {
    let Ok(keeper) = rustix::stdio::stdin().try_clone_to_owned() else { return ExitCode::from(126) };
    let error = match step() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    let told = fs::File::from(keeper).write_all(error.as_bytes()).is_ok();
    // The keeper's words stand in the service's log; whoever calls this by hand reads them here.
    if !told || std::env::var_os(VARIABLE).is_none() {
        eprintln!("paceline: {error}");
    }
    ExitCode::from(127)
}

fn step() -> Result<std::convert::Infallible, String> {
    let text = std::env::var(VARIABLE).map_err(|_| "this command is paceline's own".to_owned())?;
    let Step { order, keeper } = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    if let Some(cgroup) = &order.cgroup {
        let file = cgroup.join("cgroup.procs");
        fs::write(&file, getpid().as_raw_nonzero().to_string()).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    setsid().map_err(|e| format!("cannot start a session: {e}"))?;
    // The keeper's is inherited, in which SIGTERM is blocked.
    SigSet::empty().thread_set_mask().map_err(|e| format!("cannot set the signal mask: {e}"))?;
    // Only a wish: a system without the file does without.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    if order.cgroup.is_none() {
        limit(&order)?;
    }
    let user = order.user.as_deref().map(become_user).transpose()?.flatten();
    // After the change of user, which clears it.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| format!("cannot set the death signal: {e}"))?;
    if getppid().map(Pid::as_raw_nonzero).map(|pid| pid.get().unsigned_abs()) != Some(keeper) {
        return Err("its node has ended".to_owned());
    }
    let [program, arguments @ ..] = order.argv.as_slice() else { return Err("no command".to_owned()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).env_remove(VARIABLE);
    if let Some(user) = user {
        for (key, value) in [("USER", user.name.as_str()), ("LOGNAME", user.name.as_str())] {
            command.env(key, value);
        }
        command.env("HOME", user.dir);
    }
    if let Some(directory) = &order.workdir {
        std::env::set_current_dir(directory).map_err(|e| format!("workdir {}: {e}", directory.display()))?;
    }
    let error = command.exec();
    Err(format!("cannot run `{program}`: {}", words(&error, program)))
}

/// The kernel's word, and what it does not say.
fn words(error: &io::Error, program: &str) -> String {
    match error.kind() {
        io::ErrorKind::NotFound if Path::new(program).exists() => {
            format!("{error}; the file is there, so what runs it (the first line after #!, or its loader) is not")
        }
        io::ErrorKind::NotFound if !program.contains('/') => "there is no such program on the PATH".to_owned(),
        _ => error.to_string(),
    }
}

/// What can be held without a cgroup.
fn limit(order: &Order) -> Result<(), String> {
    if let Some(max) = order.memory_max {
        let bytes = max.saturating_mul(2).saturating_add(BACKSTOP_BYTES);
        setrlimit(Resource::Data, Rlimit { current: Some(bytes), maximum: Some(bytes) })
            .map_err(|e| format!("cannot limit its memory: {e}"))?;
    }
    if let Some(cpus) = order.cpus {
        let allowed = sched_getaffinity(None).map_err(|e| format!("cannot limit its processors: {e}"))?;
        let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        // Not all services on the first ones.
        let shift = usize::try_from(getpid().as_raw_nonzero().get().unsigned_abs()).unwrap_or(0);
        let mut chosen = CpuSet::new();
        let count = usize::try_from(cpus).unwrap_or(usize::MAX).clamp(1, all.len().max(1));
        for at in 0..count.min(all.len()) {
            chosen.set(all[(shift + at) % all.len()]);
        }
        sched_setaffinity(None, &chosen).map_err(|e| format!("cannot limit its processors: {e}"))?;
    }
    Ok(())
}

/// By name or number; `None` where this process is that user already.
fn become_user(text: &str) -> Result<Option<User>, String> {
    let failed = |e| format!("user {text}: {e}");
    let found = match text.parse::<u32>() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(text),
    };
    let user = found.map_err(failed)?.ok_or_else(|| format!("there is no user `{text}` on this machine"))?;
    if user.uid == Uid::effective() {
        return Ok(None);
    }
    if !Uid::effective().is_root() {
        return Err(format!("only a node that runs as root can run it as the user `{text}`"));
    }
    let name = CString::new(user.name.as_str()).map_err(|_| format!("user {text}: a NUL byte in its name"))?;
    initgroups(&name, user.gid).map_err(failed)?;
    setgid(Gid::from_raw(user.gid.as_raw())).map_err(failed)?;
    setuid(user.uid).map_err(failed)?;
    Ok(Some(user))
}
