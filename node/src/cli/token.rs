//! `paceline token create | list | revoke`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use http::Method;
use paceline_mesh::process::Fault;
use paceline_proto::id::{Role, ServiceName, TokenId};
use serde_json::{Value, json};

use super::{
    api::call,
    print,
    table::{clean, span, table},
    target::{QueryArgs, TargetArgs},
};

/// Longest life of a token, as gateways allow it.
const TTL_DAYS_MAX: u64 = 365;

#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Make a join token and print it: whoever holds it can join, so hand it over like a password
    Create(CreateArgs),
    /// List the join tokens that were made
    List(QueryArgs),
    /// Let nobody in by a join token any more; those who came in by it stay
    Revoke(RevokeArgs),
}

#[derive(Args)]
pub(super) struct CreateArgs {
    /// What the newcomer may be: worker, gateway or bootstrap (repeatable)
    #[arg(long, value_name = "ROLE", default_value = "worker")]
    role: Vec<Role>,

    /// The newcomer may admit others, as this gateway does
    #[arg(long)]
    issuer: bool,

    /// The only services that the newcomer may offer (repeatable) [default: any]
    #[arg(long, value_name = "NAME")]
    service: Vec<ServiceName>,

    /// How long newcomers can join with it
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = ttl)]
    ttl: Duration,

    /// How many newcomers can join with it [default: any number]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    uses: Option<u32>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Args)]
pub(super) struct RevokeArgs {
    /// As `token list` shows it
    #[arg(value_name = "ID")]
    id: TokenId,

    #[command(flatten)]
    query: QueryArgs,
}

/// The bounds of a gateway, which would speak of its own field.
fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    let bounds = Duration::from_secs(1)..=Duration::from_secs(TTL_DAYS_MAX * 24 * 3600);
    if bounds.contains(&ttl) { Ok(ttl) } else { Err(format!("must be between 1s and {TTL_DAYS_MAX}d")) }
}

pub(super) async fn run(command: &TokenCommand) -> Result<(), Fault> {
    match command {
        TokenCommand::Create(args) => create(args).await,
        TokenCommand::List(args) => list(args).await,
        TokenCommand::Revoke(args) => revoke(args).await,
    }
}

async fn create(args: &CreateArgs) -> Result<(), Fault> {
    let wanted = json!({
        "roles": args.role,
        "issuer": args.issuer,
        "services": args.service,
        "ttl_s": args.ttl.as_secs(),
        "uses": args.uses,
    });
    let answer = call(&args.target.gateway()?, Method::POST, "/api/admin/tokens", Some(&wanted)).await?;
    if args.json {
        print(&format!("{answer:#}\n"))?;
        return Ok(());
    }
    let token = answer["token"].as_str().ok_or_else(|| Fault::failed("the gateway's answer has no token"))?;
    print(&format!("{}\n", clean(token)))?;
    Ok(())
}

async fn revoke(args: &RevokeArgs) -> Result<(), Fault> {
    let wanted = json!({ "token": args.id.to_string() });
    let target = args.query.target.gateway()?;
    let answer = call(&target, Method::POST, "/api/admin/revocations", Some(&wanted)).await?;
    if args.query.json {
        print(&format!("{answer:#}\n"))?;
    } else {
        print(&format!("join token {} lets nobody in any more; members that came by it stay\n", args.id))?;
    }
    Ok(())
}

async fn list(args: &QueryArgs) -> Result<(), Fault> {
    let answer = call(&args.target.gateway()?, Method::GET, "/api/admin/tokens", None).await?;
    if args.json {
        print(&format!("{answer:#}\n"))?;
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let rows: Vec<Vec<String>> =
        answer["tokens"].as_array().into_iter().flatten().map(|token| row(token, now)).collect();
    if rows.is_empty() {
        print("no join token was made: `paceline token create` makes one\n")?;
    } else {
        print(&table(&["ID", "STATE", "ROLES", "SERVICES", "USED", "EXPIRES"], &rows))?;
    }
    Ok(())
}

fn row(token: &Value, now: u64) -> Vec<String> {
    let words = |key: &str| {
        let list: Vec<String> =
            token[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(clean).collect();
        list.join(",")
    };
    let mut roles = words("roles");
    if token["issuer"] == true {
        roles.push_str(" (issuer)");
    }
    let services = words("services");
    let used = token["used"].as_u64().unwrap_or(0);
    let expires = match token["not_after"].as_u64().unwrap_or(0).checked_sub(now) {
        Some(left) if left > 0 => format!("in {}", span(left)),
        _ => "expired".to_owned(),
    };
    vec![
        token["id"].as_str().map_or_else(|| "-".to_owned(), clean),
        token["state"].as_str().map_or_else(|| "-".to_owned(), clean),
        roles,
        if services.is_empty() { "any".to_owned() } else { services },
        token["uses"].as_u64().map_or_else(|| used.to_string(), |uses| format!("{used} of {uses}")),
        expires,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_told_in_a_row() {
        let token = json!({
            "id": "00ff", "roles": ["worker", "gateway"], "issuer": true, "services": [], "not_after": 160,
            "uses": 3, "used": 1, "state": "active",
        });
        assert_eq!(row(&token, 100), ["00ff", "active", "worker,gateway (issuer)", "any", "1 of 3", "in 1m 0s"]);
        assert_eq!(row(&token, 160)[5], "expired");
    }
}
