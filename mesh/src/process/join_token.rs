//! `<data-dir>/join-token`: a token with the worker role, good for a day, always fresh.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use paceline_proto::{
    id::{Role, Roles},
    token::Token,
};
use tokio::task::JoinSet;

use super::{Fault, files};
use crate::mesh::{Mesh, TokenSpec, TokenState};

/// Life of the token.
const TTL: Duration = Duration::from_secs(24 * 3600);
/// Age at which it is replaced: whoever copied it just before has half a day left.
const REPLACE_AFTER: Duration = Duration::from_secs(12 * 3600);
/// How often its age and its addresses are looked at. By the wall clock, because timers stand still in suspend.
const LOOK: Duration = Duration::from_secs(60);

/// Sees to a token that is fresh, keeps it so in a task, and returns it.
pub(super) async fn keep(mesh: Mesh, path: PathBuf, tasks: &mut JoinSet<()>) -> Result<String, Fault> {
    let first = match kept(&mesh, &path) {
        Some(token) => token,
        None => renew(&mesh, &path).await.map_err(Fault::failed)?,
    };
    tasks.spawn(async move {
        loop {
            // A token that is revoked is replaced at once.
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = mesh.revocations_changed() => {}
            }
            if kept(&mesh, &path).is_none()
                && let Err(error) = renew(&mesh, &path).await
            {
                tracing::warn!(%error, "cannot renew the join token, trying again");
            }
        }
    });
    Ok(first)
}

/// The token on disk, where it is this issuer's own, young, and leads to where the node is now: a restart makes no
/// other one.
fn kept(mesh: &Mesh, path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let token = Token::parse(text.trim()).ok()?;
    let left = token.grant.not_after.0.checked_sub(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs())?;
    let young = left > (TTL - REPLACE_AFTER).as_secs() && left <= TTL.as_secs();
    let id = token.grant.id.to_string();
    let known = token.root.cluster() == mesh.cluster()
        && mesh.tokens().iter().any(|t| t.id == id && t.state == TokenState::Active);
    (young && known && token.entries == mesh.token_entries()).then_some(text)
}

async fn renew(mesh: &Mesh, path: &Path) -> Result<String, String> {
    let spec = TokenSpec {
        roles: Roles::default().with(Role::Worker),
        issuer: false,
        services: Vec::new(),
        ttl: TTL,
        uses: None,
    };
    let (id, token) = mesh.create_token(spec).await?;
    files::write_atomically(path, token.as_bytes(), true).map_err(|e| format!("{}: {e}", path.display()))?;
    tracing::debug!(%id, "join token written");
    Ok(token)
}
