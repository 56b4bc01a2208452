//! `/api/admin/revocations`: who is thrown out. Only with the admin key.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use paceline_mesh::mesh::Revoke;
use paceline_proto::id::TokenId;
use serde::Deserialize;
use serde_json::json;

use super::refuse;
use crate::{cluster::Cluster, lane::Shared, request_id::RequestId};

/// Longest name or id of a member.
const WHO_BYTES_MAX: usize = 128;

/// What a caller asks for: a worker or a token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    worker: Option<String>,
    token: Option<String>,
    #[serde(default)]
    keep_token: bool,
}

impl Wanted {
    fn what(self) -> Result<Revoke, String> {
        match (self.worker, self.token) {
            (Some(who), None) if (1..=WHO_BYTES_MAX).contains(&who.len()) => {
                Ok(Revoke::Worker { who, keep_token: self.keep_token })
            }
            (Some(_), None) => Err(format!("worker: a name or an id, at most {WHO_BYTES_MAX} bytes")),
            (None, Some(id)) => id.parse::<TokenId>().map(Revoke::Token).map_err(|e| format!("token: {e}")),
            _ => Err("name either `worker` or `token`".into()),
        }
    }
}

pub(super) async fn revoke<C: Cluster>(
    State(shared): State<Arc<Shared<C>>>,
    Extension(id): Extension<RequestId>,
    Json(wanted): Json<Wanted>,
) -> Response {
    let what = match wanted.what() {
        Ok(what) => what,
        Err(words) => return refuse(&id, StatusCode::BAD_REQUEST, words),
    };
    match shared.cluster.revoke(what).await {
        Ok(revoked) => Json(revoked).into_response(),
        Err(words) => refuse(&id, StatusCode::CONFLICT, words),
    }
}

pub(super) async fn list<C: Cluster>(State(shared): State<Arc<Shared<C>>>) -> Response {
    Json(json!({ "revoked": shared.cluster.revocations() })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(text: &str) -> Result<Revoke, String> {
        serde_json::from_str::<Wanted>(text).map_err(|e| e.to_string())?.what()
    }

    #[test]
    fn one_thing_is_revoked_at_a_time() {
        assert_eq!(what(r#"{"worker": "n"}"#), Ok(Revoke::Worker { who: "n".into(), keep_token: false }));
        assert_eq!(what(r#"{"token": "0001020304050607"}"#), Ok(Revoke::Token(TokenId([0, 1, 2, 3, 4, 5, 6, 7]))));
        for (text, words) in [
            ("{}", "either"),
            (r#"{"worker": "n", "token": "0001020304050607"}"#, "either"),
            (r#"{"worker": ""}"#, "worker"),
            (r#"{"token": "7"}"#, "token"),
            (r#"{"wroker": "n"}"#, "wroker"),
        ] {
            let error = what(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
