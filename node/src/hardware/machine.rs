//! Processor, memory and disk, by sysinfo and statvfs(3).

use std::{path::PathBuf, thread::available_parallelism};

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::{Cpu, Disk, Hardware, Memory, disk};

/// What is read again and again.
pub(super) struct Machine {
    system: Option<System>,
    model: String,
    directory: PathBuf,
}

impl Machine {
    /// Reads what does not change.
    pub(super) fn new(directory: PathBuf) -> Self {
        let kinds = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
        let system = System::new_with_specifics(kinds).inspect_err(|error| {
            tracing::warn!(%error, "cannot read processor and memory");
        });
        let system = system.ok();
        let brand = system.as_ref().and_then(|s| s.cpus().first()).map(|cpu| cpu.brand().trim().to_owned());
        let model = brand.filter(|brand| !brand.is_empty()).or_else(board);
        Self { system, model: model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()), directory }
    }

    /// Everything but GPUs.
    pub(super) fn read(&mut self) -> Hardware {
        let load = System::load_average().map(|load| [load.one, load.five, load.fifteen]).unwrap_or_default();
        let cores = available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        let cpu = Cpu { model: self.model.clone(), cores, load };
        let disk: Option<Disk> = disk(&self.directory);
        Hardware { cpu, memory: self.memory(), disk, gpus: Vec::new(), no_gpu: None }
    }

    fn memory(&mut self) -> Memory {
        let Some(system) = &mut self.system else { return Memory::default() };
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let (total_bytes, used_bytes) = (system.total_memory(), system.used_memory());
        match system.cgroup_limits() {
            // A container's share of the machine.
            Some(limits) if limits.total_memory > 0 && limits.total_memory < total_bytes => Memory {
                total_bytes: limits.total_memory,
                used_bytes: limits.total_memory.saturating_sub(limits.free_memory),
            },
            _ => Memory { total_bytes, used_bytes },
        }
    }
}

/// What a small board calls itself.
fn board() -> Option<String> {
    let text = std::fs::read_to_string("/proc/device-tree/model").ok()?;
    let model = text.trim_end_matches('\0').trim();
    (!model.is_empty()).then(|| model.to_owned())
}
