//! `paceline doctor`: what this machine offers and lacks, in plain words with what to do. It changes nothing, and works
//! with no process running.

mod directory;
mod machine;
mod network;
mod quic;

use std::path::PathBuf;

use http::{Method, Uri};
use paceline_mesh::{
    args::ProcessRole,
    process::{Fault, Runtime},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    api::call,
    print,
    target::{QueryArgs, Target},
};

pub(super) const HELP: &str = "\
Exit code 0: nothing needs attention; 1: something does; 2: the command line is wrong.";

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Fine,
    /// Worth knowing; works all the same.
    Note,
    /// Something does not work, or soon will not.
    Attention,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            State::Fine => "fine",
            State::Note => "note",
            State::Attention => "ATTENTION",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    /// What was looked at, in a word.
    check: &'static str,
    state: State,
    found: String,
    /// What to do about it.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    todo: Option<String>,
}

impl Check {
    fn fine(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Fine, found: found.into(), todo: None }
    }

    fn note(check: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { check, state: State::Note, found: found.into(), todo: Some(todo.into()).filter(|t| !t.is_empty()) }
    }

    fn attention(check: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { state: State::Attention, ..Self::note(check, found, todo) }
    }
}

/// A process of ours on this machine.
struct Process {
    directory: PathBuf,
    runtime: Runtime,
    /// `/health`, `/doctor` of its local API; an error in words.
    health: Result<Value, String>,
    doctor: Result<Value, String>,
    /// What it starts itself: `/services`. A gateway or an entry point starts nothing.
    started: Vec<Value>,
}

impl Process {
    /// `None` where no process has left word in the directory.
    async fn of(directory: PathBuf) -> Option<Self> {
        let runtime = Runtime::read(&directory).ok()??;
        let key = std::fs::read_to_string(&runtime.admin_key_file).ok().map(|key| key.trim().to_owned());
        let url: Uri = format!("http://{}/", runtime.local_http).parse().ok()?;
        let target = Target { url, key };
        let ask = async |path| call(&target, Method::GET, path, None).await.map_err(|fault| fault.to_string());
        let (health, doctor, started) = (ask("/health").await, ask("/doctor").await, ask("/services").await);
        let started = started.ok().and_then(|answer| answer["services"].as_array().cloned()).unwrap_or_default();
        Some(Self { directory, runtime, health, doctor, started })
    }

    fn runs(&self) -> bool {
        self.health.is_ok()
    }

    fn called(&self) -> String {
        format!("`{}` ({}, pid {})", self.runtime.worker_id, self.runtime.role, self.runtime.pid)
    }
}

pub(super) async fn run(args: &QueryArgs) -> Result<(), Fault> {
    let given = args.target.local.data_dir.clone();
    let directories: Vec<PathBuf> = match &given {
        Some(directory) => vec![directory.clone()],
        None => ProcessRole::ALL.iter().filter_map(|r| r.default_data_dir()).filter(|d| d.exists()).collect(),
    };
    let mut processes = Vec::new();
    for directory in &directories {
        processes.extend(Process::of(directory.clone()).await);
    }
    let mut checks: Vec<Check> = processes.iter().map(process).collect();
    if processes.is_empty() {
        checks.push(Check::note(
            "process",
            "no Paceline process runs here",
            "start one: paceline up, or paceline node --join TOKEN",
        ));
    }
    checks.extend(network::ports(&processes));
    checks.extend(network::udp(&processes, &directories).await);
    checks.extend(network::reachable(&processes));
    checks.extend(network::clock(&processes, &directories, args.target.gateway.as_ref()).await);
    checks.extend(directory::all(&directories, given.is_some(), &processes));
    checks.extend(machine::hardware(directories.first().cloned()).await);
    checks.extend(machine::services(&processes).await);
    checks.push(machine::files());
    let worst = checks.iter().map(|check| check.state).max().unwrap_or(State::Fine);
    if args.json {
        let state = if worst == State::Attention { "attention" } else { "fine" };
        print(&format!("{:#}\n", json!({ "state": state, "checks": checks })))?;
    } else {
        print(&for_people(&checks))?;
    }
    if worst == State::Attention { Err(Fault::quiet(1)) } else { Ok(()) }
}

/// Whether a process that left word answers.
fn process(process: &Process) -> Check {
    let called = process.called();
    match &process.health {
        Ok(health) => {
            let status = health["status"].as_str().unwrap_or("unknown");
            let found = format!("{called} runs, and says that it is {status}");
            match status {
                "degraded" => Check::attention("process", found, "see `services` below, and its log"),
                _ => Check::fine("process", found),
            }
        }
        Err(words) => Check::attention(
            "process",
            format!("{called} left {}, but does not answer: {words}", process.directory.join("runtime.json").display()),
            "it was killed or hangs: start it again, or see its log",
        ),
    }
}

/// A line for each, what needs attention with an arrow to what to do.
fn for_people(checks: &[Check]) -> String {
    let mut out = String::new();
    let width = checks.iter().map(|check| check.check.len()).max().unwrap_or(0);
    for check in checks {
        let found = super::table::clean(&check.found);
        out.push_str(&format!("{:<9}  {:<width$}  {found}\n", check.state.as_str(), check.check));
        if let Some(todo) = &check.todo {
            out.push_str(&format!("{:<9}  {:<width$}  -> {}\n", "", "", super::table::clean(todo)));
        }
    }
    let attention = checks.iter().filter(|check| check.state == State::Attention).count();
    out.push_str(&match attention {
        0 => "nothing needs attention\n".to_owned(),
        1 => "1 thing needs attention\n".to_owned(),
        more => format!("{more} things need attention\n"),
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_people_and_for_programs() {
        let checks = [
            Check::fine("ports", "all free"),
            Check::note("gpu", "none", ""),
            Check::attention("disk", "full\u{1b}[2J", "make room"),
        ];
        let text = for_people(&checks);
        assert!(text.contains("fine       ports  all free\n"), "{text}");
        assert!(text.contains("ATTENTION  disk   full?[2J\n                  -> make room\n"), "{text}");
        assert!(text.ends_with("1 thing needs attention\n") && !text.contains("none\n  "), "{text}");
        assert_eq!(json!(checks[2])["do"], "make room");
        assert!(json!(checks[1]).get("do").is_none());
        assert!(State::Attention > State::Note && State::Note > State::Fine);
    }
}
