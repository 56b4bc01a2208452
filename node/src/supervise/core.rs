//! When a supervised service is started, stopped and started again: decisions alone, over inputs and a given time.
//!
//! The driving loop, as for every core of this project: hand in what happened with [`Core::handle_input`], or that a
//! deadline has passed with [`Core::handle_timeout`]; then take every [`Core::poll_output`], and come back at
//! [`Core::poll_timeout`] at the latest.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::spec::CommandSpec;

/// How long a service must have been well for its earlier exits to be forgiven.
const SETTLED: Duration = Duration::from_secs(10);
/// Doublings of the pause, so that its length is computed without overflow.
const DOUBLINGS_MAX: u32 = 24;

/// What the decisions rest on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) on_demand: bool,
    pub(crate) idle_timeout: Duration,
    pub(crate) start_timeout: Duration,
    pub(crate) stop_timeout: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) crash_loop: u32,
}

impl From<&CommandSpec> for Policy {
    fn from(spec: &CommandSpec) -> Self {
        Self {
            on_demand: spec.on_demand,
            idle_timeout: spec.idle_timeout.0,
            start_timeout: spec.start_timeout.0,
            stop_timeout: spec.stop_timeout.0,
            backoff_min: spec.restart.min.0,
            backoff_max: spec.restart.max.0,
            crash_loop: spec.restart.crash_loop,
        }
    }
}

/// How a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It has no process: asleep until a request comes, or stopped for good.
    Stopped,
    /// Its process runs, and has not been well yet.
    Starting,
    /// It is well.
    Running,
    /// It was well, and does not answer as it should.
    Unhealthy,
    /// It has ended, and is started again after a pause.
    BackingOff,
    /// It has ended too often in a row; it is tried on, at the longest pause.
    CrashLooping,
    /// It was told to end.
    Stopping,
}

impl State {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Stopped => "stopped",
            State::Starting => "starting",
            State::Running => "running",
            State::Unhealthy => "unhealthy",
            State::BackingOff => "backing off",
            State::CrashLooping => "crash loop",
            State::Stopping => "stopping",
        }
    }

    const fn has_process(self) -> bool {
        matches!(self, State::Starting | State::Running | State::Unhealthy | State::Stopping)
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// The service is wanted from now on: one that is not on demand starts.
    Start,
    /// Its process is gone, or could not be made.
    Exited,
    /// A look found it well.
    Healthy,
    /// A look found it not well.
    Unhealthy,
    /// A request came.
    Demand,
    /// A request has ended.
    Released,
    /// It is not wanted any more.
    Stop,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Make its process; answered by [`Input::Exited`] where that fails.
    Spawn,
    /// Tell its processes to end.
    Terminate,
    /// End them.
    Kill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Restart,
    Start,
    Settled,
    Idle,
    Kill,
}

impl Timer {
    const fn why(self) -> &'static str {
        match self {
            Timer::Restart => "the pause before a restart is over",
            Timer::Start => "a start takes too long",
            Timer::Settled => "well for long enough",
            Timer::Idle => "nobody calls it",
            Timer::Kill => "it does not end",
        }
    }
}

/// The decisions of one service.
#[derive(Debug)]
pub(crate) struct Core {
    policy: Policy,
    state: State,
    wanted: bool,
    /// Requests that wait for it or are served by it.
    in_use: u32,
    /// Exits in a row that nobody asked for.
    failures: u32,
    /// Starts in all.
    starts: u64,
    /// No start before this.
    not_before: Option<Instant>,
    /// The start took too long: the exit that follows counts as a failure.
    overdue: bool,
    timers: BTreeMap<Timer, Instant>,
    outputs: VecDeque<Output>,
}

