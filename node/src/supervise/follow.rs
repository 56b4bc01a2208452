//! Keeps the supervisor as the configuration file says, from the start and after each change of the file.

use std::sync::Arc;

use paceline_mesh::args::{Loaded, MeshArgs};
use tokio::{sync::watch, task::JoinSet};

use super::{CommandSpec, Gpu, Machine, Supervisor};
use crate::{
    config,
    hardware::{Monitor, capabilities, choose},
};

/// Runs what the file names and what fits, now and after each change. Ends when the returned set is dropped; the services
/// go on.
pub fn follow(supervisor: &Supervisor, mut settings: watch::Receiver<Arc<Loaded>>, hardware: Monitor) -> JoinSet<()> {
    let put = move |supervisor: &Supervisor, loaded: &Loaded| match config::of(loaded) {
        Ok(file) => {
            let specs: Vec<CommandSpec> = file.commands.into_iter().map(|(spec, _)| spec).collect();
            supervisor.set(specs, &machine(loaded, &hardware));
        }
        // It was judged before, so what it refers to has changed since: a directory that is gone.
        Err(reason) => tracing::warn!(%reason, "the services that this node starts stay as they were"),
    };
    put(supervisor, &settings.borrow_and_update().clone());
    let supervisor = supervisor.clone();
    let mut task = JoinSet::new();
    task.spawn(async move {
        while settings.changed().await.is_ok() {
            let loaded = settings.borrow_and_update().clone();
            put(&supervisor, &loaded);
        }
    });
    task
}

/// The machine as it was found and as it was declared.
fn machine(loaded: &Loaded, monitor: &Monitor) -> Machine {
    let hardware = monitor.hardware();
    let declared = loaded.capabilities();
    let told = loaded.args::<MeshArgs>().map(|args| args.worker_type).unwrap_or_default();
    let choice = choose(told, declared.get(capabilities::GPU).copied(), &hardware);
    let ram_bytes = hardware.memory.total_bytes;
    let gpu = |gpu: &crate::hardware::Gpu| Gpu {
        name: gpu.name.clone(),
        // One without memory of its own uses the machine's.
        memory_bytes: gpu.memory_total_bytes.unwrap_or(ram_bytes),
    };
    Machine {
        worker_type: choice.worker_type,
        gpus: hardware.gpus.iter().map(gpu).collect(),
        ram_bytes,
        cpus: hardware.cpu.cores,
        labels: loaded.labels(),
        capabilities: capabilities::merge(&declared, monitor.capabilities()),
    }
}
