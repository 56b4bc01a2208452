//! What node and keeper say to each other, over the socket that is the keeper's standard input: one [`Order`] as a line
//! of JSON, then single bytes ([`TERMINATE`], [`KILL`]); back come [`Report`]s, a line of JSON each. The end of the
//! stream is the end of the other side.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Told by the node: SIGTERM to the service's processes.
pub(crate) const TERMINATE: u8 = b't';
/// Told by the node: SIGKILL to the service's processes.
pub(crate) const KILL: u8 = b'k';
/// Longest order: command and environment of [`super::units::COMMAND_BYTES_MAX`] each, escaped.
pub(crate) const ORDER_BYTES_MAX: usize = 1 << 20;
/// Longest report.
pub(crate) const REPORT_BYTES_MAX: usize = 8 * 1024;

/// What a keeper is to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) workdir: Option<PathBuf>,
    pub(crate) user: Option<String>,
    /// Watched by the keeper where no cgroup holds it.
    pub(crate) memory_max: Option<u64>,
    /// Cores; held by affinity where no cgroup holds it.
    pub(crate) cpus: Option<u32>,
    /// The service's cgroup, made and limited by the node; removed by the keeper.
    pub(crate) cgroup: Option<PathBuf>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// What a keeper tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The command runs, as the leader of this process group.
    Started(u32),
    /// It could not be run.
    Failed(String),
    /// It took more than its memory, so many bytes, and is killed.
    OverMemory(u64),
    /// It has ended, and with it all that it started.
    Ended(End),
}
