//! `paceline node`: a worker.

use std::{process::ExitCode, sync::Arc, time::Instant};

use clap::Args;
use paceline_mesh::{
    args::{MeshArgs, ProcessRole, WorkerArgs},
    process::{self, GRACE, Setup},
};

use crate::services::{self, Desk, Origin};

/// What the command line says.
#[derive(Args, Clone, Debug)]
pub(super) struct NodeCommand {
    #[command(flatten)]
    worker: WorkerArgs,
    #[command(flatten)]
    mesh: MeshArgs,
}

pub(super) fn run(args: &NodeCommand) -> ExitCode {
    process::run(ProcessRole::Node, &args.mesh, async |setup: Setup| {
        let specs = services::parse(&args.worker)?;
        let desk = Desk::new(setup.lanes().count());
        // Looks while the member joins, so that the first advertisement knows already.
        desk.set(Origin::Flag, specs);
        let (worker, metrics) = (desk.worker(), desk.worker());
        let mut running = setup.start(Some(worker), Some(Arc::new(move |out| metrics.metrics(out)))).await?;
        desk.advertise(running.mesh().clone()).await?;
        running.ready(None).await?;
        let stop = running.stopped().await?;
        desk.close();
        running.finish(stop, Instant::now() + GRACE).await;
        Ok(())
    })
}
