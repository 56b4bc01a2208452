//! `/api/admin/tokens`: join tokens, made and listed. Only with the admin key.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use paceline_mesh::mesh::TokenSpec;
use paceline_proto::id::{Role, ServiceName};
use serde::Deserialize;
use serde_json::json;

use super::refuse;
use crate::{cluster::Cluster, lane::Shared, request_id::RequestId};

/// How long a token is good where nothing is said, in seconds.
const TTL_S: u64 = 24 * 60 * 60;
/// Longest validity, in seconds.
const TTL_S_MAX: u64 = 365 * 24 * 60 * 60;
/// Most service names of a token.
const SERVICES_MAX: usize = 64;

/// What a caller asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    #[serde(default = "worker_alone")]
    roles: Vec<Role>,
    #[serde(default)]
    issuer: bool,
    #[serde(default)]
    services: Vec<ServiceName>,
    #[serde(default = "a_day")]
    ttl_s: u64,
    #[serde(default)]
    uses: Option<u32>,
}

fn worker_alone() -> Vec<Role> {
    vec![Role::Worker]
}

const fn a_day() -> u64 {
    TTL_S
}

impl Wanted {
    fn spec(self) -> Result<TokenSpec, String> {
        if self.roles.is_empty() {
            return Err("roles: name at least one of worker, gateway, bootstrap".into());
        }
        if !(1..=TTL_S_MAX).contains(&self.ttl_s) {
            return Err(format!("ttl_s: must be between 1 and {TTL_S_MAX}"));
        }
        if self.uses == Some(0) {
            return Err("uses: must be at least 1, or left out for any number".into());
        }
        if self.services.len() > SERVICES_MAX {
            return Err(format!("services: at most {SERVICES_MAX}"));
        }
        Ok(TokenSpec {
            roles: self.roles.into_iter().collect(),
            issuer: self.issuer,
            services: self.services,
            ttl: Duration::from_secs(self.ttl_s),
            uses: self.uses,
        })
    }
}

pub(super) async fn create<C: Cluster>(
    State(shared): State<Arc<Shared<C>>>,
    Extension(id): Extension<RequestId>,
    Json(wanted): Json<Wanted>,
) -> Response {
    let spec = match wanted.spec() {
        Ok(spec) => spec,
        Err(words) => return refuse(&id, StatusCode::BAD_REQUEST, words),
    };
    match shared.cluster.create_token(spec).await {
        Ok((token_id, token)) => Json(json!({ "id": token_id.to_string(), "token": token })).into_response(),
        Err(words) => refuse(&id, StatusCode::CONFLICT, words),
    }
}

pub(super) async fn list<C: Cluster>(State(shared): State<Arc<Shared<C>>>) -> Response {
    Json(json!({ "tokens": shared.cluster.tokens() })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Result<TokenSpec, String> {
        serde_json::from_str::<Wanted>(text).map_err(|e| e.to_string())?.spec()
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let spec = spec("{}").expect("all defaults");
        assert_eq!(spec.roles.to_string(), "worker");
        assert_eq!((spec.ttl.as_secs(), spec.uses, spec.issuer), (TTL_S, None, false));
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        for (text, words) in [
            (r#"{"roles": []}"#, "roles"),
            (r#"{"roles": ["king"]}"#, "king"),
            (r#"{"ttl_s": 0}"#, "ttl_s"),
            (r#"{"uses": 0}"#, "uses"),
            (r#"{"services": ["No Name"]}"#, "No Name"),
            (r#"{"tll_s": 5}"#, "tll_s"),
        ] {
            let error = spec(text).map(|_| ()).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
