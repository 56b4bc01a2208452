//! `paceline up`: gateway and worker in one process; founds a cluster, goes on with it, or joins one as a gateway.

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use paceline_gateway::{Callers, FIRST_BYTE_TIMEOUT, Gateway, GatewayConfig, Listeners};
use paceline_mesh::{
    args::{GatewayArgs, Invocation, Loaded, MeshArgs, ProcessRole, WorkerArgs},
    process::{self, Fault, GRACE, Setup},
};

use crate::offering::Offering;

/// What the command line says.
#[derive(Args, Clone, Debug)]
pub(super) struct UpCommand {
    #[command(flatten)]
    worker: WorkerArgs,
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(flatten)]
    mesh: MeshArgs,
}

pub(super) fn run(args: &UpCommand, invocation: Invocation, loaded: Loaded) -> ExitCode {
    process::run(ProcessRole::Up, invocation, loaded, async |mut setup: Setup| {
        let callers = Arc::new(Callers::open(&args.gateway, setup.data_dir()).map_err(Fault::user)?);
        let lanes = setup.lanes().clone();
        let listeners = Listeners::bind(args.gateway.bind(), lanes.count(), &callers).map_err(Fault::user)?;
        let http = listeners.address();
        let offering = Offering::begin(&mut setup).await?;
        let worker = offering.worker();
        let mut running = setup.start(Some(worker.clone()), Some(offering.metrics())).await?;
        let config = GatewayConfig {
            callers,
            admin_key: running.admin_key().to_owned(),
            first_byte_timeout: FIRST_BYTE_TIMEOUT,
        };
        let gateway =
            Gateway::start(config, listeners, running.mesh().clone(), &lanes, Some(worker)).map_err(Fault::user)?;
        offering.advertise(running.mesh().clone()).await?;
        running.ready(Some(http)).await?;
        let stop = running.stopped().await?;
        let deadline = Instant::now() + GRACE;
        let supervisor = offering.close();
        // The front first: its requests need both planes.
        gateway.shutdown(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))).await;
        running.finish(stop, deadline).await;
        // Last: requests that run have needed them.
        supervisor.shutdown().await;
        Ok(())
    })
}
