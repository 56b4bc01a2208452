//! One call of an HTTP API, with errors that say what to do.

use std::time::Duration;

use http::Method;
use paceline_mesh::process::Fault;
use serde_json::Value;

use super::target::Target;
use crate::client;

/// For a whole call.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer: ten thousand workers fit.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Asks, and expects a JSON answer with a 2xx status.
///
/// # Errors
/// Exit code 2 where the caller must change something (the key, the arguments), 1 where the process does not answer.
pub(super) async fn call(target: &Target, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Fault> {
    let at = target.url.authority().map_or("", |a| a.as_str());
    let base = target.url.path().trim_end_matches('/');
    let body = body.map(Value::to_string);
    let full = format!("{base}{path}");
    let call = client::send(&target.url, method, &full, target.key.as_deref(), body, ANSWER_BYTES_MAX);
    let answer = match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => return Err(Fault::failed(format!("http://{at} does not answer: {e}; is the process running?"))),
        Err(_) => return Err(Fault::failed(format!("http://{at} gave no answer within {} s", TIMEOUT.as_secs()))),
    };
    let value: Option<Value> = serde_json::from_slice(&answer.body).ok();
    if answer.status.is_success() {
        return value.ok_or_else(|| {
            Fault::failed(format!("http://{at}{path} answered something that is not JSON: is that a Paceline gateway?"))
        });
    }
    let said = value.as_ref().and_then(|v| v.get("error")).and_then(Value::as_str);
    let said = said.unwrap_or_else(|| answer.status.canonical_reason().unwrap_or("no reason given"));
    match answer.status.as_u16() {
        401 | 403 => {
            Err(Fault::user(format!("{said}: give --key @FILE with the gateway's admin.key, or its --data-dir")))
        }
        400..=499 => Err(Fault::user(said)),
        status => Err(Fault::failed(format!("http://{at} answered {status}: {said}"))),
    }
}
