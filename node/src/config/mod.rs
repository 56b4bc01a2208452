//! The configuration file of a node: `[[service]]`, `[limits]` and `[detect]` beside the flags, read from the text that
//! the flags came from.
//!
//! Everything is judged before anything is taken: a file with one fault changes nothing. Unknown keys are found by the
//! same schema that `paceline config schema` prints, so that neither can know a key that the other does not.

mod follow;
pub mod schema;
mod table;

use std::collections::BTreeMap;

use paceline_mesh::{
    args::{Document, Loaded, WorkerArgs, nearest},
    http::Protocol,
    process::Fault,
};
use paceline_proto::{
    id::ServiceName,
    manifest::{SERVICES_MAX, ServiceKind},
};
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use crate::{
    services::{self, HealthCheck, Origin, ServiceSpec, Source},
    supervise::CommandSpec,
};
pub use follow::{check_granted, follow, known};
pub use schema::{DetectTable, EXAMPLE, FingerprintWord};
use schema::{LimitsTable, ServiceTable};

/// What the file says beside the flags.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// What it offers, in its order, with the line of each.
    pub services: Vec<(ServiceSpec, usize)>,
    /// What it runs where it fits, with the line of each.
    pub commands: Vec<(CommandSpec, usize)>,
    /// `[limits]`.
    pub limits: LimitsTable,
    /// `[detect]`: what is looked for beside the built-in table, or not.
    pub detect: BTreeMap<ServiceName, Detect>,
}

/// What the file says of one name in the table of known services.
#[derive(Clone, Debug, PartialEq)]
pub enum Detect {
    /// It is not looked for.
    Off,
    /// Where, and how it is known.
    Known(DetectTable),
}

/// Judges the file of a command line, for [`paceline_mesh::args::Invocation::judged_by`].
///
/// # Errors
/// The first fault, with file and line.
pub fn judge(loaded: &Loaded) -> Result<(), Fault> {
    of(loaded).map(drop)
}

/// What the file of a command line says; nothing without one.
///
/// # Errors
/// The first fault, with file and line.
pub fn of(loaded: &Loaded) -> Result<File, Fault> {
    loaded.document().map_or_else(|| Ok(File::default()), read)
}

/// Reads and judges a file.
///
/// # Errors
/// The first fault, with file and line.
pub fn read(document: &Document) -> Result<File, Fault> {
    let root = document.table()?;
    let root = root.get_ref();
    let mut file = File::default();
    if let Some((key, value)) = root.get_key_value("service") {
        read_services(document, key, value, &mut file)?;
    }
    if let Some((_, value)) = root.get_key_value("serve") {
        for (text, at) in texts(document, "serve", value)? {
            let spec = services::serve(text).map_err(|e| document.fault(at, format!("serve: {e}")))?;
            add(document, &mut file, spec, at)?;
        }
    }
    if let Some((key, value)) = root.get_key_value("limits") {
        let at = key.span().start;
        file.limits = table::read(document, "[limits]", value, at, &schema::of::<LimitsTable>())?;
    }
    if let Some((key, value)) = root.get_key_value("detect") {
        file.detect = read_detect(document, key, value)?;
    }
    Ok(file)
}

/// What a process is to look for and what it may take on, with the flags above the file.
pub fn max_concurrency(args: &WorkerArgs, file: &File) -> Option<u32> {
    args.max_concurrency.or(file.limits.max_concurrency.map(std::num::NonZeroU32::get))
}

type Key<'i> = Spanned<DeString<'i>>;
type Value<'i> = Spanned<DeValue<'i>>;

