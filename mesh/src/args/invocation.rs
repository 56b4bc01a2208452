//! A command line together with its environment and its file: parsed once at the start, and again when the file changes.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, error::ContextKind, parser::ValueSource};

use paceline_proto::manifest::WorkerType;

use super::{Document, LIVE, MeshArgs, TABLES, aliases, file, tables::Tables};
use crate::process::Fault;

/// Judges what of a file the flags do not cover; the first fault refuses the file.
pub type Judge = fn(&Loaded) -> Result<(), Fault>;

/// How a process was called.
#[derive(Clone)]
pub struct Invocation {
    command: Command,
    argv: Vec<OsString>,
    judge: Option<Judge>,
}

/// What a command line, its environment and its file say together.
#[derive(Clone)]
pub struct Loaded {
    /// The whole command, with the file's values as defaults.
    command: Command,
    names: Vec<String>,
    matches: ArgMatches,
    document: Option<Document>,
    defaults: Vec<file::Default>,
    tables: Tables,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// This variable.
    Env(String),
    /// This line of the file.
    File(usize),
    /// Nobody said anything.
    Default,
}

/// A flag's effective value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The flag, without its dashes.
    pub name: String,
    /// As it was written; several values are several.
    pub texts: Vec<String>,
    /// Who wrote it.
    pub origin: Origin,
}

/// Parses a command line, with the environment and, where `--config` names one, the file below it.
///
/// # Errors
/// Those of [`Invocation::load`].
pub fn parse<T: CommandFactory + FromArgMatches>(argv: impl IntoIterator<Item = OsString>) -> Result<T, Fault> {
    Invocation::new::<T>(argv).load()?.whole()
}

impl Invocation {
    /// A command line of `T`.
    pub fn new<T: CommandFactory>(argv: impl IntoIterator<Item = OsString>) -> Self {
        Self { command: aliases::prepare(T::command()), argv: argv.into_iter().collect(), judge: None }
    }

    /// Parses it for the first time.
    ///
    /// # Errors
    /// Those of [`Invocation::load`].
    pub fn start<T: FromArgMatches>(&self) -> Result<(T, Loaded), Fault> {
        let loaded = self.load()?;
        Ok((loaded.whole()?, loaded))
    }

    /// With a judge of the file.
    #[must_use]
    pub fn judged_by(mut self, judge: Judge) -> Self {
        self.judge = Some(judge);
        self
    }

    /// Parses it, reading the file anew.
    ///
    /// # Errors
    /// [`Fault`], ready to be reported: exit code 0 for `--help` and `--version` (printed here), 2 for anything wrong, in
    /// one line.
    pub fn load(&self) -> Result<Loaded, Fault> {
        let mut command = self.command.clone();
        let parse = |command: &Command| {
            command.clone().try_get_matches_from(&self.argv).map_err(|e| fault_of(e, &self.argv, command))
        };
        let mut matches = parse(&command)?;
        let (names, path) = config_path(&matches);
        let document = path.map(|path| Document::read(&path)).transpose()?;
        let (mut defaults, mut tables) = (Vec::new(), Tables::default());
        if let Some(document) = &document {
            defaults = file::judge(document, leaf(&command, &names))?;
            tables = Tables::read(document)?;
            command = apply_at(command, &names, &defaults);
            matches = parse(&command)?;
        }
        let loaded = Loaded { command, names, matches, document, defaults, tables };
        if let (Some(judge), Some(_)) = (self.judge, &loaded.document) {
            judge(&loaded)?;
        }
        Ok(loaded)
    }
}

impl Loaded {
    /// The whole command line.
    ///
    /// # Errors
    /// clap's, in one line.
    pub fn whole<T: FromArgMatches>(&self) -> Result<T, Fault> {
        T::from_arg_matches(&self.matches)
            .map_err(|e| fault_of(e.format(&mut self.command.clone()), &[], &self.command))
    }

