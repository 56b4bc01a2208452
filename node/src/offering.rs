//! What a worker offers, from its first look at the machine to its last service: the half that `up` and `node` share.

use std::sync::Arc;

use paceline_mesh::{
    Mesh,
    local_api::Metrics,
    process::{Fault, Setup},
};
use tokio::task::JoinSet;

use crate::{
    config, detect, hardware,
    services::Desk,
    supervise::{self, Supervisor},
    worker::Worker,
};

/// The services of this process, and everything that finds, starts and watches them.
pub struct Offering {
    desk: Desk,
    supervisor: Supervisor,
    _hardware: hardware::Monitor,
    /// What follows the configuration and looks for services; ends when dropped.
    _watches: [JoinSet<()>; 3],
}

impl Offering {
    /// Reads the machine and the configuration, and begins to look at services: while the member starts, so that its
    /// first advertisement knows already. Tells `setup` what this machine is.
    ///
    /// # Errors
    /// What is wrong with a flag, the file or the token, in words for the user.
    pub async fn begin(setup: &mut Setup) -> Result<Self, Fault> {
        let loaded = setup.settings().borrow().clone();
        config::check_granted(setup.granted(), &loaded)?;
        let hardware = hardware::describe(setup).await;
        let desk = Desk::new(setup.lanes().count());
        let latest = hardware.clone();
        desk.worker().tell_hardware(Arc::new(move || serde_json::json!(*latest.hardware())));
        let follows = config::follow(&desk, setup.settings())?;
        let detection = detect::follow(&desk, setup.settings())?;
        let supervisor = Supervisor::new(desk.clone(), setup.data_dir());
        setup.set_routes(supervisor.routes());
        let commands = supervise::follow(&supervisor, setup.settings(), hardware.clone());
        Ok(Self { desk, supervisor, _hardware: hardware, _watches: [follows, detection, commands] })
    }

    /// Serves what is offered.
    pub fn worker(&self) -> Arc<Worker> {
        self.desk.worker()
    }

    /// Lines for `/metrics`.
    pub fn metrics(&self) -> Metrics {
        let (worker, supervisor) = (self.worker(), self.supervisor.clone());
        Arc::new(move |out| {
            worker.metrics(out);
            supervisor.metrics(out);
        })
    }

    /// Advertises from now on, and starts what is to be started.
    ///
    /// # Errors
    /// The services do not fit a manifest.
    pub async fn advertise(&self, mesh: Mesh) -> Result<(), Fault> {
        self.worker().know(mesh.watch());
        self.supervisor.begin();
        self.desk.advertise(mesh).await
    }

    /// Ends every watch; nothing more is offered. What was started runs until its supervisor is shut down: requests under
    /// way need it.
    pub fn close(self) -> Supervisor {
        self.desk.close();
        self.supervisor
    }
}
