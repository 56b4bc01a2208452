//! How a service of the configuration is on this machine, for people and for the local API.

use std::time::Instant;

use paceline_proto::id::ServiceName;
use serde_json::{Value, json};

use super::{core::State, spec::CommandSpec};

/// Longest reason that is shown.
const REASON_CHARS_MAX: usize = 300;

/// How it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Its name.
    pub name: ServiceName,
    /// Whether it runs.
    pub state: State,
    /// Whether it waits for a request to start.
    pub on_demand: bool,
    /// Why it is not run on this machine at all.
    pub unmet: Option<String>,
    /// The process of its command.
    pub pid: Option<u32>,
    /// Where it answers; 0 where it is not run here.
    pub port: u16,
    /// How often it was started.
    pub starts: u64,
    /// Exits in a row that nobody asked for.
    pub failures: u32,
    /// Why it is not well.
    pub reason: Option<String>,
    /// How its last process ended.
    pub last_exit: Option<String>,
    /// When it is started again.
    pub next_start: Option<Instant>,
}

impl Status {
    /// Of a service that has not begun.
    pub(super) fn new(spec: &CommandSpec) -> Self {
        Self {
            name: spec.name.clone(),
            state: State::Stopped,
            on_demand: spec.on_demand,
            unmet: None,
            pid: None,
            port: 0,
            starts: 0,
            failures: 0,
            reason: None,
            last_exit: None,
            next_start: None,
        }
    }

    /// The state, as a word for people.
    pub fn word(&self) -> &'static str {
        match self.state {
            _ if self.unmet.is_some() => "not for this machine",
            State::Stopped if self.on_demand => "asleep",
            state => state.as_str(),
        }
    }

    /// As `GET /services` of the local API answers.
    pub fn json(&self, now: Instant) -> Value {
        json!({
            "name": self.name,
            "state": self.word(),
            "on_demand": self.on_demand,
            "pid": self.pid,
            "port": (self.port > 0).then_some(self.port),
            "starts": self.starts,
            "failures": self.failures,
            "reason": self.unmet.as_ref().or(self.reason.as_ref()),
            "last_exit": self.last_exit,
            "next_start_s": self.next_start.map(|at| at.saturating_duration_since(now).as_secs_f64()),
        })
    }
}

/// One line of a bounded length.
pub(super) fn excerpt(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS_MAX).collect()
}
