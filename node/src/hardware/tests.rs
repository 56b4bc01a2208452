use super::*;
use std::time::Instant;

fn gpu(used: u64) -> Gpu {
    Gpu {
        name: "Fake 9000".to_owned(),
        memory_total_bytes: Some(24 << 30),
        memory_used_bytes: Some(used),
        utilisation_percent: Some(7),
        driver: "1.2".to_owned(),
    }
}

struct Fake(Result<Vec<Gpu>, String>);

impl Gpus for Fake {
    fn read(&mut self) -> Result<Vec<Gpu>, String> {
        self.0.clone()
    }
}

fn with(answer: Result<Vec<Gpu>, String>) -> Monitor {
    monitor(Path::new("/"), Box::new(move || Ok(Box::new(Fake(answer)))))
}

#[test]
fn a_gpu_is_seen_and_is_a_capability() {
    let monitor = with(Ok(vec![gpu(5)]));
    let hardware = monitor.hardware();
    assert_eq!((hardware.gpus.as_slice(), &hardware.no_gpu), ([gpu(5)].as_slice(), &None));
    assert_eq!(monitor.capabilities().get(capabilities::GPU), Some(&true));
    assert!(hardware.summary().contains("Fake 9000 (24.0 GiB, driver 1.2)"), "{}", hardware.summary());
}

#[test]
fn this_machine_can_be_read() {
    let monitor = monitor(Path::new("/no/such/directory"), Box::new(|| Err("none here".to_owned())));
    let hardware = monitor.hardware();
    assert!(!hardware.cpu.model.is_empty() && hardware.cpu.cores > 0);
    assert!(hardware.memory.total_bytes > hardware.memory.used_bytes && hardware.memory.used_bytes > 0);
    assert!(hardware.disk.is_some_and(|disk| disk.total_bytes > 0));
    assert_eq!(hardware.no_gpu.as_deref(), Some("none here"));
    let keys: Vec<&str> = monitor.capabilities().keys().map(String::as_str).collect();
    assert_eq!(keys, ["docker", "gpu", "network_access", "privileged"]);
    let text = serde_json::to_string(&*hardware).unwrap();
    assert_eq!(serde_json::from_str::<Hardware>(&text).unwrap().memory, hardware.memory);
}

#[test]
fn a_driver_that_fails_or_hangs_leaves_a_cpu_machine() {
    let failed = with(Err("fell off the bus".to_owned()));
    assert_eq!(failed.hardware().no_gpu.as_deref(), Some("fell off the bus"));
    assert_eq!(with(Ok(Vec::new())).hardware().no_gpu.as_deref(), Some("the driver knows of none"));
    let (release, held) = mpsc::channel::<()>();
    let started = Instant::now();
    let hanging = monitor(
        Path::new("/"),
        Box::new(move || {
            let _ = held.recv();
            Err("late".to_owned())
        }),
    );
    assert!(started.elapsed() < FIRST_READING * 2);
    let hardware = hanging.hardware();
    assert!(hardware.no_gpu.as_deref().is_some_and(|why| why.contains("no answer within")), "{hardware:?}");
    assert!(hardware.cpu.cores > 0 && hardware.memory.total_bytes > 0, "the rest is known");
    assert_eq!(hanging.capabilities().get(capabilities::GPU), Some(&false));
    drop(release);
}

#[test]
fn figures_for_people() {
    for (value, text) in
        [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (16 << 30, "16.0 GiB"), (u64::MAX, "16384.0 PiB")]
    {
        assert_eq!(bytes(value), text);
    }
}
