//! `GET /api/admin/services`: what can be called, and how well.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{Json, extract::State};
use paceline_proto::view::{ClusterView, Provider};
use serde::Serialize;

use crate::{
    cluster::Cluster,
    lane::Shared,
    pipeline::candidates::{Class, class},
};

/// How well a service can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// All its workers are healthy.
    Available,
    /// Some are not, or say themselves that they are degraded.
    Degraded,
    /// Nobody can be asked.
    Unavailable,
}

impl Status {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Status::Available => "available",
            Status::Degraded => "degraded",
            Status::Unavailable => "unavailable",
        }
    }
}

/// A service in the list.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Summary {
    pub(super) total_workers: usize,
    pub(super) healthy_workers: usize,
    pub(super) status: Status,
    pub(super) sites: BTreeSet<String>,
}

#[derive(Serialize)]
pub(super) struct List {
    services: BTreeMap<String, Summary>,
    total_services: usize,
}

pub(super) async fn services<C: Cluster>(State(shared): State<Arc<Shared<C>>>) -> Json<List> {
    let services = summaries(&shared.cluster.view());
    Json(List { total_services: services.len(), services })
}

pub(super) fn summaries(view: &ClusterView) -> BTreeMap<String, Summary> {
    view.services.iter().map(|(name, providers)| (name.to_string(), summary(providers))).collect()
}

fn summary(providers: &[Arc<Provider>]) -> Summary {
    let count = |wanted: &[Class]| providers.iter().filter(|p| class(p).is_ok_and(|c| wanted.contains(&c))).count();
    let healthy = count(&[Class::Healthy]);
    let usable = count(&[Class::Healthy, Class::Degraded, Class::Suspect]);
    Summary {
        total_workers: providers.len(),
        healthy_workers: healthy,
        status: match (usable, healthy == providers.len()) {
            (0, _) => Status::Unavailable,
            (_, true) => Status::Available,
            (_, false) => Status::Degraded,
        },
        sites: providers.iter().map(|p| p.member.manifest.site.to_string()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::view;
    use paceline_proto::{manifest::Health, view::MemberState};

    #[test]
    fn a_service_is_as_good_as_its_workers() {
        let all = view(|v| {
            v.offer(1, "ok", Health::Healthy);
            v.offer(2, "half", Health::Healthy);
            v.offer(1, "half", Health::Unhealthy);
            v.offer(1, "down", Health::Unhealthy);
            v.offer(1, "weak", Health::Degraded);
            v.offer(3, "missed", Health::Healthy);
            v.state(3, MemberState::Suspect);
        });
        let all = summaries(&all);
        let short = |name: &str| (all[name].total_workers, all[name].healthy_workers, all[name].status);
        assert_eq!(short("ok"), (1, 1, Status::Available));
        assert_eq!(short("half"), (2, 1, Status::Degraded));
        assert_eq!(short("down"), (1, 0, Status::Unavailable));
        assert_eq!(short("weak"), (1, 0, Status::Degraded));
        assert_eq!(short("missed"), (1, 0, Status::Degraded));
        let json = serde_json::to_value(&all["ok"]).expect("json");
        let want =
            serde_json::json!({"total_workers": 1, "healthy_workers": 1, "status": "available", "sites": ["default"]});
        assert_eq!(json, want);
    }
}
