//! What the local API says of supervised services: `GET /services`, and with the admin key `GET /logs`.
//!
//! `/logs?service=NAME&tail=N` answers the last lines, `/logs?service=NAME&from=SEQ` those from a number on; where there
//! is none yet, it waits a few seconds for one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use http::StatusCode;
use paceline_mesh::local_api::{LocalRequest, Routes};
use serde_json::{Value, json};

use super::{Supervisor, log::Lines};

/// How long a request for lines that are not there yet waits.
const FOLLOW_WAIT: Duration = Duration::from_secs(5);
/// Lines of `/logs` unless told otherwise.
const TAIL: usize = 100;

type Answer = BoxFuture<'static, (StatusCode, Value)>;

impl Supervisor {
    /// For [`paceline_mesh::process::Setup::set_routes`].
    pub fn routes(&self) -> Routes {
        let supervisor = self.clone();
        Arc::new(move |request: &LocalRequest<'_>| match request.path {
            "/services" => Some(supervisor.answer_services()),
            "/logs" => Some(supervisor.answer_logs(request)),
            _ => None,
        })
    }

    fn answer_services(&self) -> Answer {
        let now = Instant::now();
        let services: Vec<Value> = self.status().iter().map(|status| status.json(now)).collect();
        answer(StatusCode::OK, json!({ "services": services }))
    }

    fn answer_logs(&self, request: &LocalRequest<'_>) -> Answer {
        if !request.authorised {
            return answer(StatusCode::UNAUTHORIZED, json!({ "error": "send the admin key as a bearer token" }));
        }
        let name = parameter(request.query, "service").unwrap_or_default().to_owned();
        let number = |key| parameter(request.query, key).map(str::parse::<u64>).transpose();
        let (Ok(tail), Ok(from)) = (number("tail"), number("from")) else {
            return answer(StatusCode::BAD_REQUEST, json!({ "error": "tail and from are numbers" }));
        };
        let Some(log) = self.log(&name) else {
            let all: Vec<String> = self.status().into_iter().map(|status| status.name.to_string()).collect();
            let starts = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            let words = format!("this node starts no service `{name}`; it starts: {starts}");
            return answer(StatusCode::NOT_FOUND, json!({ "error": words, "services": all }));
        };
        let Some(from) = from else {
            let tail = tail.map_or(TAIL, |n| usize::try_from(n).unwrap_or(usize::MAX));
            return answer(StatusCode::OK, lines(&name, log.tail(tail)));
        };
        Box::pin(async move {
            let mut next = log.watch();
            // Without a new line, an answer without lines: the caller asks again.
            let _ = tokio::time::timeout(FOLLOW_WAIT, next.wait_for(|next| *next > from)).await;
            (StatusCode::OK, lines(&name, log.since(from)))
        })
    }
}

fn answer(status: StatusCode, value: Value) -> Answer {
    Box::pin(async move { (status, value) })
}

fn lines(name: &str, Lines { lines, next }: Lines) -> Value {
    json!({ "service": name, "lines": lines, "next": next })
}

fn parameter<'a>(query: Option<&'a str>, key: &str) -> Option<&'a str> {
    query?.split('&').find_map(|pair| pair.split_once('=').filter(|(k, _)| *k == key).map(|(_, value)| value))
}