fn read_services(document: &Document, key: &Key<'_>, value: &Value<'_>, file: &mut File) -> Result<(), Fault> {
    let schema = schema::of::<ServiceTable>();
    let items = match value.get_ref() {
        DeValue::Array(items) => items.iter().collect(),
        DeValue::Table(_) => {
            return Err(document.fault(key.span().start, "write [[service]], with two brackets on each side"));
        }
        _ => vec![value],
    };
    for item in items {
        let at = item.span().start;
        let spec = match item.get_ref() {
            DeValue::String(text) => {
                services::service(text).map_err(|e| document.fault(at, format!("service: {e}")))?
            }
            DeValue::Table(entry) if entry.contains_key("command") => {
                let spec = read_command(document, entry, item, at)?;
                check_new(document, file, &spec.name, at)?;
                file.commands.push((spec, document.line(at)));
                continue;
            }
            DeValue::Table(entry) => {
                check_keys(document, entry, &schema)?;
                let parsed: ServiceTable = table::read(document, "[[service]]", item, at, &schema)?;
                spec_of(&parsed).map_err(|(key, reason)| {
                    let at = place(entry, key).unwrap_or(at);
                    document.fault(at, format!("[[service]] {}: {reason}", parsed.name))
                })?
            }
            _ => return Err(document.fault(at, "service: expected a table, [[service]], or a text like NAME=URL")),
        };
        add(document, file, spec, at)?;
    }
    Ok(())
}

/// Keys that only a service with a command has, in one that has none, or not quite.
fn check_keys(document: &Document, entry: &DeTable<'_>, schema: &schemars::Schema) -> Result<(), Fault> {
    let (named, started) = (table::keys(schema), table::keys(&schema::of::<CommandSpec>()));
    for key in entry.keys().filter(|key| !named.contains(key.get_ref().as_ref())) {
        let (at, key) = (key.span().start, key.get_ref());
        if started.contains(key.as_ref()) {
            let words = format!("[[service]]: `{key}` is for a service that the node starts: give its command too");
            return Err(document.fault(at, words));
        }
        let all = named.union(&started).map(String::as_str);
        if let Some(meant) = nearest(key, all).filter(|meant| !named.contains(*meant)) {
            return Err(document.fault(at, format!("[[service]]: unknown key `{key}`; did you mean `{meant}`?")));
        }
    }
    Ok(())
}

/// A service that the node starts itself.
fn read_command(document: &Document, entry: &DeTable<'_>, item: &Value<'_>, at: usize) -> Result<CommandSpec, Fault> {
    if let Some(at) = place(entry, "dir") {
        return Err(document.fault(at, "[[service]]: give command or dir, not both"));
    }
    let spec: CommandSpec = table::read(document, "[[service]]", item, at, &schema::of::<CommandSpec>())?;
    let said = |reason| format!("[[service]] {}: {reason}", spec.name);
    spec.check().map_err(|reason| {
        // Its words begin with the key.
        let key = reason.split([' ', ':', '=']).next().unwrap_or_default();
        document.fault(place(entry, key).unwrap_or(at), said(reason))
    })?;
    Ok(spec)
}

fn check_new(document: &Document, file: &File, name: &ServiceName, at: usize) -> Result<(), Fault> {
    let services = file.services.iter().map(|(spec, line)| (&spec.name, line));
    let mut all = services.chain(file.commands.iter().map(|(spec, line)| (&spec.name, line)));
    if let Some((_, line)) = all.find(|(other, _)| *other == name) {
        return Err(document.fault(at, format!("the service `{name}` stands in line {line} already")));
    }
    if file.services.len() + file.commands.len() >= SERVICES_MAX {
        return Err(document.fault(at, format!("a node offers at most {SERVICES_MAX} services")));
    }
    Ok(())
}

fn add(document: &Document, file: &mut File, spec: ServiceSpec, at: usize) -> Result<(), Fault> {
    check_new(document, file, &spec.name, at)?;
    file.services.push((ServiceSpec { origin: Origin::Config, ..spec }, document.line(at)));
    Ok(())
}

