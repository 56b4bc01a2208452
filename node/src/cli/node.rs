//! `paceline node`: a worker.

use std::{process::ExitCode, time::Instant};

use clap::Args;
use paceline_mesh::{
    args::{Invocation, Loaded, MeshArgs, ProcessRole, WorkerArgs},
    process::{self, GRACE, Setup},
};

use crate::offering::Offering;

/// What the command line says.
#[derive(Args, Clone, Debug)]
pub(super) struct NodeCommand {
    #[command(flatten)]
    worker: WorkerArgs,
    #[command(flatten)]
    mesh: MeshArgs,
}

pub(super) fn run(_: &NodeCommand, invocation: Invocation, loaded: Loaded) -> ExitCode {
    process::run(ProcessRole::Node, invocation, loaded, async |mut setup: Setup| {
        let offering = Offering::begin(&mut setup).await?;
        let mut running = setup.start(Some(offering.worker()), Some(offering.metrics())).await?;
        offering.advertise(running.mesh().clone()).await?;
        running.ready(None).await?;
        let stop = running.stopped().await?;
        let supervisor = offering.close();
        running.finish(stop, Instant::now() + GRACE).await;
        // Last: requests that run have needed them.
        supervisor.shutdown().await;
        Ok(())
    })
}
