//! `--type auto`: GPU, CPU or edge, with the reason for the log.

use paceline_mesh::args::TypeArg;
use paceline_proto::manifest::WorkerType;

use super::{Hardware, bytes};

const GIB: u64 = 1024 * 1024 * 1024;
/// Less memory than this makes an edge machine: room for files and caches, not for models.
const EDGE_MEMORY_BYTES: u64 = 2 * GIB;
/// The same, for a machine with one core.
const EDGE_MEMORY_ONE_CORE_BYTES: u64 = 4 * GIB;

/// A worker's type, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The type; its tier follows from it.
    pub worker_type: WorkerType,
    /// For the log.
    pub reason: String,
}

/// What a machine is for: as told, else by its GPU (declared, or seen), else by its size.
pub fn choose(told: TypeArg, declared_gpu: Option<bool>, hardware: &Hardware) -> Choice {
    let choice = |worker_type, reason: String| Choice { worker_type, reason };
    match told {
        TypeArg::Gpu => return choice(WorkerType::Gpu, "told so".to_owned()),
        TypeArg::Cpu => return choice(WorkerType::Cpu, "told so".to_owned()),
        TypeArg::Edge => return choice(WorkerType::Edge, "told so".to_owned()),
        TypeArg::Auto => {}
    }
    match (declared_gpu, hardware.gpus.first()) {
        (Some(true), _) => return choice(WorkerType::Gpu, "the capability gpu is declared".to_owned()),
        (None, Some(gpu)) => return choice(WorkerType::Gpu, format!("it has a GPU, {}", gpu.summary())),
        (Some(false), _) | (None, None) => {}
    }
    let no_gpu = if declared_gpu == Some(false) { "the capability gpu is declared false" } else { "it has no GPU" };
    let (cores, memory) = (hardware.cpu.cores, hardware.memory.total_bytes);
    let least = if cores <= 1 { EDGE_MEMORY_ONE_CORE_BYTES } else { EDGE_MEMORY_BYTES };
    let size = format!("{cores} cores, {}", bytes(memory));
    // Zero is a machine that could not be read.
    if memory > 0 && memory < least {
        return choice(WorkerType::Edge, format!("{no_gpu}, and is small: {size}, less than {}", bytes(least)));
    }
    choice(WorkerType::Cpu, format!("{no_gpu}; {size}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::{Cpu, Gpu, Memory};

    fn machine(cores: u32, gib: u64, gpu: bool) -> Hardware {
        let gpu = gpu.then(|| Gpu {
            name: "NVIDIA H100".to_owned(),
            memory_total_bytes: Some(80 * GIB),
            memory_used_bytes: Some(0),
            utilisation_percent: Some(0),
            driver: "570".to_owned(),
        });
        Hardware {
            cpu: Cpu { cores, ..Cpu::default() },
            memory: Memory { total_bytes: gib * GIB, used_bytes: 0 },
            gpus: gpu.into_iter().collect(),
            ..Hardware::default()
        }
    }

    #[test]
    fn the_type_follows_the_machine_unless_told() {
        for (told, declared, machine, expected, because) in [
            (TypeArg::Auto, None, machine(8, 64, true), WorkerType::Gpu, "NVIDIA H100"),
            (TypeArg::Auto, Some(false), machine(8, 64, true), WorkerType::Cpu, "declared false"),
            (TypeArg::Auto, Some(true), machine(8, 64, false), WorkerType::Gpu, "declared"),
            (TypeArg::Auto, None, machine(8, 64, false), WorkerType::Cpu, "no GPU"),
            (TypeArg::Auto, None, machine(4, 1, false), WorkerType::Edge, "small"),
            (TypeArg::Auto, None, machine(1, 3, false), WorkerType::Edge, "small"),
            (TypeArg::Auto, None, machine(1, 4, false), WorkerType::Cpu, "no GPU"),
            (TypeArg::Auto, None, machine(1, 0, false), WorkerType::Cpu, "no GPU"),
            (TypeArg::Edge, None, machine(8, 64, true), WorkerType::Edge, "told so"),
            (TypeArg::Cpu, None, machine(8, 64, true), WorkerType::Cpu, "told so"),
            (TypeArg::Gpu, None, machine(1, 1, false), WorkerType::Gpu, "told so"),
        ] {
            let choice = choose(told, declared, &machine);
            assert_eq!(choice.worker_type, expected, "{choice:?}");
            assert!(choice.reason.contains(because), "{choice:?}");
        }
    }
}
