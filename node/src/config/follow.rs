//! Keeps the desk as the flags and the file say, from the start and after each change of the file.

use std::{collections::BTreeMap, sync::Arc};

use paceline_mesh::{
    args::{Loaded, WorkerArgs},
    process::Fault,
};
use paceline_proto::id::ServiceName;
use tokio::{sync::watch, task::JoinSet};

use super::{Detect, max_concurrency, of, schema::FingerprintWord};
use crate::detect::{
    Known,
    known::{Fingerprint, HEALTH},
};
use crate::services::{self, Desk, Origin, ServiceSpec};

/// Refuses, before the node joins, what its token does not let it offer.
///
/// # Errors
/// Which service, and which ones the token allows.
pub fn check_granted(granted: Option<&[ServiceName]>, loaded: &Loaded) -> Result<(), Fault> {
    let Some(granted) = granted else { return Ok(()) };
    let (flags, file) = (services::parse(&loaded.args::<WorkerArgs>()?)?, of(loaded)?);
    let commands = file.commands.iter().map(|(spec, _)| &spec.name);
    let named = flags.iter().chain(file.services.iter().map(|(spec, _)| spec)).map(|spec| &spec.name);
    let mut named = named.chain(commands);
    match named.find(|name| !granted.contains(name)) {
        None => Ok(()),
        Some(other) => {
            let allowed: Vec<_> = granted.iter().map(ServiceName::as_str).collect();
            let allowed = allowed.join(", ");
            Err(Fault::user(format!("the service `{other}` cannot be offered: the join token is bound to {allowed}")))
        }
    }
}

/// Puts on the desk what the flags and the file name, and what the file names after each change. Ends when the returned
/// set is dropped.
///
/// # Errors
/// What is wrong with a flag, in words for the user.
pub fn follow(desk: &Desk, mut settings: watch::Receiver<Arc<Loaded>>) -> Result<JoinSet<()>, Fault> {
    let loaded = settings.borrow_and_update().clone();
    desk.set(Origin::Flag, services::parse(&loaded.args()?)?);
    put(desk, &loaded)?;
    let desk = desk.clone();
    let mut task = JoinSet::new();
    task.spawn(async move {
        while settings.changed().await.is_ok() {
            let loaded = settings.borrow_and_update().clone();
            // It was judged before, so what it refers to has changed since: a directory that is gone.
            if let Err(reason) = put(&desk, &loaded) {
                tracing::warn!(%reason, "the services of the configuration file stay as they were");
            }
        }
    });
    Ok(task)
}

fn put(desk: &Desk, loaded: &Loaded) -> Result<(), Fault> {
    let (file, args) = (of(loaded)?, loaded.args::<WorkerArgs>()?);
    desk.worker().set_max_concurrency(max_concurrency(&args, &file));
    let specs: Vec<ServiceSpec> = file.services.into_iter().map(|(spec, _)| spec).collect();
    desk.set(Origin::Config, specs);
    Ok(())
}

/// The table of what is looked for, as the file changes it.
pub fn known(mut table: Vec<Known>, detect: &BTreeMap<ServiceName, Detect>) -> Vec<Known> {
    table.retain(|known| !detect.contains_key(&known.name));
    table.extend(detect.iter().filter_map(|(name, entry)| match entry {
        Detect::Off => None,
        Detect::Known(told) => Some(Known {
            name: name.clone(),
            hosts: told.hosts.clone(),
            port: told.port.get(),
            health: told.health.clone().unwrap_or_else(|| HEALTH.to_owned()),
            fingerprint: match told.fingerprint {
                FingerprintWord::Named => Fingerprint::Named,
                FingerprintWord::OpenAi => Fingerprint::OpenAi,
                FingerprintWord::Ollama => Fingerprint::Ollama,
            },
            aliases: told.aliases.clone(),
        }),
    }));
    table
}