    /// A group of the chosen command's flags, like [`MeshArgs`].
    ///
    /// # Errors
    /// The command has no such flags.
    pub fn args<A: Args>(&self) -> Result<A, Fault> {
        let own = leaf(&self.command, &self.names);
        let group = A::augment_args(Command::new(""));
        // clap would panic.
        if let Some(missing) = group.get_arguments().find(|a| own.get_arguments().all(|b| b.get_id() != a.get_id())) {
            return Err(Fault::user(format!("this command has no --{}", missing.get_id().as_str().replace('_', "-"))));
        }
        A::from_arg_matches(self.leaf_matches()).map_err(|e| Fault::user(one_line(&e.to_string())))
    }

    /// The file.
    pub fn document(&self) -> Option<&Document> {
        self.document.as_ref()
    }

    /// The labels of the machine: the file's table, and above it what `--label` says.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels: BTreeMap<_, _> = values(&self.tables.labels);
        labels.extend(self.args::<MeshArgs>().map(|a| a.labels()).unwrap_or_default());
        labels
    }

    /// The capabilities that were declared: the file's table, and above it what `--capability` says.
    pub fn capabilities(&self) -> BTreeMap<String, bool> {
        let mut capabilities: BTreeMap<_, _> = values(&self.tables.capabilities);
        capabilities.extend(self.args::<MeshArgs>().map(|a| a.capabilities()).unwrap_or_default());
        capabilities
    }

    /// What a machine with these capabilities is for.
    pub fn worker_type(&self, capabilities: &BTreeMap<String, bool>) -> WorkerType {
        self.args::<MeshArgs>().map(|a| a.worker_type).unwrap_or_default().of(capabilities)
    }

    /// Every flag of the chosen command that has a value, in the order of `--help`.
    pub fn values(&self) -> Vec<Value> {
        let matches = self.leaf_matches();
        let value = |arg: &clap::Arg| {
            let id = arg.get_id().as_str();
            if matches.value_source(id).is_none() {
                return Some(Value {
                    name: arg.get_long()?.to_owned(),
                    texts: told_default(arg)?,
                    origin: Origin::Default,
                });
            }
            let texts = matches.get_raw(id)?.map(|v| v.to_string_lossy().into_owned()).collect();
            let origin = match matches.value_source(id)? {
                ValueSource::CommandLine => Origin::Flag,
                ValueSource::EnvVariable => {
                    Origin::Env(arg.get_env().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default())
                }
                _ => match self.defaults.iter().find(|d| d.id == id) {
                    Some(default) => Origin::File(default.line),
                    None => Origin::Default,
                },
            };
            Some(Value { name: arg.get_long()?.to_owned(), texts, origin })
        };
        leaf(&self.command, &self.names).get_arguments().filter_map(value).collect()
    }

    /// The effective labels and capabilities, as `labels.KEY` and `capabilities.KEY`.
    pub fn described(&self) -> Vec<Value> {
        let args = self.args::<MeshArgs>().ok();
        let flags = args.map(|a| (a.labels(), a.capabilities())).unwrap_or_default();
        let from = |flag: &str| {
            let value = self.values().into_iter().find(|v| v.name == flag);
            value.map_or(Origin::Default, |v| v.origin)
        };
        let (by_label, by_capability) = (from("label"), from("capability"));
        let one = |table: &str, key: &str, text: String, line: Option<usize>, flag: &Origin| Value {
            name: format!("{table}.{key}"),
            texts: vec![text],
            origin: line.map_or_else(|| flag.clone(), Origin::File),
        };
        let mut all = Vec::new();
        for (key, text) in self.labels() {
            let line = self.tables.labels.get(&key).filter(|_| !flags.0.contains_key(&key)).map(|(_, line)| *line);
            all.push(one("labels", &key, text, line, &by_label));
        }
        for (key, value) in self.capabilities() {
            let line =
                self.tables.capabilities.get(&key).filter(|_| !flags.1.contains_key(&key)).map(|(_, line)| *line);
            all.push(one("capabilities", &key, value.to_string(), line, &by_capability));
        }
        all
    }

    /// The keys and tables whose values differ: those that a running process takes over, and those that need a restart.
    pub fn changes(&self, before: &Loaded) -> (Vec<String>, Vec<String>) {
        let texts = |loaded: &Loaded| -> BTreeMap<String, Vec<String>> {
            loaded.values().into_iter().map(|v| (v.name, v.texts)).collect()
        };
        let (new, old) = (texts(self), texts(before));
        let names = new.keys().chain(old.keys()).collect::<std::collections::BTreeSet<_>>();
        let changed = names.into_iter().filter(|name| new.get(*name) != old.get(*name)).cloned();
        let (mut live, restart): (Vec<_>, Vec<_>) = changed.partition(|name| LIVE.contains(&name.as_str()));
        let tables = TABLES.iter().chain(&["serve"]).filter(|name| self.raw(name) != before.raw(name));
        live.extend(tables.map(|name| (*name).to_owned()));
        (live, restart)
    }

    /// A key's value without its places, to compare.
    fn raw(&self, name: &str) -> Option<String> {
        let table: toml::Table = self.document.as_ref()?.text().parse().ok()?;
        table.get(name).map(|value| format!("{value:?}"))
    }

    fn leaf_matches(&self) -> &ArgMatches {
        let mut matches = &self.matches;
        while let Some((_, below)) = matches.subcommand() {
            matches = below;
        }
        matches
    }
}