/// The service that a table describes; else which key is wrong, and why.
fn spec_of(table: &ServiceTable) -> Result<ServiceSpec, (&'static str, String)> {
    let source = match (&table.url, &table.dir) {
        (Some(_), Some(_)) => return Err(("dir", "give url or dir, not both".to_owned())),
        (None, None) => return Err(("name", "give url = \"http://...\" or dir = \"...\"".to_owned())),
        (Some(url), None) => Source::Http {
            url: services::url(url).map_err(|e| ("url", format!("url: {e}")))?,
            health: services::health_of(table.protocol, table.health.as_deref()).map_err(|e| ("health", e))?,
        },
        (None, Some(dir)) => {
            if table.health.is_some() || table.kind != ServiceKind::Http || table.protocol != Protocol::Http1 {
                return Err(("dir", "a directory has no health, no kind and no protocol".to_owned()));
            }
            Source::Directory(services::directory(dir).map_err(|e| ("dir", e))?)
        }
    };
    services::check_protocol(table.protocol, table.kind).map_err(|e| ("protocol", format!("protocol: {e}")))?;
    table.terms().check()?;
    let free = table.labels.iter().map(|(k, v)| (k.clone(), v.to_string())).collect();
    let spec = ServiceSpec {
        kind: table.kind,
        protocol: table.protocol,
        max_concurrency: table.max_concurrency.map(std::num::NonZeroU32::get),
        allow: table.allow.clone(),
        labels: table.terms().over(&free),
        ..ServiceSpec::new(table.name.clone(), source, Origin::Config)
    };
    spec.unseen().validate().map_err(|e| ("labels", e.to_string()))?;
    Ok(spec)
}

fn read_detect(document: &Document, key: &Key<'_>, value: &Value<'_>) -> Result<BTreeMap<ServiceName, Detect>, Fault> {
    let DeValue::Table(table) = value.get_ref() else {
        return Err(document.fault(key.span().start, "detect: write a table, [detect]"));
    };
    let schema = schema::of::<DetectTable>();
    let mut detect = BTreeMap::new();
    for (key, value) in table {
        let at = key.span().start;
        let fault =
            |reason: &dyn std::fmt::Display| document.fault(at, format!("[detect] {}: {reason}", key.get_ref()));
        let name = ServiceName::new(key.get_ref()).map_err(|e| fault(&e))?;
        let entry = match value.get_ref() {
            DeValue::Boolean(false) => Detect::Off,
            DeValue::Table(_) => {
                let known: DetectTable = table::read(document, &format!("[detect.{name}]"), value, at, &schema)?;
                if let Some(health) = &known.health {
                    match services::health_check(Some(health)) {
                        Ok(HealthCheck::Path(_)) => {}
                        Ok(HealthCheck::Connect) => return Err(fault(&"health: what is looked for needs a path")),
                        Err(e) => return Err(fault(&e)),
                    }
                }
                Detect::Known(known)
            }
            _ => return Err(fault(&"expected false, or a table with a port")),
        };
        detect.insert(name, entry);
    }
    Ok(detect)
}

/// One text, or a list of them, with the place of each.
fn texts<'a>(document: &Document, name: &str, value: &'a Value<'_>) -> Result<Vec<(&'a str, usize)>, Fault> {
    let items = match value.get_ref() {
        DeValue::Array(items) => items.iter().collect(),
        _ => vec![value],
    };
    let text = |item: &'a Value<'_>| match item.get_ref() {
        DeValue::String(text) => Ok((text.as_ref(), item.span().start)),
        _ => Err(document.fault(item.span().start, format!("{name}: expected a text"))),
    };
    items.into_iter().map(text).collect()
}

/// The line of `[table] key`.
pub fn line_of(document: &Document, table: &str, key: &str) -> Option<usize> {
    let root = document.table().ok()?;
    let DeValue::Table(entries) = root.get_ref().get(table)?.get_ref() else { return None };
    place(entries, key).map(|at| document.line(at))
}

fn place(table: &DeTable<'_>, key: &str) -> Option<usize> {
    table.get_key_value(key).map(|(key, _)| key.span().start)
}

#[cfg(test)]
mod tests;
