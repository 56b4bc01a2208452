//! What a worker offers, from its first look at the machine to its last service: the half that `up` and `node` share.

use std::sync::Arc;

use paceline_mesh::{
    Mesh,
    process::{Fault, Setup},
};
use tokio::task::JoinSet;

use crate::{config, detect, hardware, services::Desk, worker::Worker};

/// The services of this process, and everything that finds, starts and watches them.
pub struct Offering {
    desk: Desk,
    _hardware: hardware::Monitor,
    /// Ends what follows the configuration and looks for services.
    _watches: [JoinSet<()>; 2],
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
        let follows = config::follow(&desk, setup.settings())?;
        let detection = detect::follow(&desk, setup.settings())?;
        Ok(Self { desk, _hardware: hardware, _watches: [follows, detection] })
    }

    /// Serves what is offered.
    pub fn worker(&self) -> Arc<Worker> {
        self.desk.worker()
    }

    /// Advertises from now on.
    ///
    /// # Errors
    /// The services do not fit a manifest.
    pub async fn advertise(&self, mesh: Mesh) -> Result<(), Fault> {
        self.desk.advertise(mesh).await
    }

    /// Ends every watch; nothing more is offered.
    pub fn close(self) {
        let Self { desk, _hardware, _watches } = self;
        drop(_watches);
        desk.close();
    }
}
