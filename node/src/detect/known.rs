//! The services that a node looks for by itself: name, container host names, port, health path and fingerprint.
//!
//! Plain data: a row is all that a further service needs.

use paceline_proto::{id::ServiceName, manifest::ServiceKind};
use serde::Deserialize;

/// Health path of a row that names no other.
pub(crate) const HEALTH: &str = "/health";

/// What a service's own answer must bear, where only a port on 127.0.0.1 speaks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fingerprint {
    /// `GET /v1/models` lists models, as vLLM and all that speak like OpenAI do.
    OpenAi,
    /// `GET /api/version` tells a version, as Ollama does.
    Ollama,
    /// The JSON body of the health path names the service in `service`, `name` or `workerType`.
    Named,
}

/// A service that is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name in URLs, once it is taken.
    pub name: ServiceName,
    /// Host names of its container; one that leads to it is proof enough.
    pub hosts: Vec<String>,
    /// Where it listens, on those hosts and on 127.0.0.1.
    pub port: u16,
    /// `GET` of this path tells whether it is well.
    pub health: String,
    /// What its answer must bear on 127.0.0.1.
    pub fingerprint: Fingerprint,
    /// What it may call itself beside its name.
    pub aliases: Vec<String>,
}

impl Known {
    /// A service that tells its name at `/health`, in a container called `NAME-service`.
    pub fn new(name: ServiceName, port: u16) -> Self {
        Self {
            hosts: vec![format!("{name}-service")],
            name,
            port,
            health: HEALTH.to_owned(),
            fingerprint: Fingerprint::Named,
            aliases: Vec::new(),
        }
    }

    /// What requests to it speak.
    pub fn kind(&self) -> ServiceKind {
        match self.fingerprint {
            // Ollama answers under /v1 too.
            Fingerprint::OpenAi | Fingerprint::Ollama => ServiceKind::OpenAi,
            Fingerprint::Named => ServiceKind::Http,
        }
    }

    /// Whether a service that calls itself so is this one: `Upload Service`, `upload_service` and `upload` are one.
    pub(super) fn is_called(&self, said: &str) -> bool {
        let said = plain(said);
        plain(self.name.as_str()) == said || self.aliases.iter().any(|alias| plain(alias) == said)
    }
}

/// Lower case, words joined by `-`, without the words that only say that it is a service.
fn plain(name: &str) -> String {
    let lower = name.to_lowercase();
    let mut words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    while words.len() > 1 && words.last().is_some_and(|word| ["service", "worker", "server", "api"].contains(word)) {
        words.pop();
    }
    words.join("-")
}

/// Name, port, further host names, names that it gives itself.
type Row = (&'static str, u16, &'static [&'static str], &'static [&'static str]);

/// Services whose health body names them, in containers called `NAME-service`.
const SERVICES: [Row; 8] = [
    ("upload", 8103, &[], &[]),
    ("rag", 8102, &[], &[]),
    ("notes", 8100, &[], &[]),
    ("ner", 8101, &[], &[]),
    ("ocr", 8104, &[], &["vision-ocr"]),
    ("doc-processor", 8105, &[], &["document-processor", "doc-processing", "document-processing"]),
    ("client-rag", 8106, &[], &[]),
    ("spacy", 8001, &["spacy-worker"], &[]),
];

/// Typed workers: the same, in containers called `NAME-worker` or `NAME-service`.
const WORKERS: [Row; 9] = [
    ("assistant", 3001, &["assistant-worker"], &[]),
    ("agent-tool", 3002, &["agent-tool-worker"], &[]),
    ("data-processing", 3003, &["data-processing-worker"], &[]),
    ("interview", 3004, &["interview-worker"], &[]),
    ("latex", 3005, &["latex-worker"], &[]),
    ("resume", 3006, &["resume-worker"], &[]),
    ("scheduling", 3007, &["scheduling-worker"], &[]),
    ("identity", 3008, &["identity-worker"], &[]),
    ("news", 3009, &["news-worker"], &[]),
];

/// The built-in table.
pub fn built_in() -> Vec<Known> {
    let named = SERVICES.iter().chain(&WORKERS).filter_map(|(name, port, hosts, aliases)| {
        let mut known = Known::new(ServiceName::new(name).ok()?, *port);
        known.hosts.extend(hosts.iter().map(|host| (*host).to_owned()));
        known.aliases.extend(aliases.iter().map(|alias| (*alias).to_owned()));
        Some(known)
    });
    let models = [("vllm", 8000, Fingerprint::OpenAi, HEALTH), ("ollama", 11434, Fingerprint::Ollama, "/api/version")];
    let models = models.into_iter().filter_map(|(name, port, fingerprint, health)| {
        let mut known = Known::new(ServiceName::new(name).ok()?, port);
        known.hosts.insert(0, name.to_owned());
        known.fingerprint = fingerprint;
        known.health = health.to_owned();
        Some(known)
    });
    named.chain(models).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_whole_and_no_port_stands_twice() {
        let table = built_in();
        assert_eq!(table.len(), 19, "a name of the table is no service name");
        let ports: BTreeSet<u16> = table.iter().map(|k| k.port).collect();
        let names: BTreeSet<&str> = table.iter().map(|k| k.name.as_str()).collect();
        assert_eq!((ports.len(), names.len()), (table.len(), table.len()));
        for (name, port, host) in
            [("vllm", 8000, "vllm"), ("upload", 8103, "upload-service"), ("ollama", 11434, "ollama")]
        {
            let known = table.iter().find(|k| k.name.as_str() == name).unwrap();
            assert_eq!(known.port, port);
            assert!(known.hosts.iter().any(|h| h == host), "{known:?}");
        }
    }

    #[test]
    fn a_service_may_write_its_name_in_many_ways_but_not_another_one() {
        let known = |name: &str| built_in().into_iter().find(|k| k.name.as_str() == name).unwrap();
        for (name, said) in [
            ("upload", "upload"),
            ("upload", "Upload Service"),
            ("upload", "upload_service"),
            ("agent-tool", "AGENT_TOOL"),
            ("agent-tool", "agent-tool-worker"),
            ("client-rag", "client-rag-api-server"),
            ("doc-processor", "Document Processor"),
        ] {
            assert!(known(name).is_called(said), "{said} is {name}");
        }
        for (name, said) in
            [("upload", "uploads"), ("rag", "client-rag"), ("assistant", "grafana"), ("news", ""), ("news", "service")]
        {
            assert!(!known(name).is_called(said), "{said} is not {name}");
        }
    }
}
