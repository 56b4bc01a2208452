//! The flat part of the configuration file: keys are flags without their dashes.
//!
//! A value becomes the default of its flag, so that flags and variables win, and is judged by the flag's own parser.
//! A key of another Paceline command is allowed, so that one file serves a whole cluster; any other is refused.
//! `service` and `serve` are not defaults: what the file offers comes beside what the command line does.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, Args, Command};
use toml::de::DeValue;

use super::{Document, GatewayArgs, MeshArgs, TABLES, WorkerArgs, invocation::one_line, nearest, tables::Tables};
use crate::process::Fault;

/// Keys that the owner of the services reads.
const OF_SERVICES: [&str; 2] = ["service", "serve"];

/// A flag's value from the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Default {
    pub(super) id: String,
    pub(super) values: Vec<String>,
    pub(super) line: usize,
}

/// Judges every flat key of a file, whichever process it is for, and the tables of every process.
///
/// # Errors
/// The first fault, with file and line.
pub fn check(document: &Document) -> Result<(), Fault> {
    judge(document, &every_process())?;
    Tables::read(document).map(drop)
}

/// The flags of every process that a file may name.
pub fn flags() -> Vec<Arg> {
    let of_file = |a: &&Arg| a.get_long().is_some_and(|long| !["config", "help", "version"].contains(&long));
    every_process().get_arguments().filter(of_file).cloned().collect()
}

/// A command with the flags of all processes.
fn every_process() -> Command {
    WorkerArgs::augment_args(GatewayArgs::augment_args(MeshArgs::augment_args(Command::new("paceline"))))
}

/// The values of a command's own flags.
pub(super) fn judge(document: &Document, command: &Command) -> Result<Vec<Default>, Fault> {
    let table = document.table()?;
    let known = known(command);
    let mut defaults = Vec::new();
    for (key, value) in table.get_ref() {
        let (name, at) = (key.get_ref().as_ref(), key.span().start);
        if TABLES.contains(&name) || OF_SERVICES.contains(&name) {
            continue;
        }
        let Some(arg) = known.get(name) else {
            let flags = known.keys().map(String::as_str).filter(|_| !matches!(value.get_ref(), DeValue::Table(_)));
            let words = match nearest(name, flags.chain(TABLES)) {
                Some(meant) => format!("unknown key `{name}`; did you mean `{meant}`?"),
                None => format!("unknown key `{name}`; see `paceline config example`"),
            };
            return Err(document.fault(at, words));
        };
        let values = texts(arg, value.get_ref()).map_err(|reason| document.fault(at, format!("{name}: {reason}")))?;
        judge_alone(arg, &values).map_err(|reason| document.fault(at, reason))?;
        if command.get_arguments().any(|a| a.get_id() == arg.get_id()) {
            defaults.push(Default { id: arg.get_id().to_string(), values, line: document.line(at) });
        }
    }
    Ok(defaults)
}

/// Makes the values defaults.
pub(super) fn apply(command: Command, defaults: &[Default]) -> Command {
    defaults.iter().fold(command, |c, d| c.mut_arg(&d.id, |a| a.default_values(d.values.clone())))
}

fn known(command: &Command) -> BTreeMap<String, Arg> {
    let own = command.get_arguments().cloned();
    let named = |a: Arg| Some((a.get_long()?.to_owned(), a));
    let mut known: BTreeMap<_, _> = flags().into_iter().chain(own).filter_map(named).collect();
    known.retain(|name, _| !["config", "help", "version"].contains(&name.as_str()));
    known
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
fn judge_alone(arg: &Arg, values: &[String]) -> Result<(), String> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return Ok(());
    }
    // The variable has its own words too.
    let alone = arg.clone().env(clap::builder::Resettable::Reset);
    let alone = Command::new("config").no_binary_name(true).arg(alone);
    let long = arg.get_long().unwrap_or_default();
    let argv = values.iter().map(|v| format!("--{long}={v}"));
    alone.try_get_matches_from(argv).map(drop).map_err(|e| one_line(&e.to_string()))
}
