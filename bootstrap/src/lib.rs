//! A small, well-known member: newcomers and members that got lost find the cluster through it.
//!
//! It offers no service and calls none; losing every bootstrap hurts only newcomers.

use std::process::ExitCode;

use clap::Args;
use paceline_mesh::{
    args::{Invocation, Loaded, MeshArgs, ProcessRole},
    process::{self, GRACE, Setup},
};

/// What the command line says.
#[derive(Args, Clone, Debug)]
pub struct BootstrapCommand {
    /// Of the member.
    #[command(flatten)]
    pub mesh: MeshArgs,
}

/// Runs until a signal; `loaded` is what `invocation` says now.
pub fn run(_: &BootstrapCommand, invocation: Invocation, loaded: Loaded) -> ExitCode {
    process::run(ProcessRole::Bootstrap, invocation, loaded, async |setup: Setup| {
        let mut running = setup.start(None, None).await?;
        running.ready(None).await?;
        let stop = running.stopped().await?;
        running.finish(stop, std::time::Instant::now() + GRACE).await;
        Ok(())
    })
}
