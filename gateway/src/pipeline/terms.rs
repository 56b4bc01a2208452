//! What a service asks of gateways: its deadlines, how its callers are kept together, whether it may be asked twice.
//! Said by its nodes in labels that begin with `paceline.`, so that every gateway of the cluster goes by the same.

use std::{collections::BTreeMap, time::Duration};

use http::HeaderName;

use super::queue;
use crate::labels::{
    AFFINITY, FIRST_BYTE_TIMEOUT as FIRST_BYTE, HEDGE, QUEUE_TIMEOUT as QUEUE, TOTAL_TIMEOUT as TOTAL,
};

/// The longest deadline.
const SECONDS_MAX: f64 = 86_400.0;
/// The longest wait for a place: each who waits holds a request in memory.
const QUEUE_MAX: Duration = Duration::from_secs(600);

/// By what requests are kept together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Affinity {
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(Box<str>),
    /// The address that the caller connects from.
    Client,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) first_byte: Duration,
    pub(crate) total: Option<Duration>,
    pub(crate) queue: Duration,
    pub(crate) affinity: Option<Affinity>,
    pub(crate) hedge: bool,
}

impl Terms {
    /// From the labels of all who offer the service. Where they differ: the longest deadline, hedging only where all
    /// say so, and the first affinity. What cannot be read counts as not said.
    pub(crate) fn of<'a>(
        providers: impl Iterator<Item = &'a BTreeMap<String, String>> + Clone,
        first_byte: Duration,
    ) -> Self {
        let longest = |label: &str| {
            let all = providers.clone().map(|labels| labels.get(label).and_then(|text| seconds(text)));
            all.collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max())
        };
        let anybody = |label: &str| providers.clone().find_map(|labels| labels.get(label));
        let mut all = providers.clone().map(|labels| labels.get(HEDGE).is_some_and(|word| word == "true")).peekable();
        Self {
            first_byte: longest(FIRST_BYTE).unwrap_or(first_byte),
            total: longest(TOTAL),
            queue: longest(QUEUE).unwrap_or(queue::WAIT).min(QUEUE_MAX),
            affinity: anybody(AFFINITY).and_then(|text| affinity(text)),
            hedge: all.peek().is_some() && all.all(|says| says),
        }
    }
}

/// Decimal seconds, 0 to a day.
fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    (0.0..=SECONDS_MAX).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

fn affinity(text: &str) -> Option<Affinity> {
    match text.split_once(':') {
        Some(("header", name)) => HeaderName::try_from(name).ok().map(Affinity::Header),
        Some(("cookie", name)) if !name.is_empty() => Some(Affinity::Cookie(name.into())),
        None if text == "client" => Some(Affinity::Client),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_longest_deadline_and_the_most_careful_hedging() {
        let default = Duration::from_secs(60);
        let none = Terms::of([].iter(), default);
        assert_eq!((none.first_byte, none.total, none.queue, none.hedge), (default, None, queue::WAIT, false));
        let a = labels(&[(FIRST_BYTE, "90"), (TOTAL, "600"), (HEDGE, "true"), (AFFINITY, "cookie:sid")]);
        let b = labels(&[(FIRST_BYTE, "0.5"), (QUEUE, "3600"), (HEDGE, "true"), (AFFINITY, "header:X-User")]);
        let c = labels(&[(FIRST_BYTE, "soon"), (TOTAL, "-1"), (AFFINITY, "moon"), (QUEUE, "NaN")]);
        let both = Terms::of([&a, &b].into_iter(), default);
        assert_eq!((both.first_byte, both.total, both.hedge), (Duration::from_secs(90), None, true));
        assert_eq!(both.affinity, Some(Affinity::Cookie("sid".into())));
        assert_eq!(Terms::of([&b].into_iter(), default).queue, QUEUE_MAX);
        let odd = Terms::of([&c].into_iter(), default);
        assert_eq!((odd.first_byte, odd.total, odd.queue, odd.affinity), (default, None, queue::WAIT, None));
        assert!(!Terms::of([&a, &c].into_iter(), default).hedge);
    }
}
