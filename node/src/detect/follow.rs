//! Detection as the flags and the file say, from the start and after each change of the file: `--no-detect`, and the
//! rows of `[detect]` over the built-in table.

use std::sync::Arc;

use paceline_mesh::{
    args::{Loaded, WorkerArgs},
    process::Fault,
};
use tokio::{sync::watch, task::JoinSet};

use super::{Known, Options, known::built_in, start};
use crate::{
    config,
    services::{Desk, Origin},
};

/// Looks for services and hands them to the desk. Ends when the returned set is dropped.
///
/// # Errors
/// What is wrong with the flags or the file, in words for the user.
pub fn follow(desk: &Desk, mut settings: watch::Receiver<Arc<Loaded>>) -> Result<JoinSet<()>, Fault> {
    let mut table = table(&settings.borrow_and_update())?;
    let desk = desk.clone();
    let mut looks = begin(&table, &desk);
    let mut task = JoinSet::new();
    task.spawn(async move {
        while settings.changed().await.is_ok() {
            let loaded = settings.borrow_and_update().clone();
            match self::table(&loaded) {
                Ok(now) if now == table => {}
                Ok(now) => {
                    table = now;
                    // The old looks end before the new ones begin; what is still there is found again at once.
                    looks.shutdown().await;
                    desk.set(Origin::Detected, Vec::new());
                    looks = begin(&table, &desk);
                }
                Err(reason) => tracing::warn!(%reason, "the table of known services stays as it was"),
            }
        }
        // No change can come any more.
        while looks.join_next().await.is_some() {}
    });
    Ok(task)
}

/// What is looked for; `None` with `--no-detect`.
fn table(loaded: &Loaded) -> Result<Option<Vec<Known>>, Fault> {
    let args: WorkerArgs = loaded.args()?;
    if args.no_detect {
        return Ok(None);
    }
    Ok(Some(config::known(built_in(), &config::of(loaded)?.detect)))
}

fn begin(table: &Option<Vec<Known>>, desk: &Desk) -> JoinSet<()> {
    match table {
        Some(known) => start(Options { known: known.clone(), ..Options::default() }, desk.clone()),
        None => JoinSet::new(),
    }
}
