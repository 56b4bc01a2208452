//! `paceline key create | list | revoke`: API keys of a gateway, asked of the one that runs, or, while none does, of
//! its data directory: a gateway that others can reach does not start before callers have something to show.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use http::Method;
use paceline_gateway::callers::{Keys, KeysError, Scope, TTL_S_MAX, Wanted};
use paceline_mesh::{
    args::{ProcessRole, Rate},
    process::{self, Fault, Lock},
};
use serde_json::{Value, json};

use super::{
    api::call,
    print,
    table::{clean, span, table},
    target::{QueryArgs, Target, TargetArgs, default_processes},
};

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Make an API key and print it, this once: whoever holds it can call, so hand it over like a password
    Create(CreateArgs),
    /// List the API keys of a gateway
    List(QueryArgs),
    /// Take an API key away; it is refused from then on
    Revoke(RevokeArgs),
}

#[derive(Args)]
pub(super) struct CreateArgs {
    /// What or whom it is for
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// What it may do: service:NAME, service:*, jobs, read or admin (repeatable) [default: service:*]
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<Scope>,

    /// How long it is good [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    ttl: Option<Duration>,

    /// Its own rate, like 60/min [default: the gateway's --key-rate]
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Args)]
pub(super) struct RevokeArgs {
    /// Its id, as `paceline key list` shows it: what stands between the underscores of pk_ID_...
    #[arg(value_name = "ID")]
    id: String,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: TargetArgs,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    let bounds = Duration::from_secs(1)..=Duration::from_secs(TTL_S_MAX);
    if bounds.contains(&ttl) { Ok(ttl) } else { Err(format!("must be between 1s and {}d", TTL_S_MAX / 86400)) }
}

pub(super) async fn run(command: &KeyCommand) -> Result<(), Fault> {
    match command {
        KeyCommand::Create(args) => create(args).await,
        KeyCommand::List(args) => list(args).await,
        KeyCommand::Revoke(args) => revoke(args).await,
    }
}

/// Who is asked.
enum Place {
    Gateway(Target),
    /// No process uses it while the lock is held.
    Directory {
        keys: Keys,
        directory: PathBuf,
        _lock: Lock,
    },
}

impl Place {
    fn of(target: &TargetArgs) -> Result<Self, Fault> {
        if target.gateway.is_some() {
            return target.gateway().map(Place::Gateway);
        }
        let directory = match &target.local.data_dir {
            Some(directory) => directory.clone(),
            None if default_processes().iter().any(|(_, runtime)| runtime.http.is_some()) => {
                return target.gateway().map(Place::Gateway);
            }
            None => default_directory()?,
        };
        let Some(lock) = process::lock(&directory)? else {
            let running = TargetArgs { local: target.local.clone(), ..TargetArgs::default() };
            return running.gateway().map(Place::Gateway).map_err(|fault| {
                Fault::user(format!("{fault}; a process uses {} all the same: is it starting?", directory.display()))
            });
        };
        // Rates and counts are the process's, not the file's.
        let keys = Keys::open(&directory, None, 1).map_err(fault_of)?;
        Ok(Place::Directory { keys, directory, _lock: lock })
    }
}

/// The directory of the gateway that will run here: the one that is there, else that of `up`.
fn default_directory() -> Result<PathBuf, Fault> {
    let of = |role: ProcessRole| role.default_data_dir();
    let there: Vec<_> =
        [ProcessRole::Up, ProcessRole::Gateway].into_iter().filter_map(of).filter(|d| d.is_dir()).collect();
    match there.as_slice() {
        [one] => Ok(one.clone()),
        [] => of(ProcessRole::Up).ok_or_else(|| Fault::user("no home directory is known: give --data-dir DIR")),
        several => {
            let several: Vec<_> = several.iter().map(|d| d.display().to_string()).collect();
            Err(Fault::user(format!("no gateway runs here: choose --data-dir {}", several.join(" or "))))
        }
    }
}

fn fault_of(error: KeysError) -> Fault {
    match error {
        KeysError::Wanted(_) | KeysError::Unknown(_) | KeysError::File { .. } => Fault::user(error),
    }
}

