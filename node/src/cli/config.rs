//! `paceline config check | show | example | schema`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand};
use paceline_mesh::{
    args::{self, Document, Invocation, Loaded, Origin, Value},
    process::Fault,
};
use serde_json::json;

use super::{
    Cli, print,
    table::{clean, table},
};
use crate::{
    config::{self, Detect},
    services::{ServiceSpec, Source},
    supervise::CommandSpec,
};

/// The commands that read a configuration file.
const PROCESSES: [&str; 4] = ["up", "node", "gateway", "bootstrap"];

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// Judge a file: exit code 0, or 2 with file, line and reason
    Check(CheckArgs),
    /// Show what a command would run with, and where each value comes from
    Show(ShowArgs),
    /// Print a commented file with all there is
    Example,
    /// Print the file's JSON Schema, for editors
    Schema,
}

#[derive(Args)]
pub(super) struct CheckArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Args)]
pub(super) struct ShowArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// The command with its flags, like: node --config paceline.toml [default: up]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    argv: Vec<OsString>,
}

pub(super) fn run(command: &ConfigCommand) -> Result<(), Fault> {
    match command {
        ConfigCommand::Check(args) => check(args),
        ConfigCommand::Show(args) => show(args),
        ConfigCommand::Example => print(config::EXAMPLE),
        ConfigCommand::Schema => print(&format!("{:#}\n", config::schema::whole())),
    }
}

fn check(args: &CheckArgs) -> Result<(), Fault> {
    let document = Document::read(&args.file)?;
    args::check_file(&document)?;
    let file = config::read(&document)?;
    let (named, commands) = (file.services.len(), file.commands.len());
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let started = match commands {
        0 => String::new(),
        1 => ", of which 1 is started where it fits".to_owned(),
        _ => format!(", of which {commands} are started where they fit"),
    };
    let services = plural(named + commands, "service");
    print(&format!("{}: fine, with {services}{started}\n", clean(&args.file.display().to_string())))
}

fn show(args: &ShowArgs) -> Result<(), Fault> {
    let first = args.argv.first().and_then(|word| word.to_str()).unwrap_or_default();
    let command = if PROCESSES.contains(&first) { None } else { Some(OsString::from("up")) };
    let argv = std::iter::once(OsString::from("paceline")).chain(command).chain(args.argv.iter().cloned());
    let loaded = Invocation::new::<Cli>(argv).judged_by(config::judge).load()?;
    let rows = rows(&loaded)?;
    if args.json {
        let all: Vec<_> =
            rows.iter().map(|[key, value, from]| json!({ "key": key, "value": value, "from": from })).collect();
        return print(&format!("{:#}\n", json!(all)));
    }
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    print(&table(&["KEY", "VALUE", "FROM"], &rows))
}

/// Key, value and origin, flags first.
fn rows(loaded: &Loaded) -> Result<Vec<[String; 3]>, Fault> {
    let file = loaded.document().map(|d| d.path().display().to_string()).unwrap_or_default();
    let from = |origin: &Origin| match origin {
        Origin::Flag => "flag".to_owned(),
        Origin::Env(name) => format!("variable {name}"),
        Origin::File(line) => format!("{file}:{line}"),
        Origin::Default => "default".to_owned(),
    };
    let values = loaded.values().into_iter().chain(loaded.described());
    // They are shown key by key, with what the tables say.
    let values = values.filter(|v| !["label", "capability"].contains(&v.name.as_str()));
    let mut rows: Vec<_> = values.map(|v| [v.name.clone(), text(&v), from(&v.origin)]).collect();
    let told = config::of(loaded)?;
    let line = |table, key: &str| {
        let line = loaded.document().and_then(|document| config::line_of(document, table, key));
        from(&line.map_or(Origin::Default, Origin::File))
    };
    let is_flag = rows.iter().any(|[key, ..]| key == "max-concurrency");
    if let Some(most) = told.limits.max_concurrency.filter(|_| !is_flag) {
        rows.push(["limits.max_concurrency".to_owned(), most.to_string(), line("limits", "max_concurrency")]);
    }
    for (name, detect) in &told.detect {
        let words = match detect {
            Detect::Off => "false".to_owned(),
            Detect::Known(known) => format!("port {}", known.port),
        };
        rows.push([format!("detect.{name}"), words, line("detect", name.as_str())]);
    }
    let named = told.services.iter().map(|(spec, line)| (&spec.name, source(spec), *line));
    let commands = told.commands.iter().map(|(spec, line)| (&spec.name, command(spec), *line));
    let mut services: Vec<_> = named.chain(commands).collect();
    services.sort_by_key(|(.., line)| *line);
    for (name, words, line) in services {
        rows.push([format!("service.{name}"), words, from(&Origin::File(line))]);
    }
    Ok(rows)
}

/// A value for people; a token that stands in it is nobody's to read.
fn text(value: &Value) -> String {
    let secret = |text: &String| value.name == "join" && text != "-" && !text.starts_with('@');
    let shown = value.texts.iter().map(|text| if secret(text) { "(hidden)" } else { text });
    shown.collect::<Vec<_>>().join("; ")
}

fn source(spec: &ServiceSpec) -> String {
    match &spec.source {
        Source::Http { url, .. } => url.to_string(),
        Source::Directory(path) => path.display().to_string(),
    }
}

/// A service that is started; whether it fits a machine is that machine's to say.
fn command(spec: &CommandSpec) -> String {
    let on_demand = if spec.on_demand { " (on demand)" } else { "" };
    format!("starts {}{on_demand}", spec.command)
}
