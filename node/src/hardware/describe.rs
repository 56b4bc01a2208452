//! What a worker tells of its machine: type, tier and capabilities in its manifest, the rest at its local API.

use std::sync::Arc;

use paceline_mesh::process::Setup;

use super::{Monitor, capabilities, choose, detect};

/// Reads this machine before it joins: tells the setup its type and capabilities, now and whenever something else is
/// declared, and what `/hardware` is to say.
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
    let latest = monitor.clone();
    setup.set_machine(Arc::new(move |told, declared| {
        let choice = choose(told, declared.get(capabilities::GPU).copied(), &latest.hardware());
        let all = capabilities::merge(&declared, &latest.detected);
        let has: Vec<&str> = all.iter().filter(|(_, value)| **value).map(|(key, _)| key.as_str()).collect();
        let (tier, why, has) = (choice.worker_type.tier(), choice.reason, has.join(", "));
        tracing::info!(r#type = ?choice.worker_type, tier, why, capabilities = has, "worker type");
        (choice.worker_type, all)
    }));
    let latest = monitor.clone();
    setup.set_hardware(Arc::new(move || serde_json::json!(*latest.hardware())));
    monitor
}
