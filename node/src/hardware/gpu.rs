//! NVIDIA GPUs, by NVML: the driver's library is loaded at run time, so that one binary runs with and without it.

use nvml_wrapper::{Nvml, error::NvmlError};
use serde::{Deserialize, Serialize};

use super::bytes;

/// Most GPUs of one machine.
const GPUS_MAX: u32 = 64;
/// NVIDIA's number among PCI vendors.
const PCI_NVIDIA: &str = "0x10de";
/// AMD's.
const PCI_AMD: &str = "0x1002";
/// PCI classes of display controllers begin so.
const PCI_DISPLAY: &str = "0x03";

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// As the driver names it.
    pub name: String,
    /// Bytes; `None` where it shares the machine's memory.
    pub memory_total_bytes: Option<u64>,
    /// Bytes.
    pub memory_used_bytes: Option<u64>,
    /// Per cent of the last sample period in which it worked; `None` where the driver does not tell.
    pub utilisation_percent: Option<u32>,
    /// Version of the driver.
    pub driver: String,
}

impl Gpu {
    /// What it is, in a few words.
    pub(super) fn summary(&self) -> String {
        match self.memory_total_bytes {
            Some(total) => format!("{} ({}, driver {})", self.name, bytes(total), self.driver),
            None => format!("{} (driver {})", self.name, self.driver),
        }
    }
}

/// The way to the GPUs; a fake one in tests.
pub trait Gpus: Send {
    /// All of them now. May block for as long as the driver does.
    ///
    /// # Errors
    /// In words: the driver does not answer as it should.
    fn read(&mut self) -> Result<Vec<Gpu>, String>;
}

/// Loads NVML.
///
/// # Errors
/// Why there is no GPU to see, with what can be done about it.
pub(super) fn nvml() -> Result<Box<dyn Gpus>, String> {
    let nvml = Nvml::init().map_err(|error| absent(&error, &display_vendors()))?;
    let driver = nvml.sys_driver_version().map_err(|e| format!("the NVIDIA driver does not tell its version: {e}"))?;
    Ok(Box::new(Driver { nvml, driver }))
}

struct Driver {
    nvml: Nvml,
    driver: String,
}

impl Gpus for Driver {
    fn read(&mut self) -> Result<Vec<Gpu>, String> {
        let words = |e: NvmlError| format!("the NVIDIA driver says: {e}");
        let count = self.nvml.device_count().map_err(words)?.min(GPUS_MAX);
        let gpu = |index| {
            let device = self.nvml.device_by_index(index).map_err(words)?;
            // Boards that share the machine's memory tell none of their own.
            let memory = device.memory_info().ok();
            Ok(Gpu {
                name: device.name().map_err(words)?,
                memory_total_bytes: memory.as_ref().map(|m| m.total),
                memory_used_bytes: memory.as_ref().map(|m| m.used),
                utilisation_percent: device.utilization_rates().ok().map(|u| u.gpu),
                driver: self.driver.clone(),
            })
        };
        (0..count).map(gpu).collect()
    }
}

/// Why NVML cannot be used, from its own word and from the display controllers on the PCI bus.
fn absent(error: &NvmlError, vendors: &[String]) -> String {
    let nvidia = vendors.iter().any(|vendor| vendor == PCI_NVIDIA);
    let amd = vendors.iter().any(|vendor| vendor == PCI_AMD);
    match error {
        NvmlError::LibloadingError(_) if nvidia => {
            "an NVIDIA GPU is there, but its driver is not installed here (libnvidia-ml.so.1 is missing): install it, \
             or give the container its GPU (--gpus all)"
                .to_owned()
        }
        NvmlError::LibloadingError(_) if amd => "only an AMD GPU is there, and only NVIDIA's are read".to_owned(),
        NvmlError::LibloadingError(_) => "no NVIDIA driver is installed".to_owned(),
        NvmlError::DriverNotLoaded => "the NVIDIA driver is installed, but its kernel module is not loaded".to_owned(),
        NvmlError::LibRmVersionMismatch => {
            "the NVIDIA driver was updated, and its kernel module is the old one: restart the machine".to_owned()
        }
        NvmlError::NoPermission => "this user may not open the NVIDIA driver".to_owned(),
        other => format!("the NVIDIA driver says: {other}"),
    }
}

/// Whether an NVIDIA GPU sits on the PCI bus, with or without its driver.
pub(crate) fn nvidia_is_there() -> bool {
    display_vendors().iter().any(|vendor| vendor == PCI_NVIDIA)
}

/// The vendors of the display controllers on the PCI bus.
fn display_vendors() -> Vec<String> {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let devices = std::fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().filter_map(Result::ok);
    let display =
        devices.filter(|device| read(device.path().join("class")).is_some_and(|class| class.starts_with(PCI_DISPLAY)));
    display.filter_map(|device| read(device.path().join("vendor"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_says_what_to_do() {
        let vendors = |list: &[&str]| list.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
        let words = absent(&NvmlError::LibRmVersionMismatch, &vendors(&[PCI_NVIDIA]));
        assert!(words.contains("restart"), "{words}");
        assert!(absent(&NvmlError::DriverNotLoaded, &[]).contains("module"));
        assert!(absent(&NvmlError::Unknown, &[]).contains("the NVIDIA driver says"));
        let Err(error) = Nvml::builder().lib_path("no-such-library.so".as_ref()).init() else {
            unreachable!("there is no such library")
        };
        assert_eq!(absent(&error, &[]), "no NVIDIA driver is installed");
        assert!(absent(&error, &vendors(&[PCI_NVIDIA])).contains("--gpus all"));
        assert!(absent(&error, &vendors(&[PCI_AMD])).contains("AMD"));
    }

    #[test]
    fn the_real_loader_answers_on_any_machine() {
        match nvml() {
            Ok(mut gpus) => println!("GPUs: {:?}", gpus.read().unwrap()),
            Err(why) => {
                println!("no GPU: {why}");
                assert!(!why.is_empty());
            }
        }
    }
}