impl Core {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            state: State::Stopped,
            wanted: false,
            in_use: 0,
            failures: 0,
            starts: 0,
            not_before: None,
            overdue: false,
            timers: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    pub(crate) fn handle_input(&mut self, input: Input, now: Instant) {
        match input {
            Input::Start => {
                self.wanted = true;
                self.proceed(now);
            }
            Input::Demand => {
                self.in_use = self.in_use.saturating_add(1);
                self.timers.remove(&Timer::Idle);
                self.proceed(now);
            }
            Input::Released => {
                self.in_use = self.in_use.saturating_sub(1);
                self.watch_idle(now);
            }
            Input::Healthy if matches!(self.state, State::Starting | State::Unhealthy) => {
                self.state = State::Running;
                self.timers.remove(&Timer::Start);
                self.timers.insert(Timer::Settled, now + SETTLED);
                self.watch_idle(now);
            }
            Input::Unhealthy if self.state == State::Running => {
                self.state = State::Unhealthy;
                self.timers.remove(&Timer::Settled);
            }
            Input::Healthy | Input::Unhealthy => {}
            Input::Exited => self.exited(now),
            Input::Stop => {
                self.wanted = false;
                self.stop(now);
            }
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((&timer, _)) = self.timers.iter().find(|(_, at)| **at <= now) {
            self.timers.remove(&timer);
            match timer {
                Timer::Restart => {
                    self.state = State::Stopped;
                    self.not_before = None;
                    self.proceed(now);
                }
                Timer::Settled => self.failures = 0,
                Timer::Idle => self.stop(now),
                Timer::Start => {
                    self.overdue = true;
                    self.stop(now);
                }
                Timer::Kill => self.outputs.push_back(Output::Kill),
            }
        }
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let (timer, at) = self.timers.iter().min_by_key(|(_, at)| **at)?;
        Some((*at, timer.why()))
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Exits in a row that nobody asked for.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Starts in all.
    pub(crate) fn starts(&self) -> u64 {
        self.starts
    }

    /// When it is started again.
    pub(crate) fn next_start(&self) -> Option<Instant> {
        self.timers.get(&Timer::Restart).copied()
    }

    /// Whether it sleeps, or comes up for those who wait: a request may be sent its way.
    pub(crate) fn is_dormant(&self) -> bool {
        let on_its_way = matches!(self.state, State::Stopped | State::Starting | State::BackingOff | State::Stopping);
        self.policy.on_demand && self.wanted && on_its_way
    }

    /// Starts where it is wanted and may be.
    fn proceed(&mut self, now: Instant) {
        if self.state != State::Stopped || !self.wanted || (self.policy.on_demand && self.in_use == 0) {
            return;
        }
        if let Some(at) = self.not_before.filter(|at| *at > now) {
            self.pause_until(at);
            return;
        }
        self.not_before = None;
        self.overdue = false;
        self.state = State::Starting;
        self.starts += 1;
        self.timers.insert(Timer::Start, now + self.policy.start_timeout);
        self.outputs.push_back(Output::Spawn);
    }

    fn stop(&mut self, now: Instant) {
        match self.state {
            State::Stopped | State::Stopping => {}
            State::BackingOff | State::CrashLooping => {
                self.timers.clear();
                self.state = State::Stopped;
            }
            State::Starting | State::Running | State::Unhealthy => {
                self.timers.clear();
                self.state = State::Stopping;
                self.timers.insert(Timer::Kill, now + self.policy.stop_timeout);
                self.outputs.push_back(Output::Terminate);
            }
        }
    }

    fn exited(&mut self, now: Instant) {
        if !self.state.has_process() {
            return;
        }
        let asked = self.state == State::Stopping && !self.overdue;
        self.timers.clear();
        self.state = State::Stopped;
        if asked {
            // A request may have come meanwhile.
            self.proceed(now);
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let doublings = (self.failures - 1).min(DOUBLINGS_MAX);
        let pause = self.policy.backoff_min.saturating_mul(1 << doublings).min(self.policy.backoff_max);
        let looping = self.failures >= self.policy.crash_loop;
        let at = now + if looping { self.policy.backoff_max } else { pause };
        self.not_before = Some(at);
        // One on demand that nobody waits for sleeps; once it loops, that is to be seen.
        if self.wanted && (!self.policy.on_demand || self.in_use > 0 || looping) {
            self.pause_until(at);
        }
    }

    fn pause_until(&mut self, at: Instant) {
        let looping = self.failures >= self.policy.crash_loop;
        self.state = if looping { State::CrashLooping } else { State::BackingOff };
        self.timers.insert(Timer::Restart, at);
    }

    fn watch_idle(&mut self, now: Instant) {
        let up = matches!(self.state, State::Running | State::Unhealthy);
        if self.policy.on_demand && self.in_use == 0 && up {
            self.timers.entry(Timer::Idle).or_insert(now + self.policy.idle_timeout);
        }
    }
}

#[cfg(test)]
mod tests;
