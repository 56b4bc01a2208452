//! A gateway as a process of its own: `paceline gateway` and `paceline-gateway`.

use std::{process::ExitCode, sync::Arc, time::Instant};

use clap::Args;
use paceline_mesh::{
    args::{GatewayArgs, Invocation, Loaded, MeshArgs, ProcessRole},
    process::{self, Fault, GRACE, Setup},
};

use crate::{Callers, FIRST_BYTE_TIMEOUT, Gateway, GatewayConfig, Listeners};

/// What the command line says.
#[derive(Args, Clone, Debug)]
pub struct GatewayCommand {
    /// Of the front.
    #[command(flatten)]
    pub gateway: GatewayArgs,
    /// Of the member.
    #[command(flatten)]
    pub mesh: MeshArgs,
}

/// Runs until a signal; `loaded` is what `invocation` says now.
pub fn run(args: &GatewayCommand, invocation: Invocation, loaded: Loaded) -> ExitCode {
    process::run(ProcessRole::Gateway, invocation, loaded, async |setup: Setup| {
        let callers = Arc::new(Callers::open(&args.gateway, setup.data_dir()).map_err(Fault::user)?);
        let listeners = Listeners::bind(args.gateway.bind(), setup.lanes().count(), &callers).map_err(Fault::user)?;
        let lanes = setup.lanes().clone();
        let http = listeners.address();
        let mut running = setup.start(None, None).await?;
        let config = GatewayConfig {
            callers,
            admin_key: running.admin_key().to_owned(),
            first_byte_timeout: FIRST_BYTE_TIMEOUT,
        };
        let gateway = Gateway::start(config, listeners, running.mesh().clone(), &lanes, None).map_err(Fault::user)?;
        running.ready(Some(http)).await?;
        let stop = running.stopped().await?;
        let deadline = Instant::now() + GRACE;
        gateway.shutdown(GRACE).await;
        running.finish(stop, deadline).await;
        Ok(())
    })
}
