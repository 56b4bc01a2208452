//! One list out of what all origins name: each name once, no more than a manifest holds.

use std::collections::BTreeMap;

use paceline_proto::{
    envelope::check_services,
    id::ServiceName,
    manifest::{SERVICES_MAX, Service},
};

use super::{Origin, ServiceSpec};

/// Who wins each name, and why the others are left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Merged {
    pub(super) specs: BTreeMap<ServiceName, ServiceSpec>,
    pub(super) left_out: BTreeMap<(ServiceName, Origin), String>,
}

/// Origins in their order, services of one origin in theirs: what comes first stays.
pub(super) fn merge(wanted: &BTreeMap<Origin, Vec<ServiceSpec>>) -> Merged {
    let mut merged = Merged::default();
    let mut services: Vec<Service> = Vec::new();
    for (&origin, specs) in wanted {
        for spec in specs {
            let key = (spec.name.clone(), origin);
            if let Some(first) = merged.specs.get(&spec.name) {
                let words = format!("the name is taken ({})", first.origin.as_str());
                merged.left_out.entry(key).or_insert(words);
            } else if services.len() >= SERVICES_MAX {
                merged.left_out.insert(key, format!("a node offers at most {SERVICES_MAX} services"));
            } else {
                let service = spec.unseen();
                let checked = service.validate().and_then(|()| {
                    services.push(service);
                    check_services(services.clone()).inspect_err(|_| drop(services.pop()))
                });
                match checked {
                    Ok(()) => drop(merged.specs.insert(spec.name.clone(), ServiceSpec { origin, ..spec.clone() })),
                    Err(error) => drop(merged.left_out.insert(key, error.to_string())),
                }
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::{HealthCheck, Source};

    fn spec(name: &str, url: &str) -> ServiceSpec {
        let source = Source::Http { url: url.parse().unwrap(), health: HealthCheck::Connect };
        ServiceSpec::new(ServiceName::new(name).unwrap(), source, Origin::Detected)
    }

    #[test]
    fn the_first_origin_wins_a_name_and_the_rest_stays() {
        let wanted = BTreeMap::from([
            (Origin::Detected, vec![spec("a", "http://found"), spec("b", "http://found")]),
            (Origin::Flag, vec![spec("a", "http://told")]),
        ]);
        let merged = merge(&wanted);
        let won: Vec<_> = merged.specs.values().map(|s| (s.name.as_str(), s.origin)).collect();
        assert_eq!(won, [("a", Origin::Flag), ("b", Origin::Detected)]);
        let left: Vec<_> = merged.left_out.iter().collect();
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].0.0.as_str(), left[0].1.as_str()), ("a", "the name is taken (command line)"));
    }

    #[test]
    fn what_no_manifest_holds_is_left_out_alone() {
        let many = (0..=SERVICES_MAX).map(|i| spec(&format!("s{i}"), "http://x")).collect();
        let merged = merge(&BTreeMap::from([(Origin::Config, many)]));
        assert_eq!((merged.specs.len(), merged.left_out.len()), (SERVICES_MAX, 1));
        let mut long = spec("long", "http://x");
        long.labels = (0..32).map(|i| (format!("{i:0>100}"), "v".repeat(128))).collect();
        let mut bad = spec("bad", "http://x");
        bad.labels = BTreeMap::from([("k".into(), "\n".into())]);
        let merged =
            merge(&BTreeMap::from([(Origin::Config, vec![spec("a", "http://x"), long, bad, spec("b", "http://x")])]));
        assert_eq!(merged.specs.keys().map(ServiceName::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(merged.left_out.len(), 2);
    }
}