/// Without their lines.
fn values<V: Clone>(entries: &super::tables::Entries<V>) -> BTreeMap<String, V> {
    entries.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect()
}

/// A default that only the help knows, because it depends on what else is said: `[default: ...]`.
fn told_default(arg: &clap::Arg) -> Option<Vec<String>> {
    let help = arg.get_help()?.to_string();
    let (_, after) = help.split_once("[default: ")?;
    Some(vec![after.split(']').next()?.to_owned()])
}

/// The subcommand that was chosen, and its `--config`.
fn config_path(matches: &ArgMatches) -> (Vec<String>, Option<PathBuf>) {
    let (mut names, mut matches) = (Vec::new(), matches);
    while let Some((name, below)) = matches.subcommand() {
        names.push(name.to_owned());
        matches = below;
    }
    // `config` is not a flag of every command.
    (names, matches.try_get_one::<PathBuf>("config").ok().flatten().cloned())
}

fn leaf<'a>(command: &'a Command, names: &[String]) -> &'a Command {
    names.iter().fold(command, |c, name| c.find_subcommand(name).unwrap_or(c))
}

fn apply_at(command: Command, names: &[String], defaults: &[file::Default]) -> Command {
    match names.split_first() {
        None => file::apply(command, defaults),
        Some((first, rest)) => command.mut_subcommand(first, |c| apply_at(c, rest, defaults)),
    }
}

/// clap's error in one line, so that the last line of stderr says what and where.
fn fault_of(error: clap::Error, argv: &[OsString], command: &Command) -> Fault {
    if !error.use_stderr() {
        // A closed pipe (`--help | head`) is no failure.
        let _ = error.print();
        return Fault::quiet(0);
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return Fault::user("a command is missing: choose one of the above");
    }
    let words = one_line(&error.to_string());
    match variable(&error, argv, command) {
        Some(variable) => Fault::user(format!("{words} (from the variable {variable})")),
        None => Fault::user(words),
    }
}

/// The variable that a bad value comes from: its flag is not on the command line.
fn variable(error: &clap::Error, argv: &[OsString], command: &Command) -> Option<String> {
    let shown = error.get(ContextKind::InvalidArg)?.to_string();
    error.get(ContextKind::InvalidValue)?;
    let long = shown.trim_start_matches("--").split([' ', '=']).next()?;
    let flag = format!("--{long}");
    let typed = |word: &OsString| word.to_str().is_some_and(|w| w == flag || w.starts_with(&format!("{flag}=")));
    if argv.is_empty() || argv.iter().any(typed) {
        return None;
    }
    let mut commands: Vec<&Command> = vec![command];
    commands.extend(command.get_subcommands());
    let arg = commands.into_iter().flat_map(Command::get_arguments).find(|a| a.get_long() == Some(long))?;
    let variable = arg.get_env()?;
    std::env::var_os(variable).map(|_| variable.to_string_lossy().into_owned())
}

/// What stands before clap's usage block, joined; `; ` between what were paragraphs.
pub(super) fn one_line(rendered: &str) -> String {
    let said = rendered.lines().take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more information"));
    let words: Vec<_> = said.map(str::trim).filter(|l| !l.is_empty()).collect();
    let line = words.join("; ").replace(":; ", ": ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}
