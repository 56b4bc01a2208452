//! How a service wants to be called, as its configuration says it: told to gateways in labels of the service.

use std::{collections::BTreeMap, time::Duration};

use paceline_gateway::labels;

/// The longest deadline that gateways go by.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest wait for a place.
const QUEUE_TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// See the keys of the same names in [`crate::config::schema::ServiceTable`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms<'a> {
    /// To the response's head.
    pub first_byte_timeout: Option<Duration>,
    /// To its last byte.
    pub total_timeout: Option<Duration>,
    /// In the gateway's line.
    pub queue_timeout: Option<Duration>,
    /// `header:NAME`, `cookie:NAME` or `client`.
    pub affinity: Option<&'a str>,
    /// To a second worker when the first is slow.
    pub hedge: bool,
}

impl Terms<'_> {
    /// These as labels, above the free ones.
    pub fn over(&self, free: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut all = free.clone();
        let times = [
            (labels::FIRST_BYTE_TIMEOUT, self.first_byte_timeout),
            (labels::TOTAL_TIMEOUT, self.total_timeout),
            (labels::QUEUE_TIMEOUT, self.queue_timeout),
        ];
        let times = times.into_iter().filter_map(|(label, time)| Some((label, time?.as_secs_f64().to_string())));
        let affinity = self.affinity.map(|text| (labels::AFFINITY, text.to_owned()));
        let hedge = self.hedge.then(|| (labels::HEDGE, "true".to_owned()));
        all.extend(times.chain(affinity).chain(hedge).map(|(label, text)| (label.to_owned(), text)));
        all
    }

    /// Whether gateways will understand them.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, time, max) in [
            ("first_byte_timeout", self.first_byte_timeout, TIMEOUT_MAX),
            ("total_timeout", self.total_timeout, TIMEOUT_MAX),
            ("queue_timeout", self.queue_timeout, QUEUE_TIMEOUT_MAX),
        ] {
            let zero_is_fine = key == "queue_timeout";
            if time.is_some_and(|time| time > max || (time.is_zero() && !zero_is_fine)) {
                let least = if zero_is_fine { "0" } else { "above 0" };
                return Err((key, format!("{key}: expected a time of {least} to {} s", max.as_secs())));
            }
        }
        let understood = self.affinity.is_none_or(|text| match text.split_once(':') {
            Some(("header", name)) => http::HeaderName::try_from(name).is_ok(),
            Some(("cookie", name)) => !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b';'),
            _ => text == "client",
        });
        match understood {
            true => Ok(()),
            false => Err(("affinity", "affinity: expected header:NAME, cookie:NAME or client".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_say_what_was_configured() {
        let terms = Terms {
            first_byte_timeout: Some(Duration::from_millis(1500)),
            queue_timeout: Some(Duration::ZERO),
            affinity: Some("cookie:sid"),
            hedge: true,
            ..Terms::default()
        };
        assert_eq!(terms.check(), Ok(()));
        let all = terms.over(&BTreeMap::from([("zone".into(), "a".into())]));
        let all: Vec<_> = all.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = [
            ("paceline.affinity", "cookie:sid"),
            ("paceline.first_byte_timeout", "1.5"),
            ("paceline.hedge", "true"),
            ("paceline.queue_timeout", "0"),
            ("zone", "a"),
        ];
        assert_eq!(all, expected);
        assert_eq!(Terms::default().over(&BTreeMap::new()), BTreeMap::new());
    }

    #[test]
    fn what_gateways_would_not_understand_is_refused() {
        let of = |change: &dyn Fn(&mut Terms<'static>)| {
            let mut terms = Terms::default();
            change(&mut terms);
            terms.check().err().map(|(key, _)| key)
        };
        assert_eq!(of(&|t| t.first_byte_timeout = Some(Duration::ZERO)), Some("first_byte_timeout"));
        assert_eq!(of(&|t| t.total_timeout = Some(TIMEOUT_MAX * 2)), Some("total_timeout"));
        assert_eq!(of(&|t| t.queue_timeout = Some(QUEUE_TIMEOUT_MAX * 2)), Some("queue_timeout"));
        for bad in ["", "ip", "header:", "header:a b", "cookie:", "cookie:a;b", "client:x"] {
            assert_eq!(of(&|t| t.affinity = Some(bad)), Some("affinity"), "{bad}");
        }
    }
}
