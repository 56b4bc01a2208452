//! `GET /metrics`: the text format of Prometheus (exposition format 0.0.4).

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use axum::{extract::State, response::IntoResponse};
use http::header::CONTENT_TYPE;
use paceline_mesh::leadership;

use super::{health::resident_bytes, workers};
use crate::{
    cluster::Cluster,
    lane::Shared,
    metrics::{self, BUCKETS_US, Counts},
    pipeline::answer::path_word,
};

pub(super) async fn metrics<C: Cluster>(State(shared): State<Arc<Shared<C>>>) -> impl IntoResponse {
    let mut text = Text::default();
    text.services(&metrics::sum(&shared.stats));
    let lanes = || shared.stats.iter();
    text.family("paceline_gateway_in_flight", "gauge", "Requests that a worker has and that have not ended.");
    text.line("paceline_gateway_in_flight", "", lanes().map(|l| l.running_count() as u64).sum());
    text.family("paceline_gateway_connections", "gauge", "Open client connections.");
    text.line("paceline_gateway_connections", "", lanes().map(|l| l.connections.load(Relaxed)).sum());
    text.family("paceline_gateway_connections_parked", "gauge", "Those of them that idle without buffers.");
    text.line("paceline_gateway_connections_parked", "", lanes().map(|l| l.parked.load(Relaxed)).sum());
    text.family("paceline_gateway_waiting", "gauge", "Requests that wait while every worker has enough to do.");
    for (service, count) in shared.outliers.waiting() {
        text.line("paceline_gateway_waiting", &format!("service=\"{service}\""), count);
    }
    let view = shared.cluster.view();
    let mut members = BTreeMap::from(workers::STATUSES.map(|status| (status, 0u64)));
    for member in view.members.values() {
        *members.entry(workers::status_of(member)).or_default() += 1;
    }
    text.family("paceline_members", "gauge", "Known members of the cluster, by state.");
    for (state, count) in members {
        text.line("paceline_members", &format!("state=\"{state}\""), count);
    }
    leadership::metrics(&view, &mut text.0);
    if let Some(bytes) = resident_bytes() {
        text.family("process_resident_memory_bytes", "gauge", "Resident memory of this process.");
        text.line("process_resident_memory_bytes", "", bytes);
    }
    text.family("paceline_uptime_seconds", "gauge", "Since the gateway started.");
    text.line("paceline_uptime_seconds", "", shared.started.elapsed().as_secs());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text.0)
}

#[derive(Default)]
struct Text(String);

// Writing to a String cannot fail: the results are dropped. Label values are service names, statuses and our own
// words: none needs escaping.
impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: u64) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    fn services(&mut self, services: &BTreeMap<String, Counts>) {
        const REQUESTS: &str = "paceline_gateway_requests_total";
        self.family(REQUESTS, "counter", "Requests by service, status, and how their worker was reached.");
        for (service, counts) in services {
            for ((status, path), n) in &counts.answers {
                let path = path.map_or("none", path_word);
                self.line(REQUESTS, &format!("service=\"{service}\",status=\"{status}\",path=\"{path}\""), *n);
            }
        }
        const RETRIES: &str = "paceline_gateway_retries_total";
        self.family(RETRIES, "counter", "Requests that were sent once more, to another worker.");
        for (service, counts) in services {
            self.line(RETRIES, &format!("service=\"{service}\""), counts.retries);
        }
        const HEDGES: &str = "paceline_gateway_hedges_total";
        self.family(HEDGES, "counter", "Requests that were sent to a second worker because the first was slow.");
        for (service, counts) in services {
            self.line(HEDGES, &format!("service=\"{service}\""), counts.hedges);
        }
        const REFUSED: &str = "paceline_gateway_retry_budget_exhausted_total";
        self.family(REFUSED, "counter", "Retries and hedges that the retry budget did not allow.");
        for (service, counts) in services {
            self.line(REFUSED, &format!("service=\"{service}\""), counts.over_budget);
        }
        const HEADS: &str = "paceline_gateway_request_duration_seconds";
        self.family(HEADS, "histogram", "From a request's head to its response's head.");
        for (service, counts) in services {
            let mut total = 0;
            for (bound_us, n) in BUCKETS_US.iter().zip(counts.heads) {
                total += n;
                let le = *bound_us as f64 / 1e6;
                self.line(&format!("{HEADS}_bucket"), &format!("service=\"{service}\",le=\"{le}\""), total);
            }
            total += counts.heads[BUCKETS_US.len()];
            self.line(&format!("{HEADS}_bucket"), &format!("service=\"{service}\",le=\"+Inf\""), total);
            let sum = counts.heads_us as f64 / 1e6;
            let _ = writeln!(self.0, "{HEADS}_sum{{service=\"{service}\"}} {sum}");
            self.line(&format!("{HEADS}_count"), &format!("service=\"{service}\""), total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paceline_mesh::data::PathKind;

    #[test]
    fn a_histogram_is_cumulative() {
        let mut counts = Counts::default();
        counts.answers.insert((200, Some(PathKind::Direct)), 3);
        counts.heads[0] = 1;
        counts.heads[BUCKETS_US.len()] = 2;
        counts.heads_us = 1_500_000;
        let mut text = Text::default();
        text.services(&BTreeMap::from([("files".to_owned(), counts)]));
        for line in [
            "paceline_gateway_requests_total{service=\"files\",status=\"200\",path=\"direct\"} 3",
            "paceline_gateway_request_duration_seconds_bucket{service=\"files\",le=\"0.0001\"} 1",
            "paceline_gateway_request_duration_seconds_bucket{service=\"files\",le=\"60\"} 1",
            "paceline_gateway_request_duration_seconds_bucket{service=\"files\",le=\"+Inf\"} 3",
            "paceline_gateway_request_duration_seconds_sum{service=\"files\"} 1.5",
            "paceline_gateway_request_duration_seconds_count{service=\"files\"} 3",
        ] {
            assert!(text.0.lines().any(|l| l == line), "{line} is not in\n{}", text.0);
        }
    }
}
