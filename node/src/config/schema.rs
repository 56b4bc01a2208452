//! The tables' types, and the JSON Schema of the whole file: flags from their definitions, tables from their types.

use std::{collections::BTreeMap, num::NonZeroU32};

use clap::{Arg, ArgAction};
use paceline_mesh::args::{self, Scalar};
use paceline_mesh::http::Protocol;
use paceline_proto::{id::ServiceName, manifest::ServiceKind};
use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use crate::{
    services::{Allow, ProtocolWord, Terms},
    supervise::{CommandSpec, units::Span},
};

/// A whole file with every table, commented; `paceline config example` prints it, and a test holds it to be right.
pub const EXAMPLE: &str = include_str!("example.toml");

/// A service of this machine.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceTable {
    /// Its name in URLs: /api/service/NAME/...
    #[schemars(with = "String", regex(pattern = "^[a-z0-9][a-z0-9-]{0,62}$"))]
    pub name: ServiceName,
    /// Where it answers, like http://127.0.0.1:8100; or give `dir`.
    pub url: Option<String>,
    /// A directory whose files are served.
    pub dir: Option<String>,
    /// Path of its health check, which answers 2xx while it is well; `none` where a connection is enough, as it is for
    /// protocol = "h2" unless told otherwise.
    #[schemars(extend("default" = "/health"))]
    pub health: Option<String>,
    /// The HTTP that it speaks: http/1.1, or h2 for HTTP/2 in clear, as gRPC servers do.
    #[serde(default)]
    #[schemars(with = "ProtocolWord")]
    pub protocol: Protocol,
    /// What it speaks; `openai` lists its models.
    #[serde(default)]
    #[schemars(with = "Kind")]
    pub kind: ServiceKind,
    /// Most requests at once.
    #[schemars(with = "Option<u32>", range(min = 1))]
    pub max_concurrency: Option<NonZeroU32>,
    /// Which gateways may call it, like ["gateway:up", "site:rack7", "id:..."]; without it, all. Others get 403.
    pub allow: Option<Allow>,
    /// Free labels of the service.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Text>")]
    pub labels: BTreeMap<String, Scalar>,
    /// From the last byte of a request to its response's head.
    #[schemars(extend("default" = "60s"))]
    pub first_byte_timeout: Option<Span>,
    /// From the start of a request to the last byte of its response; without it, bodies may take what they take.
    pub total_timeout: Option<Span>,
    /// How long a request waits at the gateway while every worker has enough to do.
    #[schemars(extend("default" = "500ms"))]
    pub queue_timeout: Option<Span>,
    /// By what requests are kept on one worker: header:NAME, cookie:NAME or client.
    pub affinity: Option<String>,
    /// Send a slow idempotent request to a second worker too.
    #[serde(default)]
    pub hedge: bool,
}

impl ServiceTable {
    /// How it wants to be called.
    pub fn terms(&self) -> Terms<'_> {
        Terms {
            first_byte_timeout: self.first_byte_timeout.map(|span| span.0),
            total_timeout: self.total_timeout.map(|span| span.0),
            queue_timeout: self.queue_timeout.map(|span| span.0),
            affinity: self.affinity.as_deref(),
            hedge: self.hedge,
        }
    }
}

/// What this machine takes on at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsTable {
    /// Requests at once, of all services together; --max-concurrency comes first.
    #[schemars(with = "Option<u32>", range(min = 1))]
    pub max_concurrency: Option<NonZeroU32>,
}

/// A service that is looked for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetectTable {
    /// Where it listens.
    #[schemars(with = "u16", range(min = 1))]
    pub port: std::num::NonZeroU16,
    /// Host names of its container.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Path of its health check.
    #[schemars(extend("default" = "/health"))]
    pub health: Option<String>,
    /// What an answer on 127.0.0.1 must bear for it to be taken.
    #[serde(default)]
    pub fingerprint: FingerprintWord,
    /// Names that it may call itself by, beside its own.
    #[serde(default)]
    pub aliases: Vec<String>,
}

/// How a service is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FingerprintWord {
    /// Its health answer is JSON with its name.
    #[default]
    Named,
    /// It lists models at /v1/models.
    OpenAi,
    /// It tells its version at /api/version.
    Ollama,
}

/// The words of [`ServiceKind`].
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[expect(dead_code, reason = "only its schema is used")]
enum Kind {
    Http,
    OpenAi,
}

/// The forms of [`Scalar`].
#[derive(JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
#[expect(dead_code, reason = "only its schema is used")]
enum Text {
    Words(String),
    Bool(bool),
    Number(f64),
}

/// The schema of a table.
pub fn of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>()
}

/// The JSON Schema (draft 2020-12) of a file.
pub fn whole() -> Json {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mut properties: Map<String, Json> =
        args::file_flags().iter().filter_map(|arg| Some((arg.get_long()?.to_owned(), flag(arg)))).collect();
    let service = generator.subschema_for::<ServiceTable>();
    let command = generator.subschema_for::<CommandSpec>();
    let detect = generator.subschema_for::<DetectTable>();
    let tables = json!({
        "service": {
            "description": "What this machine offers: [[service]] tables, or texts as --service has them.",
            "type": "array", "items": { "anyOf": [service, command, { "type": "string" }] },
        },
        "limits": generator.subschema_for::<LimitsTable>(),
        "detect": {
            "description": "Services that are looked for beside the built-in ones; NAME = false looks for one no more.",
            "type": "object", "additionalProperties": { "anyOf": [detect, { "const": false }] },
        },
        "labels": {
            "description": "Free labels of this machine; --label comes first.",
            "type": "object", "additionalProperties": generator.subschema_for::<Text>(),
        },
        "capabilities": {
            "description": "What this machine has; --capability comes first.",
            "type": "object", "additionalProperties": { "type": "boolean" },
        },
    });
    if let Json::Object(tables) = tables {
        properties.extend(tables);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Paceline's configuration file",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        "$defs": generator.definitions(),
    })
}

/// A flag as a key: one value, or one or a list of them.
fn flag(arg: &Arg) -> Json {
    let text = json!({ "type": ["string", "number", "boolean"] });
    let mut schema = match arg.get_action() {
        ArgAction::SetTrue => json!({ "type": "boolean" }),
        ArgAction::Append => json!({ "anyOf": [text, { "type": "array", "items": text }] }),
        _ => text,
    };
    let words: Vec<String> = arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
    if !words.is_empty() && !matches!(arg.get_action(), ArgAction::SetTrue) {
        schema = json!({ "enum": words });
    }
    if let Some(help) = arg.get_help() {
        schema["description"] = Json::String(help.to_string());
    }
    if let Some(default) = arg.get_default_values().first().and_then(|v| v.to_str())
        && !matches!(arg.get_action(), ArgAction::SetTrue)
    {
        schema["default"] = Json::String(default.to_owned());
    }
    schema
}
