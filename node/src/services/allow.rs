//! Which gateways a service may be called through: decided here, at the node that offers it.

use std::borrow::Cow;

use paceline_proto::{
    id::{NodeId, Role, Site, WorkerName},
    view::ClusterView,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Most rules of one service.
const RULES_MAX: usize = 64;

/// Rules, any of which lets a gateway through; an empty list lets none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Allow(Vec<Rule>);

/// Who may.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    /// The gateway of this name: the first key that took it.
    Gateway(WorkerName),
    /// A gateway that says it is at this site.
    Site(Site),
    /// The gateway with this key, whatever it is called.
    Id(NodeId),
}

impl Allow {
    /// Whether this node takes requests of a gateway.
    pub fn lets(&self, gateway: &NodeId, view: &ClusterView) -> bool {
        let member = view.members.get(gateway);
        self.0.iter().any(|rule| match rule {
            Rule::Id(node) => node == gateway,
            // What a member is called is its own word, but nobody else's: the second of two has a suffix here.
            Rule::Gateway(name) => member.is_some_and(|m| m.name == *name && m.roles.contains(Role::Gateway)),
            Rule::Site(site) => member.is_some_and(|m| m.manifest.site == *site),
        })
    }
}

impl JsonSchema for Allow {
    fn schema_name() -> Cow<'static, str> {
        "Allow".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "maxItems": RULES_MAX,
            "items": { "type": "string", "pattern": "^(gateway|site|id):.+$" },
        })
    }
}

impl TryFrom<Vec<String>> for Allow {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        if texts.len() > RULES_MAX {
            return Err(format!("allow: {} rules, at most {RULES_MAX}", texts.len()));
        }
        let rule = |text: &String| {
            let fault = |e: &dyn std::fmt::Display| format!("allow: `{text}`: {e}");
            match text.split_once(':') {
                Some(("gateway", name)) => WorkerName::new(name).map(Rule::Gateway).map_err(|e| fault(&e)),
                Some(("site", site)) => Site::new(site).map(Rule::Site).map_err(|e| fault(&e)),
                Some(("id", node)) => node.parse().map(Rule::Id).map_err(|e| fault(&e)),
                _ => Err(fault(&"expected gateway:NAME, site:NAME or id:NODE-ID")),
            }
        };
        texts.iter().map(rule).collect::<Result<_, _>>().map(Self)
    }
}

impl From<Allow> for Vec<String> {
    fn from(allow: Allow) -> Self {
        let text = |rule: Rule| match rule {
            Rule::Gateway(name) => format!("gateway:{name}"),
            Rule::Site(site) => format!("site:{site}"),
            Rule::Id(node) => format!("id:{node}"),
        };
        allow.0.into_iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written() {
        let node = NodeId::from_bytes([7; 32]);
        let texts = vec!["gateway:up".to_owned(), "site:rack-7".to_owned(), format!("id:{node}")];
        let allow = Allow::try_from(texts.clone()).expect("rules");
        assert_eq!(Vec::<String>::from(allow), texts);
        for bad in ["up", "gateway:", "gateway:no name", "site:", "id:7", "role:worker", "*"] {
            let error = Allow::try_from(vec![bad.to_owned()]).expect_err(bad);
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
        assert!(Allow::try_from(vec!["gateway:x".to_owned(); RULES_MAX + 1]).is_err());
    }
}
