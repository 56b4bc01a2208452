//! GPU, services on this machine, file limits.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};
use serde_json::Value;

use super::{Check, Process};
use crate::{detect, hardware};

/// Descriptors that a gateway with a few thousand clients needs.
const FILES_MIN: u64 = 4096;

/// Processor, memory and GPU.
pub(super) async fn hardware(directory: Option<PathBuf>) -> Vec<Check> {
    let directory = directory.unwrap_or_else(|| Path::new("/").to_owned());
    let Ok(monitor) = tokio::task::spawn_blocking(move || hardware::detect(&directory)).await else {
        return Vec::new();
    };
    let seen = monitor.hardware();
    let has: Vec<&str> = monitor.capabilities().iter().filter(|(_, v)| **v).map(|(k, _)| k.as_str()).collect();
    let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
    let machine = Check::fine("machine", format!("{}; capabilities: {has}", seen.summary()));
    let gpu = match &seen.no_gpu {
        None => Check::fine("gpu", format!("{} seen", seen.gpus.len())),
        Some(why) if hardware::nvidia_is_there() => {
            Check::attention("gpu", why.clone(), "without it this is a CPU machine")
        }
        Some(why) => Check::fine("gpu", format!("none: {why}")),
    };
    vec![machine, gpu]
}

/// A service that a node starts and that ends again and again, or does not come up after an end.
fn started(service: &Value) -> Option<Check> {
    let (name, state) = (service["name"].as_str()?, service["state"].as_str()?);
    if !["crash loop", "backing off"].contains(&state) {
        return None;
    }
    let why = service["reason"].as_str().or(service["last_exit"].as_str()).unwrap_or("for an unknown reason");
    let todo = format!(
        "see `paceline logs {name}`; it is tried on by itself, and at once after a change of its configuration"
    );
    Some(Check::attention("services", format!("`{name}` is started here, and is in state `{state}`: {why}"), todo))
}

/// Services that answer, those that are not taken, and those that are offered and not well.
pub(super) async fn services(processes: &[Process]) -> Vec<Check> {
    let mut checks = Vec::new();
    let offered: Vec<(&str, &str)> = processes
        .iter()
        .filter_map(|p| p.health.as_ref().ok()?["services"].as_object())
        .flatten()
        .map(|(name, health)| (name.as_str(), health.as_str().unwrap_or("unknown")))
        .collect();
    for (name, health) in offered.iter().filter(|(_, health)| *health != "healthy") {
        let todo = "see the log of the process for the reason, and the service's own log";
        checks.push(Check::attention("services", format!("`{name}` is offered, and is {health}"), todo));
    }
    checks.extend(processes.iter().flat_map(|process| &process.started).filter_map(started));
    let is_offered = |name: &str| offered.iter().any(|(offered, _)| *offered == name);
    let mut found = Vec::new();
    for answering in detect::scan().await {
        let (name, url) = (answering.name.as_str(), &answering.url);
        match &answering.refused {
            None if is_offered(name) || processes.is_empty() => found.push(format!("{name} at {url}")),
            None => checks.push(Check::note(
                "services",
                format!("{name} answers at {url}, and no process here offers it"),
                format!("start without --no-detect, or say --service {name}={url}"),
            )),
            // A gateway's port may well be one of the table.
            Some(why) if why.contains("Paceline") => {}
            Some(why) => checks.push(Check::note(
                "services",
                format!("something answers on {}, not taken for {name}: {why}", answering.port),
                format!("if it is to be offered, name it: --service NAME={url}"),
            )),
        }
    }
    if !found.is_empty() {
        checks.push(Check::fine("services", format!("found: {}", found.join(", "))));
    }
    if checks.is_empty() {
        checks.push(Check::fine("services", "no known service answers here; name others with --service or --serve"));
    }
    checks
}

/// How many files and connections a process may have open.
pub(super) fn files() -> Check {
    // A process of ours raises the soft limit to the hard one by itself.
    match getrlimit(Resource::Nofile).maximum {
        Some(hard) if hard < FILES_MIN => Check::attention(
            "files",
            format!("a process may have {hard} files open, and each connection is one"),
            "raise it: LimitNOFILE=65536 in the systemd unit, --ulimit nofile=65536 for a container, or limits.conf",
        ),
        Some(hard) => Check::fine("files", format!("a process may have {hard} files and connections open")),
        None => Check::fine("files", "a process may have any number of files and connections open"),
    }
}
