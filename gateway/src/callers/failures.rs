//! What happens to those who show wrong credentials: counted for each source address in a bounded table, and told in
//! the log, of which a flood gets no more than a few lines.
//!
//! An API key and a JWT cannot be guessed, so a right one passes whatever its neighbours at the same address do. The
//! admin key may be of a person's making: from an address with too many failures it is not even looked at.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::lane::lock;

/// Failures that an address may have at once.
const BURST: u32 = 20;
/// After which another one is forgiven.
const FORGIVE_EVERY: Duration = Duration::from_secs(3);
/// Most addresses with a count of their own; all others together have one.
const SOURCES_MAX: usize = 4096;
/// Lines in the log for each [`LINES_EVERY`].
const LINES_MAX: u32 = 10;
const LINES_EVERY: Duration = Duration::from_secs(10);

/// Stands for all addresses that the table has no room for.
const OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The failures of all sources.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// Until when each has failures that are not forgiven.
    table: Mutex<HashMap<IpAddr, Instant>>,
    /// Whether the table was ever written: who asks most often never takes the lock.
    any: AtomicBool,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

/// One source: an IPv6 subscriber has a /64 at least.
pub(crate) fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

impl Failures {
    /// How long a source has to wait, where it failed too often.
    pub(crate) fn wait(&self, ip: IpAddr, now: Instant) -> Option<Duration> {
        if !self.any.load(Relaxed) {
            return None;
        }
        let table = lock(&self.table);
        let until = table.get(&source_of(ip)).or_else(|| table.get(&OTHERS).filter(|_| table.len() > SOURCES_MAX))?;
        let debt = until.saturating_duration_since(now);
        debt.checked_sub(FORGIVE_EVERY * BURST).filter(|left| !left.is_zero())
    }

    /// Notes one more; the same as [`Failures::wait`] after it.
    pub(crate) fn note(&self, ip: IpAddr, now: Instant) -> Option<Duration> {
        self.any.store(true, Relaxed);
        {
            let mut table = lock(&self.table);
            let mut source = source_of(ip);
            if table.len() >= SOURCES_MAX && !table.contains_key(&source) {
                table.retain(|_, until| *until > now);
                if table.len() >= SOURCES_MAX {
                    source = OTHERS;
                }
            }
            let until = table.entry(source).or_insert(now);
            // Somebody who goes on for hours is not locked out for hours.
            *until = ((*until).max(now) + FORGIVE_EVERY).min(now + FORGIVE_EVERY * (2 * BURST));
        }
        self.wait(ip, now)
    }

    /// Whether a line may be written now, and how many were not since the last one.
    pub(crate) fn may_write(&self, now: Instant) -> Option<u64> {
        let mut lines = lock(&self.lines);
        if lines.since.is_none_or(|since| now.saturating_duration_since(since) >= LINES_EVERY) {
            (lines.since, lines.written) = (Some(now), 0);
        }
        if lines.written >= LINES_MAX {
            lines.left_out += 1;
            return None;
        }
        lines.written += 1;
        Some(std::mem::take(&mut lines.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn too_many_failures_wait_and_are_forgiven() {
        let failures = Failures::default();
        let (now, bad) = (Instant::now(), ip("192.0.2.1"));
        for n in 0..BURST {
            assert_eq!(failures.note(bad, now), None, "{n}");
        }
        assert_eq!(failures.note(bad, now), Some(FORGIVE_EVERY));
        assert_eq!(failures.wait(ip("192.0.2.2"), now), None, "another address");
        assert_eq!(failures.wait(bad, now + FORGIVE_EVERY), None);
        for _ in 0..10_000 {
            failures.note(bad, now);
        }
        assert!(failures.wait(bad, now).expect("waits") <= FORGIVE_EVERY * BURST);
        let (a, b) = (ip("2001:db8::1"), ip("2001:db8::ffff:1"));
        for _ in 0..=BURST {
            failures.note(a, now);
        }
        assert!(failures.wait(b, now).is_some(), "the same /64");
        assert_eq!(source_of(ip("::ffff:192.0.2.1")), bad);
    }

    #[test]
    fn the_table_is_bounded_and_what_does_not_fit_counts_together() {
        let failures = Failures::default();
        let now = Instant::now();
        for n in 0..3 * u32::try_from(SOURCES_MAX).expect("small") {
            failures.note(IpAddr::V4((0x0a00_0000 + n).into()), now);
        }
        assert!(lock(&failures.table).len() <= SOURCES_MAX + 1);
        assert!(failures.wait(ip("203.0.113.1"), now).is_some(), "one of the others");
        let later = now + FORGIVE_EVERY * 100;
        failures.note(ip("203.0.113.1"), later);
        assert_eq!(lock(&failures.table).len(), 1, "the forgiven make room");
    }

    #[test]
    fn a_flood_writes_few_lines_and_they_say_what_was_left_out() {
        let failures = Failures::default();
        let now = Instant::now();
        let written = (0..1000).filter(|_| failures.may_write(now).is_some()).count();
        assert_eq!(written, LINES_MAX as usize);
        assert_eq!(failures.may_write(now + LINES_EVERY), Some(1000 - u64::from(LINES_MAX)));
        assert_eq!(failures.may_write(now + LINES_EVERY), Some(0));
    }
}
