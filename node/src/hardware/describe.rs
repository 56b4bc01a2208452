//! What a worker tells of its machine: type, tier and capabilities in its manifest, the rest at its local API.

use std::sync::{Arc, Mutex, PoisonError};

use paceline_mesh::process::Setup;

use super::{Choice, Monitor, capabilities, choose, detect};

/// Reads this machine before it joins, and tells the setup how its type and capabilities follow from what is declared,
/// now and whenever that changes, and what `/hardware` is to say.
pub async fn describe(setup: &mut Setup) -> Monitor {
    let data_dir = setup.data_dir().to_owned();
    let reading = tokio::task::spawn_blocking(move || detect(&data_dir)).await;
    // The blocking pool refuses only while the runtime ends.
    let Ok(monitor) = reading else { return Monitor::unread() };
    let hardware = monitor.hardware();
    tracing::info!("this machine: {}", hardware.summary());
    if let Some(why) = &hardware.no_gpu {
        tracing::info!("no GPU: {why}");
    }
    let (machine, latest) = (monitor.clone(), monitor.clone());
    let said: Mutex<Option<Choice>> = Mutex::new(None);
    setup.set_machine(Arc::new(move |told, declared| {
        let choice = choose(told, declared.get(capabilities::GPU).copied(), &hardware);
        let all = capabilities::merge(&declared, machine.capabilities());
        let worker_type = choice.worker_type;
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.as_ref() != Some(&choice) {
            let has: Vec<&str> = all.iter().filter(|(_, value)| **value).map(|(key, _)| key.as_str()).collect();
            let (tier, why, capabilities) = (worker_type.tier(), &choice.reason, has.join(", "));
            tracing::info!(r#type = ?worker_type, tier, why, capabilities, "worker type");
            *said = Some(choice);
        }
        (worker_type, all)
    }));
    setup.set_hardware(Arc::new(move || serde_json::json!(*latest.hardware())));
    monitor
}
