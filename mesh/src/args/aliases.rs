//! Variables that users of other systems already have in their environment: some mean the same here, of the others a
//! line says what replaces them.

use std::ffi::OsStr;

use clap::Command;

/// (ours, theirs). Ours comes first where both are set.
const ALIASES: [(&str, &str); 7] = [
    ("PACELINE_NAME", "WORKER_ID"),
    ("PACELINE_SITE", "WORKER_SITE"),
    ("PACELINE_CAPABILITY", "WORKER_CAPABILITIES"),
    ("PACELINE_HEARTBEAT", "WORKER_HEARTBEAT_INTERVAL_SECONDS"),
    ("PACELINE_MAX_CONCURRENCY", "MAX_CONCURRENCY"),
    ("PACELINE_LOG_LEVEL", "LOG_LEVEL"),
    ("PACELINE_TYPE", WORKER_TYPE),
];

/// Both a tier, which is ours, and a service's name, which is not.
const WORKER_TYPE: &str = "WORKER_TYPE";

/// Variables without a meaning here, and what to do instead.
const REPLACED: [(&str, &str); 10] = [
    ("COORDINATOR_URL", "there is no coordinator: a machine joins with --join TOKEN (PACELINE_JOIN)"),
    ("COORDINATOR_HOST", "there is no coordinator: a machine joins with --join TOKEN (PACELINE_JOIN)"),
    (
        "WORKER_CONTROL_PLANE_URL",
        "there is no control plane to call: a machine joins with --join TOKEN (PACELINE_JOIN)",
    ),
    ("CONTROL_PLANE_URL", "there is no control plane to call: a machine joins with --join TOKEN (PACELINE_JOIN)"),
    (
        "USE_TUNNEL",
        "workers need no tunnel: they reach the gateway themselves, and only the gateway's HTTP port needs one",
    ),
    (
        "TUNNEL_URL",
        "workers need no tunnel: they reach the gateway themselves, and only the gateway's HTTP port needs one",
    ),
    ("WORKER_PORT", "a worker listens for no callers: say where its service is with --service NAME=URL"),
    ("WORKER_POLL_INTERVAL_SECONDS", "nothing polls: requests come over the connection that the worker holds"),
    ("WORKER_OFFLINE_DIR", "no job is buffered yet; what is kept on disk is under --data-dir"),
    (
        "WORKER_MAX_CONCURRENT_JOBS",
        "jobs are requests: bound them with --max-concurrency, or max_concurrency of a service",
    ),
];

fn value(name: &str) -> Option<String> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(|v| v.to_string_lossy().into_owned())
}

/// Whether a variable of another system can be read as ours.
fn is_taken(theirs: &str) -> bool {
    let tiers = ["auto", "gpu", "cpu", "edge"];
    value(theirs).is_some_and(|v| theirs != WORKER_TYPE || tiers.contains(&v.as_str()))
}

/// Hides variables from `--help` (a line tells their rule), forgets empty ones, and takes aliases where ours is unset.
pub(super) fn prepare(command: Command) -> Command {
    let set = |name: &OsStr| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    command
        .mut_args(|arg| {
            let Some(name) = arg.get_env().map(OsStr::to_owned) else { return arg };
            let alias = ALIASES.iter().find(|(ours, theirs)| name == *ours && is_taken(theirs));
            let arg = arg.hide_env(true);
            match alias {
                _ if set(&name) => arg,
                // Their lists are parted by commas, which the flag's own parser knows; a `;` is none of theirs.
                Some((_, theirs)) => arg.env(theirs),
                None => arg.env(clap::builder::Resettable::Reset),
            }
        })
        .mut_subcommands(prepare)
}

/// A line for each variable of another system that is set and means nothing here.
pub(crate) fn replaced() -> Vec<String> {
    let mut lines: Vec<String> = REPLACED
        .iter()
        .filter(|(name, _)| value(name).is_some())
        .map(|(name, instead)| format!("{name} is not used: {instead}"))
        .collect();
    if let Some(service) = value(WORKER_TYPE).filter(|_| !is_taken(WORKER_TYPE)) {
        lines.push(format!(
            "{WORKER_TYPE}={service} is not used: a worker has no type of service, it offers any number of them with \
             --service NAME=URL; --type is gpu, cpu, edge or auto"
        ));
    }
    lines
}
