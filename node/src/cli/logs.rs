//! `paceline logs`: what a service writes that this machine's node runs; from the node, or from its files where it does
//! not run.

use std::{
    fs,
    io::IsTerminal,
    path::{Path, PathBuf},
};

use clap::Args;
use http::Method;
use paceline_mesh::{
    args::ProcessRole,
    process::{Fault, Runtime},
};
use paceline_proto::id::ServiceName;
use serde_json::Value;

use super::{api::call, print, target::LocalArgs};
use crate::supervise::{LOGS, log_path};

/// What the command line says.
#[derive(Args, Clone, Debug)]
pub(super) struct LogsArgs {
    /// A service that the node on this machine starts
    service: ServiceName,

    /// Go on with new lines as they come
    #[arg(long, short)]
    follow: bool,

    /// How many of the last lines
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
    tail: usize,

    #[command(flatten)]
    local: LocalArgs,
}

pub(super) async fn run(args: &LogsArgs) -> Result<(), Fault> {
    let directories = match &args.local.data_dir {
        Some(directory) => vec![directory.clone()],
        None => ProcessRole::ALL.iter().filter_map(|role| role.default_data_dir()).collect(),
    };
    let runs = directories.iter().any(|directory| Runtime::read(directory).is_ok_and(|found| found.is_some_and(alive)));
    if runs { from_node(args).await } else { from_disk(args, &directories) }
}

/// A node that was killed leaves its file behind.
fn alive(runtime: Runtime) -> bool {
    let pid = i32::try_from(runtime.pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH)))
}

async fn from_node(args: &LogsArgs) -> Result<(), Fault> {
    let (target, _) = args.local.find()?;
    let service = &args.service;
    let mut answer = call(&target, Method::GET, &format!("/logs?service={service}&tail={}", args.tail), None).await?;
    loop {
        let lines = answer["lines"].as_array().into_iter().flatten().filter_map(Value::as_str);
        show(lines)?;
        let Some(next) = answer["next"].as_u64().filter(|_| args.follow) else { return Ok(()) };
        answer = call(&target, Method::GET, &format!("/logs?service={service}&from={next}"), None).await?;
    }
}

fn from_disk(args: &LogsArgs, directories: &[PathBuf]) -> Result<(), Fault> {
    let name = args.service.as_str();
    let found = directories.iter().map(|d| log_path(&d.join(LOGS), name)).find(|path| path.exists());
    let Some(path) = found else {
        let searched: Vec<_> = directories.iter().map(|d| d.join(LOGS).display().to_string()).collect();
        return Err(Fault::user(format!(
            "no node runs here, and there is no log of `{name}` in {}",
            searched.join(", ")
        )));
    };
    let mut lines = last_lines(&path, args.tail)?;
    if lines.len() < args.tail {
        let older = PathBuf::from(format!("{}.1", path.display()));
        if older.exists() {
            let mut all = last_lines(&older, args.tail - lines.len())?;
            all.append(&mut lines);
            lines = all;
        }
    }
    show(lines.iter().map(String::as_str))?;
    eprintln!("(the node does not run: this is from {})", path.display());
    Ok(())
}

/// The files are bounded, so they are read whole.
fn last_lines(path: &Path, count: usize) -> Result<Vec<String>, Fault> {
    let bytes = fs::read(path).map_err(|e| Fault::user(format!("{}: {e}", path.display())))?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines.iter().skip(lines.len().saturating_sub(count)).map(|line| (*line).to_owned()).collect())
}

/// A terminal gets no control characters: what a service writes may come from its callers.
fn show<'a>(lines: impl Iterator<Item = &'a str>) -> Result<(), Fault> {
    let terminal = std::io::stdout().is_terminal();
    let mut text = String::new();
    for line in lines {
        if terminal {
            text.extend(plain(line))
        } else {
            text.push_str(line)
        }
        text.push('\n');
    }
    print(&text)
}

/// The line without control characters and without the sequences that colour it (ECMA-48, 5.4).
fn plain(line: &str) -> impl Iterator<Item = char> {
    let mut chars = line.chars().peekable();
    std::iter::from_fn(move || {
        loop {
            let c = chars.next()?;
            if c == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            } else if c == '\t' || !c.is_control() {
                return Some(c);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        for (line, shown) in [
            ("plain\ttext", "plain\ttext"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("a\u{1b}]0;title\u{7}b", "a]0;titleb"),
            ("cut \u{1b}[31", "cut "),
            ("\u{9b}31m\r\u{8}", "31m"),
        ] {
            assert_eq!(plain(line).collect::<String>(), shown);
        }
    }
}
