//! The state of one lane, and what all lanes share. On the way of a request a lane takes no lock that another lane
//! holds.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use paceline_mesh::http::ServiceHandler;
use paceline_proto::{id::ServiceName, view::ClusterView};

use crate::{
    GatewayConfig, admin,
    callers::House,
    cluster::Cluster,
    metrics::LaneStats,
    pipeline::{
        candidates::{self, Here, Route},
        eject::Outliers,
        find::Finder,
    },
    serve::Life,
};

/// Most services whose routes a lane remembers; beyond it, it forgets all and looks them up again.
const ROUTES_MAX: usize = 4096;

/// What all lanes share.
pub(crate) struct Shared<C: Cluster> {
    pub(crate) cluster: C,
    pub(crate) house: House,
    pub(crate) first_byte_timeout: Duration,
    pub(crate) outliers: Outliers,
    pub(crate) finder: Finder,
    pub(crate) stats: Vec<Arc<LaneStats>>,
    pub(crate) clients: Vec<C::Client>,
    pub(crate) local: Option<Arc<dyn ServiceHandler>>,
    pub(crate) started: Instant,
    pub(crate) hardware: admin::Hardware,
}

/// One lane.
pub(crate) struct Lane<C: Cluster> {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared<C>>,
    pub(crate) client: C::Client,
    pub(crate) stats: Arc<LaneStats>,
    pub(crate) router: axum::Router,
    pub(crate) life: Life,
    routes: Mutex<HashMap<ServiceName, Arc<Route>>>,
    random: AtomicU64,
}

/// The lanes of a gateway, not yet serving.
pub(crate) fn build<C: Cluster>(
    config: GatewayConfig,
    address: SocketAddr,
    cluster: C,
    count: usize,
    local: Option<Arc<dyn ServiceHandler>>,
) -> Vec<Lane<C>> {
    let house = House {
        on_loopback: address.ip().is_loopback(),
        admin_key: config.admin_key.trim().into(),
        callers: config.callers,
    };
    let shared = Arc::new(Shared {
        house,
        first_byte_timeout: config.first_byte_timeout,
        outliers: Outliers::new(count),
        finder: Finder::default(),
        stats: (0..count).map(|_| Arc::new(LaneStats::new(count))).collect(),
        clients: (0..count).map(|lane| cluster.client(lane)).collect(),
        local,
        started: Instant::now(),
        hardware: admin::Hardware::default(),
        cluster,
    });
    let router = admin::router(shared.clone());
    (0..count)
        .map(|index| Lane {
            index,
            client: shared.clients[index].clone(),
            stats: shared.stats[index].clone(),
            router: router.clone(),
            life: Life::default(),
            routes: Mutex::default(),
            random: AtomicU64::new(rand::random()),
            shared: shared.clone(),
        })
        .collect()
}

impl<C: Cluster> Lane<C> {
    /// Who can serve, as the newest view says; made once for each service and view.
    pub(crate) fn route(&self, service: &str) -> Option<Arc<Route>> {
        let view: Arc<ClusterView> = self.shared.cluster.view();
        let mut routes = lock(&self.routes);
        if let Some(route) = routes.get(service)
            && route.generation == view.generation
        {
            return Some(route.clone());
        }
        let Some((name, providers)) = view.services.get_key_value(service) else {
            routes.remove(service);
            return None;
        };
        if routes.len() >= ROUTES_MAX {
            routes.clear();
        }
        let stats = self.stats.service(name);
        let here = Here {
            has_local: self.shared.local.is_some(),
            outliers: &self.shared.outliers,
            first_byte: self.shared.first_byte_timeout,
        };
        let route = Arc::new(candidates::route(&view, name, providers, &here, stats));
        routes.insert(name.clone(), route.clone());
        Some(route)
    }

    /// 64 random bits: for choices and ids, not for secrets (splitmix64 over a counter).
    pub(crate) fn draw(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.random.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// A lock whose holder cannot leave half a change behind: a panic elsewhere is no reason to stop serving.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
