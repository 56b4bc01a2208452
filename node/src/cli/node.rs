//! `paceline node`: a worker.

use std::{process::ExitCode, sync::Arc, time::Instant};

use clap::Args;
use paceline_mesh::{
    args::{MeshArgs, ProcessRole, WorkerArgs},
    process::{self, GRACE, Setup},
};

use crate::{
    services::{self, Prober},
    worker::Worker,
};

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
        let worker = Arc::new(Worker::new(&specs, setup.lanes().count())?);
        // Looks while the member joins, so that the first advertisement knows already.
        let prober = Prober::start(specs);
        let metrics = worker.clone();
        let mut running = setup.start(Some(worker), Some(Arc::new(move |out| metrics.metrics(out)))).await?;
        let probes = prober.advertise(running.mesh().clone()).await?;
        running.ready(None).await?;
        let stop = running.stopped().await?;
        drop(probes);
        running.finish(stop, Instant::now() + GRACE).await;
        Ok(())
    })
}