fn record(record: &paceline_gateway::callers::Record, requests: Option<u64>) -> Value {
    let mut value = json!({
        "id": record.id,
        "name": record.name,
        "scopes": record.scopes,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "rate": record.rate,
    });
    if let Some(requests) = requests {
        value["requests"] = requests.into();
    }
    value
}

async fn create(args: &CreateArgs) -> Result<(), Fault> {
    let wanted = Wanted {
        name: args.name.clone(),
        scopes: args.scope.clone(),
        ttl_s: args.ttl.map(|ttl| ttl.as_secs()),
        rate: args.rate,
    };
    let answer = match Place::of(&args.target)? {
        Place::Gateway(target) => {
            let body = serde_json::to_value(&wanted).map_err(Fault::failed)?;
            call(&target, Method::POST, "/api/admin/keys", Some(&body)).await?
        }
        Place::Directory { keys, directory, _lock } => {
            let (made, key) = keys.create(wanted).map_err(fault_of)?;
            eprintln!("no gateway runs with {}: the key is in force when one does", directory.display());
            let mut answer = record(&made, None);
            answer["key"] = key.as_str().into();
            answer
        }
    };
    if args.json {
        return print(&format!("{answer:#}\n"));
    }
    let key = answer["key"].as_str().ok_or_else(|| Fault::failed("the gateway's answer has no key"))?;
    print(&format!("{}\n", clean(key)))
}

async fn list(args: &QueryArgs) -> Result<(), Fault> {
    let answer = match Place::of(&args.target)? {
        Place::Gateway(target) => call(&target, Method::GET, "/api/admin/keys", None).await?,
        Place::Directory { keys, .. } => {
            let all: Vec<Value> = keys.list().iter().map(|(one, _)| record(one, None)).collect();
            json!({ "keys": all })
        }
    };
    if args.json {
        return print(&format!("{answer:#}\n"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let rows: Vec<Vec<String>> = answer["keys"].as_array().into_iter().flatten().map(|key| row(key, now)).collect();
    if rows.is_empty() {
        print("no API key was made: `paceline key create` makes one\n")
    } else {
        print(&table(&["ID", "NAME", "SCOPES", "RATE", "REQUESTS", "EXPIRES"], &rows))
    }
}

async fn revoke(args: &RevokeArgs) -> Result<(), Fault> {
    // It stands in a path: whatever else it is, no key has it.
    if args.id.is_empty() || !args.id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(Fault::user("expected a key's id, as `paceline key list` shows it"));
    }
    let answer = match Place::of(&args.target)? {
        Place::Gateway(target) => call(&target, Method::DELETE, &format!("/api/admin/keys/{}", args.id), None).await?,
        Place::Directory { keys, .. } => json!({ "revoked": keys.revoke(&args.id).map_err(fault_of)?.id }),
    };
    if args.json {
        return print(&format!("{answer:#}\n"));
    }
    print(&format!("{} is revoked\n", args.id))
}

fn row(key: &Value, now: u64) -> Vec<String> {
    let text = |field: &str, none: &str| key[field].as_str().map_or_else(|| none.to_owned(), clean);
    let scopes: Vec<String> =
        key["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str).map(clean).collect();
    let expires = match key["expires_at"].as_u64().map(|at| at.checked_sub(now)) {
        None => "never".to_owned(),
        Some(Some(left)) if left > 0 => format!("in {}", span(left)),
        Some(_) => "expired".to_owned(),
    };
    vec![
        text("id", "-"),
        text("name", ""),
        scopes.join(","),
        text("rate", ""),
        key["requests"].as_u64().map_or_else(String::new, |n| n.to_string()),
        expires,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_told_in_a_row() {
        let key = json!({
            "id": "0123abcd", "name": "laptop", "scopes": ["service:files", "jobs"], "rate": "60/min", "requests": 7,
            "expires_at": 160,
        });
        assert_eq!(row(&key, 100), ["0123abcd", "laptop", "service:files,jobs", "60/min", "7", "in 1m 0s"]);
        assert_eq!(row(&key, 160)[5], "expired");
        assert_eq!(row(&json!({ "id": "x", "scopes": [] }), 1), ["x", "", "", "", "", "never"]);
    }
}
