//! What an OpenAI-like service says of its models: `GET /v1/models`, bounded.

use std::time::Duration;

use http::Uri;
use paceline_proto::manifest::{MODELS_MAX, TEXT_BYTES_MAX};
use serde::Deserialize;
use tokio::time::timeout;

use crate::client;

/// Where models are listed.
pub(crate) const PATH: &str = "/v1/models";
/// How much of a list is read: some thousand models.
pub(crate) const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of the names together: a manifest has other services to tell of.
pub const NAMES_BYTES_MAX: usize = 2 * 1024;
/// For the whole question.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The models of a service, sorted. At most [`MODELS_MAX`] of [`TEXT_BYTES_MAX`] bytes each, [`NAMES_BYTES_MAX`] in all;
/// what is over is left out from the end.
///
/// # Errors
/// In words: it does not answer within two seconds, or not as OpenAI does.
pub async fn list(url: &Uri) -> Result<Vec<String>, String> {
    let path = match url.path().trim_end_matches('/') {
        // A URL as OpenAI's clients are given it.
        base if base.ends_with("/v1") => format!("{base}/models"),
        base => format!("{base}{PATH}"),
    };
    match timeout(TIMEOUT, client::get(url, &path, ANSWER_BYTES_MAX)).await {
        Ok(Ok(answer)) if answer.status.is_success() => {
            parse(&answer.body).ok_or_else(|| format!("what GET {path} answered is no list of models"))
        }
        Ok(Ok(answer)) => Err(format!("GET {path} answered {}", answer.status.as_u16())),
        Ok(Err(words)) => Err(words),
        Err(_) => Err(format!("GET {path}: no answer within {} s", TIMEOUT.as_secs())),
    }
}

/// The names in an answer of `/v1/models`; `None` where it is no such answer.
pub(crate) fn parse(body: &[u8]) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
    }
    let list: List = serde_json::from_slice(body).ok()?;
    let fits = |name: &String| !name.is_empty() && name.len() <= TEXT_BYTES_MAX && !name.chars().any(char::is_control);
    let mut names: Vec<String> = list.data.into_iter().map(|model| model.id).filter(fits).collect();
    // Sorted, so that a service that lists them in another order each time is no change.
    names.sort_unstable();
    names.dedup();
    names.truncate(MODELS_MAX);
    let mut bytes = 0;
    names.retain(|name| {
        bytes += name.len();
        bytes <= NAMES_BYTES_MAX
    });
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_sorted_and_bounded() {
        let body =
            br#"{"object":"list","data":[{"id":"b","object":"model","max_model_len":4096},{"id":"a"},{"id":"b"}]}"#;
        assert_eq!(parse(body).unwrap(), ["a", "b"]);
        assert_eq!(parse(br#"{"object":"list","data":[]}"#).unwrap(), [""; 0]);
        let many: Vec<_> = (0..100).map(|i| serde_json::json!({ "id": format!("m{i:03}") })).collect();
        assert_eq!(parse(serde_json::json!({ "data": many }).to_string().as_bytes()).unwrap().len(), MODELS_MAX);
        let long: Vec<_> = (0..30).map(|i| serde_json::json!({ "id": format!("{i:0100}") })).collect();
        let names = parse(serde_json::json!({ "data": long }).to_string().as_bytes()).unwrap();
        assert!(names.iter().map(String::len).sum::<usize>() <= NAMES_BYTES_MAX && names.len() == 20);
        let odd = serde_json::json!({ "data": [{ "id": "" }, { "id": "a\nb" }, { "id": "x".repeat(129) }, { "id": "fine" }] });
        assert_eq!(parse(odd.to_string().as_bytes()).unwrap(), ["fine"]);
    }

    #[test]
    fn other_json_is_no_list() {
        for body in
            [&b""[..], b"[]", b"{}", b"{\"data\":{}}", b"{\"data\":[\"a\"]}", b"{\"data\":[{\"id\":1}]}", b"<html>"]
        {
            assert_eq!(parse(body), None, "{}", String::from_utf8_lossy(body));
        }
    }
}
