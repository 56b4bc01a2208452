//! What this machine is: processor, memory, disk, GPUs, read every ten seconds on a thread of its own, so that a slow
//! driver never holds up a request; and what follows from it ([`choose()`], [`capabilities`], [`profile`]).
//!
//! Readers get snapshots without a lock. A machine without a GPU, or without its driver, is a CPU machine, which one
//! line in the log says.

pub mod capabilities;
mod choose;
mod describe;
mod gpu;
mod machine;
pub mod profile;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

pub use choose::{Choice, choose};
pub use describe::describe;
pub(crate) use gpu::nvidia_is_there;
pub use gpu::{Gpu, Gpus};

/// Between two readings.
const REFRESH: Duration = Duration::from_secs(10);
/// How long a start waits for the first reading: a driver that hangs is not waited for.
const FIRST_READING: Duration = Duration::from_secs(3);

/// A reading.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hardware {
    /// The processor.
    pub cpu: Cpu,
    /// Main memory, within what the cgroup allows.
    pub memory: Memory,
    /// The file system of the data directory; `None` where it cannot be read.
    pub disk: Option<Disk>,
    /// NVIDIA's, as their driver numbers them.
    pub gpus: Vec<Gpu>,
    /// Why there are none.
    pub no_gpu: Option<String>,
}

/// The processor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// As it calls itself, or the architecture.
    pub model: String,
    /// That this process may use, by affinity and cgroup quota.
    pub cores: u32,
    /// Of 1, 5 and 15 minutes: processes that ran or waited to run (getloadavg(3)).
    pub load: [f64; 3],
}

/// Main memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Bytes.
    pub total_bytes: u64,
    /// Bytes.
    pub used_bytes: u64,
}

/// A file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Bytes.
    pub total_bytes: u64,
    /// Bytes that an unprivileged process may still write.
    pub free_bytes: u64,
}

impl Hardware {
    /// What it is, in one line.
    pub fn summary(&self) -> String {
        let mut words =
            format!("{} ({} cores), {} of memory", self.cpu.model, self.cpu.cores, bytes(self.memory.total_bytes));
        for gpu in &self.gpus {
            words.push_str(", ");
            words.push_str(&gpu.summary());
        }
        words
    }
}

/// Bytes for people: `16.0 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    // Rounding a figure for people.
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// The readings of this machine, as long as a handle lives. Cheap to clone.
#[derive(Clone)]
pub struct Monitor {
    latest: Arc<ArcSwap<Hardware>>,
    detected: Arc<BTreeMap<String, bool>>,
    /// The thread ends with the last one.
    _stop: mpsc::Sender<()>,
}

impl Monitor {
    fn unread() -> Self {
        Self { latest: Arc::default(), detected: Arc::default(), _stop: mpsc::channel().0 }
    }

    /// The last reading; no lock, no system call.
    pub fn hardware(&self) -> Arc<Hardware> {
        self.latest.load_full()
    }

    /// What was detected at the start: `docker`, `gpu`, `network_access`, `privileged`.
    pub fn capabilities(&self) -> &BTreeMap<String, bool> {
        &self.detected
    }
}

/// Reads this machine now, and again every ten seconds. Waits at most three seconds for the GPUs' driver.
pub fn detect(data_dir: &Path) -> Monitor {
    monitor(data_dir, Box::new(gpu::nvml))
}

/// Opens the way to the GPUs, or says why there are none.
type Open = Box<dyn FnOnce() -> Result<Box<dyn Gpus>, String> + Send>;

fn monitor(data_dir: &Path, open: Open) -> Monitor {
    let slow = format!("the GPUs' driver gave no answer within {} s", FIRST_READING.as_secs());
    let unread = Hardware { no_gpu: Some(slow), ..Hardware::default() };
    let latest = Arc::new(ArcSwap::from_pointee(unread));
    let (stop, stopped) = mpsc::channel();
    let (told, first) = mpsc::sync_channel(1);
    let (shared, data_dir) = (latest.clone(), data_dir.to_owned());
    let thread = std::thread::Builder::new().name("hardware".to_owned());
    let spawned = thread.spawn(move || read_until(&shared, &data_dir, open, &told, &stopped));
    let mut detected = BTreeMap::new();
    match spawned.map(|_detached| first.recv_timeout(FIRST_READING)) {
        Ok(Ok(())) => detected = capabilities::detect(&latest.load()),
        // Whatever the driver does, the rest is known.
        Ok(Err(_)) => detected = capabilities::detect(&latest.load()),
        Err(error) => tracing::warn!(%error, "cannot read the hardware"),
    }
    Monitor { latest, detected: Arc::new(detected), _stop: stop }
}

/// The thread.
fn read_until(
    latest: &ArcSwap<Hardware>,
    data_dir: &Path,
    open: Open,
    told: &mpsc::SyncSender<()>,
    stopped: &mpsc::Receiver<()>,
) {
    let mut machine = machine::Machine::new(nearest(data_dir));
    let no_gpu = latest.load().no_gpu.clone();
    latest.store(Arc::new(Hardware { no_gpu, ..machine.read() }));
    let mut gpus = open();
    let mut said: Option<String> = None;
    loop {
        let mut hardware = machine.read();
        let read = match &mut gpus {
            Ok(source) => source.read(),
            Err(why) => Err(why.clone()),
        };
        match read {
            Ok(found) if found.is_empty() => hardware.no_gpu = Some("the driver knows of none".to_owned()),
            Ok(found) => hardware.gpus = found,
            Err(why) => hardware.no_gpu = Some(why),
        }
        let no_gpu = hardware.no_gpu.clone();
        latest.store(Arc::new(hardware));
        // The first reading is told of by whoever waits for it; after it, a GPU that is lost or comes back.
        if told.try_send(()).is_err() && no_gpu != said {
            match &no_gpu {
                Some(why) => tracing::warn!("the GPUs cannot be read any more: {why}"),
                None => tracing::info!("the GPUs can be read"),
            }
        }
        said = no_gpu;
        match stopped.recv_timeout(REFRESH) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The directory, or the nearest one above it that is there.
pub(crate) fn nearest(directory: &Path) -> PathBuf {
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    absolute.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// The file system of a directory that is there.
pub(crate) fn disk(directory: &Path) -> Option<Disk> {
    let stat = rustix::fs::statvfs(directory).ok()?;
    let size = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some(Disk { total_bytes: size(stat.f_blocks), free_bytes: size(stat.f_bavail) })
}

#[cfg(test)]
mod tests;
