//! `/api/admin/keys`: API keys of this gateway, made, listed and revoked. Only with the admin key or the scope `admin`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header::CACHE_CONTROL};
use serde_json::{Value, json};

use super::refuse;
use crate::{
    callers::{Caller, Keys, KeysError, Record, Wanted},
    cluster::Cluster,
    lane::Shared,
    request_id::RequestId,
};

fn shown(record: &Record) -> Value {
    json!({
        "id": record.id,
        "name": record.name,
        "scopes": record.scopes,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "rate": record.rate,
    })
}

fn failed(id: &RequestId, error: &KeysError) -> Response {
    let status = match error {
        KeysError::Wanted(_) => StatusCode::BAD_REQUEST,
        KeysError::Unknown(_) => StatusCode::NOT_FOUND,
        KeysError::File { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refuse(id, status, error.to_string())
}

/// Changes the keys where the disk may take its time.
async fn change<C: Cluster, T: Send + 'static>(
    shared: &Shared<C>,
    how: impl FnOnce(&Keys) -> Result<T, KeysError> + Send + 'static,
) -> Result<T, KeysError> {
    let keys = shared.house.callers.keys().clone();
    let done = tokio::task::spawn_blocking(move || how(&keys)).await;
    done.unwrap_or_else(|e| Err(KeysError::Wanted(format!("the change was not made: {e}"))))
}

fn by(caller: &Caller) -> &str {
    match caller {
        Caller::Admin => "admin key",
        Caller::Local => "this machine",
        Caller::Known(identity) => &identity.label,
    }
}

pub(super) async fn create<C: Cluster>(
    State(shared): State<Arc<Shared<C>>>,
    Extension(id): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
    Json(wanted): Json<Wanted>,
) -> Response {
    match change(&shared, |keys| keys.create(wanted)).await {
        Ok((record, key)) => {
            tracing::info!(key = record.id, by = by(&caller), "an API key was made");
            let mut body = shown(&record);
            body["key"] = key.as_str().into();
            let mut response = (StatusCode::CREATED, Json(body)).into_response();
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(error) => failed(&id, &error),
    }
}

pub(super) async fn list<C: Cluster>(State(shared): State<Arc<Shared<C>>>) -> Response {
    let keys = shared.house.callers.keys().list();
    let keys: Vec<Value> = keys
        .iter()
        .map(|(record, requests)| {
            let mut one = shown(record);
            one["requests"] = (*requests).into();
            one
        })
        .collect();
    Json(json!({ "keys": keys })).into_response()
}

pub(super) async fn revoke<C: Cluster>(
    State(shared): State<Arc<Shared<C>>>,
    Extension(id): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
) -> Response {
    match change(&shared, move |keys| keys.revoke(&key)).await {
        Ok(record) => {
            tracing::info!(key = record.id, by = by(&caller), "an API key was revoked");
            Json(json!({ "revoked": record.id })).into_response()
        }
        Err(error) => failed(&id, &error),
    }
}
