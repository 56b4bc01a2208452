//! `<data-dir>/join-token`: a token with the worker role, good for a day, always fresh.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use paceline_proto::id::{Role, Roles};
use tokio::task::JoinSet;

use super::{Fault, files};
use crate::mesh::{Mesh, TokenSpec};

/// Life of the token.
const TTL: Duration = Duration::from_secs(24 * 3600);
/// Age at which it is replaced: whoever copied it just before has half a day left.
const REPLACE_AFTER: Duration = Duration::from_secs(12 * 3600);
/// How often its age and its addresses are looked at. By the wall clock, because timers stand still in suspend.
const LOOK: Duration = Duration::from_secs(60);

/// Writes a first token, keeps it fresh in a task, and returns it.
pub(super) async fn keep(mesh: Mesh, path: PathBuf, tasks: &mut JoinSet<()>) -> Result<String, Fault> {
    let mut addresses = mesh.mesh_addresses();
    let first = renew(&mesh, &path).await.map_err(Fault::failed)?;
    tasks.spawn(async move {
        let mut made = SystemTime::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let now_at = mesh.mesh_addresses();
            // A clock that went backwards makes the age an error: then it is replaced too.
            let young = made.elapsed().is_ok_and(|age| age < REPLACE_AFTER);
            if young && now_at == addresses {
                continue;
            }
            match renew(&mesh, &path).await {
                Ok(_) => (made, addresses) = (SystemTime::now(), now_at),
                Err(error) => tracing::warn!(%error, "cannot renew the join token, trying again"),
            }
        }
    });
    Ok(first)
}

async fn renew(mesh: &Mesh, path: &std::path::Path) -> Result<String, String> {
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
