//! `GET /doctor`, with the admin key: what only the running node can tell a person who asks what is wrong.

use std::time::{SystemTime, UNIX_EPOCH};

use paceline_proto::view::{Member, MemberState};
use serde_json::{Value, json};

use crate::mesh::Mesh;

/// Most members whose addresses are told.
const MEMBERS_MAX: usize = 64;

pub(super) fn doctor(mesh: &Mesh) -> Value {
    let view = mesh.view();
    let me = view.members.get(&view.me);
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall_ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
    let alive = || view.members.iter().filter(|(id, m)| **id != view.me && m.state == MemberState::Alive);
    // A member cannot have started in the future: then one of the two clocks is wrong, by that much at least.
    let ahead_ms = |m: &Member| m.manifest.started_unix_ms.saturating_sub(wall_ms);
    let ahead = alive().max_by_key(|(_, m)| ahead_ms(m)).filter(|(_, m)| ahead_ms(m) > 0);
    let members: Vec<Value> = alive()
        .take(MEMBERS_MAX)
        .map(|(_, m)| json!({ "name": m.name, "addresses": m.manifest.mesh_addresses }))
        .collect();
    json!({
        "dialable": me.is_some_and(|m| m.manifest.dialable),
        "alive": alive().count(),
        "members": members,
        "clock_behind_disk_s": mesh.now().0.saturating_sub(wall.as_secs()),
        "clock_behind_member": ahead.map(|(_, m)| json!({ "name": m.name, "ms": ahead_ms(m) })),
        "certificate": mesh.credential().map(|c| json!({ "not_before": c.not_before.0, "not_after": c.not_after.0 })),
    })
}
