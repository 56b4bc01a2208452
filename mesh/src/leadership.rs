//! Who leads, in the words of every API: one place, so that a gateway and a node never say it differently.

use std::fmt::Write;

use paceline_proto::view::{ClusterView, MemberState};
use serde_json::{Value, json};

/// The leader's name, as worker ids are; `None` where there is no leader, or this node does not know it as a member.
pub fn leader(view: &ClusterView) -> Option<&str> {
    let leader = view.leadership.leader?;
    view.members.get(&leader).map(|member| member.name.as_str())
}

/// The age of the leader's last summary in seconds, to thousandths.
pub fn summary_age_s(view: &ClusterView) -> Option<f64> {
    view.leadership.summary_at.map(|at| (at.elapsed().as_secs_f64() * 1000.0).round() / 1000.0)
}

/// `GET /api/admin/cluster` of a gateway, and `GET /cluster` of every process: what it believes. `term` and `seq` are
/// null until a leader is known, `summary_age_s` until a summary of it came; `members` are those not known to be gone,
/// `healthy` those of them that are alive.
pub fn cluster(view: &ClusterView) -> Value {
    let count = |state| view.members.values().filter(|m| m.state == state).count();
    let (alive, known) = (count(MemberState::Alive), view.leadership.leader.is_some());
    json!({
        "cluster_id": view.cluster.to_string(),
        "leader": leader(view),
        "term": known.then_some(view.leadership.term),
        "seq": known.then_some(view.leadership.seq),
        "members": alive + count(MemberState::Suspect),
        "healthy": alive,
        "summary_age_s": summary_age_s(view),
        "writes_today": view.leadership.writes_today,
    })
}

/// Appends the same to `/metrics`, in Prometheus' text format 0.0.4.
pub fn metrics(view: &ClusterView, out: &mut String) {
    let at = &view.leadership;
    let mut gauge = |name: &str, help: &str, labels: &str, value: &dyn std::fmt::Display| {
        // writing to a String cannot fail
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name}{labels} {value}");
    };
    if let Some(name) = leader(view) {
        gauge("paceline_leader", "Who leads, as this node sees it.", &format!("{{worker=\"{name}\"}}"), &1);
    }
    gauge("paceline_leading", "Whether this node leads.", "", &u8::from(at.leader == Some(view.me)));
    gauge("paceline_leader_term", "The leader's term.", "", &at.term);
    gauge("paceline_leader_takeovers", "Times that the lead was taken over within the term.", "", &at.takeovers);
    gauge("paceline_summary_seq", "Number of the leader's last summary.", "", &at.seq);
    if let Some(age) = summary_age_s(view) {
        gauge("paceline_summary_age_seconds", "Age of the leader's last summary.", "", &age);
    }
    gauge("paceline_summary_alive", "Members alive, as the leader's last summary says.", "", &at.alive);
    gauge("paceline_summary_writes_today", "Writes to the stored summary since midnight UTC.", "", &at.writes_today);
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        time::{Duration, Instant},
    };

    use paceline_proto::{
        id::{ClusterId, NodeId},
        view::Leadership,
    };

    use super::*;

    fn view(leadership: Leadership) -> ClusterView {
        ClusterView {
            generation: 1,
            cluster: ClusterId::from_bytes([1; 32]),
            me: NodeId::from_bytes([2; 32]),
            leadership,
            members: BTreeMap::new(),
            services: BTreeMap::new(),
        }
    }

    #[test]
    fn nothing_is_claimed_before_there_is_a_leader() {
        let fields = cluster(&view(Leadership::default()));
        for null in ["leader", "term", "seq", "summary_age_s"] {
            assert!(fields[null].is_null(), "{null}: {fields}");
        }
        assert_eq!(fields["writes_today"], 0);
    }

    #[test]
    fn a_leader_is_told_with_the_age_of_its_word() {
        let me = NodeId::from_bytes([2; 32]);
        let summary_at = Instant::now().checked_sub(Duration::from_secs(3));
        let view = view(Leadership {
            leader: Some(me),
            term: 7,
            takeovers: 1,
            seq: 41,
            summary_at,
            alive: 5,
            writes_today: 2,
        });
        let fields = cluster(&view);
        assert_eq!((&fields["term"], &fields["seq"], &fields["writes_today"]), (&json!(7), &json!(41), &json!(2)));
        assert!(fields["summary_age_s"].as_f64().is_some_and(|age| (3.0..60.0).contains(&age)), "{fields}");
        assert!(fields["leader"].is_null(), "nobody of that id is a member here");
        let mut text = String::new();
        metrics(&view, &mut text);
        for line in ["paceline_leading 1", "paceline_leader_term 7", "paceline_summary_seq 41"] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
