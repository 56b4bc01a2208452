//! `paceline node`: a worker.

use std::{process::ExitCode, sync::Arc, time::Instant};

use clap::Args;
use paceline_mesh::{
    args::{Invocation, Loaded, MeshArgs, ProcessRole, WorkerArgs},
    process::{self, GRACE, Setup},
};

use crate::{config, services::Desk};

/// What the command line says.
#[derive(Args, Clone, Debug)]
pub(super) struct NodeCommand {
    #[command(flatten)]
    worker: WorkerArgs,
    #[command(flatten)]
    mesh: MeshArgs,
}

pub(super) fn run(_: &NodeCommand, invocation: Invocation, loaded: Loaded) -> ExitCode {
    process::run(ProcessRole::Node, invocation, loaded, async |setup: Setup| {
        config::check_granted(setup.granted(), &setup.settings().borrow())?;
        let desk = Desk::new(setup.lanes().count());
        // Looks while the member joins, so that the first advertisement knows already.
        let follows = config::follow(&desk, setup.settings())?;
        let (worker, metrics) = (desk.worker(), desk.worker());
        let mut running = setup.start(Some(worker), Some(Arc::new(move |out| metrics.metrics(out)))).await?;
        desk.advertise(running.mesh().clone()).await?;
        running.ready(None).await?;
        let stop = running.stopped().await?;
        drop(follows);
        desk.close();
        running.finish(stop, Instant::now() + GRACE).await;
        Ok(())
    })
}
