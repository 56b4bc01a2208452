//! The configuration file: a flat TOML table whose keys are flags without their dashes.
//!
//! A value becomes the default of its flag, so that flags and variables win, and is judged by the flag's own parser.
//! A key of another Paceline command is allowed, so that one file serves a whole cluster; any other is refused.

use std::{collections::BTreeSet, path::Path};

use clap::{Arg, ArgAction, Command};
use toml::de::{DeTable, DeValue};

use super::{GatewayArgs, MeshArgs, WorkerArgs, one_line};
use crate::process::Fault;

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A flag's value from the file.
pub(super) struct Default {
    id: String,
    values: Vec<String>,
}

/// Reads and judges a file for a command.
pub(super) fn load(path: &Path, command: &Command) -> Result<Vec<Default>, Fault> {
    let shown = path.display();
    let refuse = |e: std::io::Error| Fault::user(format!("--config {shown}: {e}"));
    if std::fs::metadata(path).map_err(refuse)?.len() > FILE_BYTES_MAX {
        return Err(Fault::user(format!("--config {shown}: has more than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(refuse)?;
    judge(&text, command).map_err(|(offset, reason)| {
        let line = text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1;
        Fault::user(format!("--config {shown}:{line}: {reason}"))
    })
}

/// Makes the values defaults.
pub(super) fn apply(command: Command, defaults: &[Default]) -> Command {
    defaults.iter().fold(command, |c, d| c.mut_arg(&d.id, |a| a.default_values(d.values.clone())))
}

/// The values, or the byte offset and the reason of the first fault.
fn judge(text: &str, command: &Command) -> Result<Vec<Default>, (usize, String)> {
    let table = DeTable::parse(text).map_err(|e| (e.span().map_or(0, |s| s.start), e.message().to_owned()))?;
    let known = all_flags(command);
    let mut defaults = Vec::new();
    for (key, value) in table.get_ref() {
        let (name, at) = (key.get_ref().as_ref(), key.span().start);
        if !known.contains(name) {
            return Err((at, unknown(name, &known)));
        }
        let Some(arg) = command.get_arguments().find(|a| a.get_long() == Some(name)) else { continue };
        let values = texts(arg, value.get_ref()).map_err(|reason| (at, format!("{name}: {reason}")))?;
        check(arg, &values).map_err(|reason| (at, reason))?;
        defaults.push(Default { id: arg.get_id().to_string(), values });
    }
    Ok(defaults)
}

/// The flags of every process; `config` cannot name itself.
fn all_flags(command: &Command) -> BTreeSet<String> {
    let shared = [
        <MeshArgs as clap::Args>::augment_args(Command::new("")),
        <GatewayArgs as clap::Args>::augment_args(Command::new("")),
        <WorkerArgs as clap::Args>::augment_args(Command::new("")),
    ];
    let long = |c: &Command| c.get_arguments().filter_map(|a| a.get_long().map(str::to_owned)).collect::<Vec<_>>();
    let own_words = ["config", "help", "version"];
    shared.iter().chain([command]).flat_map(long).filter(|n| !own_words.contains(&n.as_str())).collect()
}

fn unknown(name: &str, known: &BTreeSet<String>) -> String {
    let nearest = known.iter().map(|k| (distance(name, k), k)).min();
    match nearest {
        Some((d, k)) if d <= name.len().max(k.len()) / 2 => format!("unknown key `{name}`; did you mean `{k}`?"),
        _ => format!("unknown key `{name}`; the keys are the flags of `paceline up --help`"),
    }
}

/// Levenshtein's distance, in bytes: the inputs are a key of a small file and a flag.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

fn texts(arg: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, DeValue::Boolean(b)) => Ok(vec![b.to_string()]),
        (ArgAction::SetTrue, _) => Err("expected true or false".to_owned()),
        (ArgAction::Append, DeValue::Array(items)) => items.iter().map(|v| scalar(v.get_ref())).collect(),
        (_, DeValue::Array(_)) => Err("expected one value, not a list".to_owned()),
        (_, value) => Ok(vec![scalar(value)?]),
    }
}

fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(s) => Ok(s.to_string()),
        DeValue::Integer(i) => Ok(i.to_string()),
        DeValue::Float(f) => Ok(f.to_string()),
        DeValue::Boolean(b) => Ok(b.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            Err("expected a text, a number, or true or false".to_owned())
        }
    }
}

/// Lets the flag's own parser judge, alone: whatever else stands on the command line has its own words.
fn check(arg: &Arg, values: &[String]) -> Result<(), String> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return Ok(());
    }
    let alone = Command::new("config").no_binary_name(true).arg(arg.clone());
    let long = arg.get_long().unwrap_or_default();
    let argv = values.iter().map(|v| format!("--{long}={v}"));
    alone.try_get_matches_from(argv).map(drop).map_err(|e| one_line(&e.to_string()))
}
