//! The tables of the configuration file that every process reads: `[labels]` and `[capabilities]`.

use std::{collections::BTreeMap, fmt};

use paceline_proto::manifest::LABELS_MAX;
use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{Document, values::bounded};
use crate::process::Fault;

/// The tables that a file may have beside the flags. A process without services passes over those that are not its own.
pub const TABLES: [&str; 5] = ["service", "limits", "detect", "labels", "capabilities"];

/// A text, or what is as good as one.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a text, a number, or true or false")]
pub enum Scalar {
    /// Text.
    Text(String),
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Text(text) => f.write_str(text),
            Scalar::Bool(value) => value.fmt(f),
            Scalar::Integer(number) => number.fmt(f),
            Scalar::Float(number) => number.fmt(f),
        }
    }
}

/// Values by their keys, each with its line.
pub(super) type Entries<V> = BTreeMap<String, (V, usize)>;

/// What the file says of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) labels: Entries<String>,
    pub(super) capabilities: Entries<bool>,
}

impl Tables {
    pub(super) fn read(document: &Document) -> Result<Self, Fault> {
        let root = document.table()?;
        let labels = entries(document, root.get_ref(), "labels", |key, value: Scalar| {
            Ok((bounded("a label's key", key)?, bounded("a label's value", &value.to_string())?))
        })?;
        let capabilities = entries(document, root.get_ref(), "capabilities", |key, value: bool| {
            Ok((bounded("a capability", key)?, value))
        })?;
        Ok(Self { labels, capabilities })
    }
}

fn entries<'i, T: Deserialize<'i>, V>(
    document: &Document,
    root: &DeTable<'i>,
    name: &str,
    take: impl Fn(&str, T) -> Result<(String, V), String>,
) -> Result<Entries<V>, Fault> {
    let Some((key, value)) = root.get_key_value(name) else { return Ok(BTreeMap::new()) };
    let DeValue::Table(table) = value.get_ref() else {
        return Err(document.fault(key.span().start, format!("{name}: write a table, [{name}]")));
    };
    if table.len() > LABELS_MAX {
        let reason = format!("[{name}] has {} entries, at most {LABELS_MAX}", table.len());
        return Err(document.fault(key.span().start, reason));
    }
    let one = |(key, value): (&Spanned<_>, &Spanned<DeValue<'i>>)| {
        let key: &Spanned<toml::de::DeString<'i>> = key;
        let fault = |reason: &str| document.fault(key.span().start, format!("[{name}] {}: {reason}", key.get_ref()));
        let value = T::deserialize(ValueDeserializer::from(value.clone())).map_err(|e| fault(e.message()))?;
        let (name, value) = take(key.get_ref(), value).map_err(|e| fault(&e))?;
        Ok((name, (value, document.line(key.span().start))))
    };
    table.iter().map(one).collect()
}
