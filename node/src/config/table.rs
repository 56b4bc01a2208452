//! Reads one table of the file into its type: unknown keys first, by its schema, then its values, by serde.

use std::collections::BTreeSet;

use paceline_mesh::{
    args::{Document, nearest},
    process::Fault,
};
use schemars::Schema;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

/// How deep a schema is followed: ours are flatter, and one that refers to itself ends.
const DEPTH_MAX: usize = 8;

/// A value of the file as a `T`, called `name` in words; `at` is where its fault is where nothing nearer is known.
pub(super) fn read<T: DeserializeOwned>(
    document: &Document,
    name: &str,
    value: &Spanned<DeValue<'_>>,
    at: usize,
    schema: &Schema,
) -> Result<T, Fault> {
    let DeValue::Table(table) = value.get_ref() else {
        return Err(document.fault(at, format!("{name}: expected a table")));
    };
    let root = schema.as_value();
    if let Some((at, words)) = unknown(table, root, root, 0) {
        return Err(document.fault(at, format!("{name}: {words}")));
    }
    T::deserialize(ValueDeserializer::from(value.clone())).map_err(|e| {
        // A fault of the whole table, like a key that is missing, is where the table begins.
        let span = e.span().filter(|span| *span != value.span());
        document.fault(span.map_or(at, |span| span.start), format!("{name}: {}", e.message()))
    })
}

/// The keys of a table with this schema.
pub(super) fn keys(schema: &Schema) -> BTreeSet<String> {
    let properties = schema.as_value().get("properties").and_then(Json::as_object);
    properties.into_iter().flat_map(|properties| properties.keys().cloned()).collect()
}

/// The first key that the schema does not know.
fn unknown(table: &DeTable<'_>, schema: &Json, root: &Json, depth: usize) -> Option<(usize, String)> {
    let (mut known, mut open) = (BTreeSet::new(), false);
    let branches = branches(schema, root, depth);
    for branch in &branches {
        known.extend(branch.get("properties").and_then(Json::as_object).into_iter().flat_map(|p| p.keys()));
        open |= branch.get("additionalProperties").is_some_and(|more| *more != Json::Bool(false));
    }
    for (key, value) in table {
        let name: &str = key.get_ref();
        if !open && !known.is_empty() && !known.contains(&name.to_owned()) {
            let words = match nearest(name, known.iter().map(|k| k.as_str())) {
                Some(meant) => format!("unknown key `{name}`; did you mean `{meant}`?"),
                None => {
                    let known: Vec<_> = known.iter().map(|k| k.as_str()).collect();
                    format!("unknown key `{name}`; the keys are {}", known.join(", "))
                }
            };
            return Some((key.span().start, words));
        }
        let below = branches.iter().find_map(|branch| branch.get("properties")?.get(name));
        if let (Some(below), DeValue::Table(table)) = (below, value.get_ref())
            && let Some(found) = unknown(table, below, root, depth + 1)
        {
            return Some(found);
        }
    }
    None
}

/// A schema and all that it refers to or chooses between.
fn branches<'a>(schema: &'a Json, root: &'a Json, depth: usize) -> Vec<&'a Json> {
    if depth > DEPTH_MAX {
        return Vec::new();
    }
    let mut all = vec![schema];
    let referred = schema.get("$ref").and_then(Json::as_str).and_then(|r| root.pointer(r.strip_prefix('#')?));
    let chosen = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|word| schema.get(word)?.as_array()).flatten();
    for below in referred.into_iter().chain(chosen) {
        all.extend(branches(below, root, depth + 1));
    }
    all
}
