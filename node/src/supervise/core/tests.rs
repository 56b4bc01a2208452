use super::*;
use proptest::prelude::*;

fn policy(on_demand: bool) -> Policy {
    Policy {
        on_demand,
        idle_timeout: s(300),
        start_timeout: s(60),
        stop_timeout: s(5),
        backoff_min: s(1),
        backoff_max: s(8),
        crash_loop: 3,
    }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn outputs(core: &mut Core) -> Vec<Output> {
    std::iter::from_fn(|| core.poll_output()).collect()
}

/// Hands it in, and what it makes of it.
fn feed(core: &mut Core, input: Input, now: Instant) -> (State, Vec<Output>) {
    core.handle_input(input, now);
    (core.state(), outputs(core))
}

/// Goes to the next deadline.
fn sleep(core: &mut Core, now: &mut Instant) -> (State, Vec<Output>) {
    *now = core.poll_timeout().expect("a deadline").0;
    core.handle_timeout(*now);
    (core.state(), outputs(core))
}

#[test]
fn a_service_is_started_again_and_again_with_longer_pauses() {
    let (mut core, mut now) = (Core::new(policy(false)), Instant::now());
    assert_eq!(feed(&mut core, Input::Start, now), (State::Starting, vec![Output::Spawn]));
    assert_eq!(feed(&mut core, Input::Exited, now), (State::BackingOff, vec![]));
    assert_eq!(core.next_start(), Some(now + s(1)));
    assert_eq!(sleep(&mut core, &mut now), (State::Starting, vec![Output::Spawn]));
    assert_eq!(feed(&mut core, Input::Exited, now), (State::BackingOff, vec![]));
    assert_eq!(core.next_start(), Some(now + s(2)));
    sleep(&mut core, &mut now);
    assert_eq!(feed(&mut core, Input::Exited, now), (State::CrashLooping, vec![]), "the third in a row");
    assert_eq!(core.next_start(), Some(now + s(8)), "tried on at the longest pause");
    assert_eq!(sleep(&mut core, &mut now), (State::Starting, vec![Output::Spawn]));
    assert_eq!(feed(&mut core, Input::Healthy, now), (State::Running, vec![]));
    assert_eq!(feed(&mut core, Input::Exited, now).0, State::CrashLooping, "well for a moment is not well");
    sleep(&mut core, &mut now);
    feed(&mut core, Input::Healthy, now);
    assert_eq!(sleep(&mut core, &mut now).0, State::Running);
    assert_eq!(core.failures(), 0, "well for {SETTLED:?} forgives");
    assert_eq!(feed(&mut core, Input::Exited, now).0, State::BackingOff);
    assert_eq!(core.next_start(), Some(now + s(1)));
}

#[test]
fn what_does_not_end_is_killed() {
    let (mut core, mut now) = (Core::new(policy(false)), Instant::now());
    feed(&mut core, Input::Start, now);
    feed(&mut core, Input::Healthy, now);
    assert_eq!(feed(&mut core, Input::Unhealthy, now), (State::Unhealthy, vec![]));
    let stopped = now;
    assert_eq!(feed(&mut core, Input::Stop, now), (State::Stopping, vec![Output::Terminate]));
    assert_eq!(feed(&mut core, Input::Stop, now), (State::Stopping, vec![]), "once");
    assert_eq!(sleep(&mut core, &mut now), (State::Stopping, vec![Output::Kill]));
    assert_eq!(now, stopped + s(5));
    assert_eq!(feed(&mut core, Input::Exited, now), (State::Stopped, vec![]));
    assert_eq!(core.poll_timeout(), None, "for good");
}

#[test]
fn a_start_that_takes_too_long_is_a_failure() {
    let (mut core, mut now) = (Core::new(policy(false)), Instant::now());
    feed(&mut core, Input::Start, now);
    assert_eq!(sleep(&mut core, &mut now), (State::Stopping, vec![Output::Terminate]));
    assert_eq!(feed(&mut core, Input::Exited, now), (State::BackingOff, vec![]));
    assert_eq!(core.failures(), 1);
}

#[test]
fn an_on_demand_service_sleeps_until_it_is_called() {
    let (mut core, mut now) = (Core::new(policy(true)), Instant::now());
    assert_eq!(feed(&mut core, Input::Start, now), (State::Stopped, vec![]));
    assert!(core.is_dormant());
    assert_eq!(feed(&mut core, Input::Demand, now), (State::Starting, vec![Output::Spawn]));
    assert_eq!(feed(&mut core, Input::Demand, now), (State::Starting, vec![]), "one process for all who wait");
    assert!(core.is_dormant());
    assert_eq!(feed(&mut core, Input::Healthy, now), (State::Running, vec![]));
    assert!(!core.is_dormant());
    now += s(1000);
    core.handle_timeout(now);
    assert_eq!(core.state(), State::Running, "two requests run on");
    feed(&mut core, Input::Released, now);
    feed(&mut core, Input::Released, now);
    now += s(299);
    core.handle_timeout(now);
    feed(&mut core, Input::Demand, now);
    feed(&mut core, Input::Released, now);
    let idle = now;
    assert_eq!(sleep(&mut core, &mut now), (State::Stopping, vec![Output::Terminate]));
    assert_eq!(now, idle + s(300));
    assert_eq!(feed(&mut core, Input::Demand, now), (State::Stopping, vec![]));
    assert_eq!(feed(&mut core, Input::Exited, now), (State::Starting, vec![Output::Spawn]), "called while it went");
    feed(&mut core, Input::Healthy, now);
    feed(&mut core, Input::Released, now);
    sleep(&mut core, &mut now);
    assert_eq!(sleep(&mut core, &mut now).0, State::Stopping);
    assert_eq!(feed(&mut core, Input::Exited, now), (State::Stopped, vec![]));
    assert_eq!(core.failures(), 0);
}

#[test]
fn an_on_demand_service_that_fails_is_not_started_for_nobody() {
    let (mut core, mut now) = (Core::new(policy(true)), Instant::now());
    feed(&mut core, Input::Start, now);
    feed(&mut core, Input::Demand, now);
    assert_eq!(feed(&mut core, Input::Exited, now).0, State::BackingOff, "somebody waits");
    feed(&mut core, Input::Released, now);
    assert_eq!(sleep(&mut core, &mut now), (State::Stopped, vec![]));
    feed(&mut core, Input::Demand, now);
    assert_eq!(core.state(), State::Starting);
    feed(&mut core, Input::Released, now);
    assert_eq!(feed(&mut core, Input::Exited, now).0, State::Stopped, "nobody waits");
    assert_eq!(feed(&mut core, Input::Demand, now).0, State::BackingOff, "not before its pause is over");
    sleep(&mut core, &mut now);
    assert_eq!(feed(&mut core, Input::Exited, now).0, State::CrashLooping);
    assert!(!core.is_dormant(), "nobody is sent its way");
}

/// What must hold after every step, against a model that knows only whether a process is there.
fn check(steps: Vec<(u8, u16)>, on_demand: bool) {
    let (mut core, mut now) = (Core::new(policy(on_demand)), Instant::now());
    let (mut process, mut wanted, mut in_use) = (false, false, 0u32);
    for (step, wait) in steps {
        now += Duration::from_millis(wait.into());
        match step % 9 {
            0 => (core.handle_input(Input::Start, now), wanted = true).1,
            1 if process => {
                process = false;
                core.handle_input(Input::Exited, now);
            }
            2 => core.handle_input(Input::Healthy, now),
            3 => core.handle_input(Input::Unhealthy, now),
            4 => (core.handle_input(Input::Demand, now), in_use += 1).1,
            5 if in_use > 0 => (core.handle_input(Input::Released, now), in_use -= 1).1,
            6 => (core.handle_input(Input::Stop, now), wanted = false).1,
            7 => now = core.poll_timeout().map_or(now, |(at, _)| at.max(now)),
            _ => {}
        }
        core.handle_timeout(now);
        for output in outputs(&mut core) {
            match output {
                Output::Spawn => {
                    assert!(!process, "two processes");
                    assert!(wanted, "started though not wanted");
                    assert!(!on_demand || in_use > 0, "started for nobody");
                    process = true;
                }
                Output::Terminate | Output::Kill => assert!(process, "nobody to end"),
            }
        }
        assert_eq!(core.state().has_process(), process);
        assert!(core.poll_timeout().is_none_or(|(at, _)| at > now), "a deadline that passed stays");
        if wanted && !on_demand && !process {
            assert!(core.poll_timeout().is_some(), "wanted, and nothing will start it");
        }
        if wanted && on_demand && in_use > 0 && !process {
            assert!(core.poll_timeout().is_some(), "called, and nothing will start it");
        }
        if core.state() == State::Stopping {
            assert!(core.poll_timeout().is_some() || process);
        }
    }
    // Whatever happened: told to stop, it ends.
    core.handle_input(Input::Stop, now);
    core.handle_input(Input::Exited, now);
    assert_eq!((core.state(), core.poll_timeout()), (State::Stopped, None));
}

proptest! {
    #[test]
    fn any_order_of_events_keeps_one_process_and_ends(
        steps in proptest::collection::vec((any::<u8>(), 0u16..3000), 0..200), on_demand: bool
    ) {
        check(steps, on_demand);
    }
}
