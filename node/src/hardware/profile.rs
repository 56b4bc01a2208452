//! Built-in profiles: which services a type of machine should offer. A service of the configuration that carries no
//! `requires` of its own is started where its profile says.

use paceline_proto::manifest::WorkerType;

/// Services that a type should offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The type.
    pub worker_type: WorkerType,
    /// Names of services.
    pub services: &'static [&'static str],
}

/// One for each type.
pub const PROFILES: [Profile; 3] = [
    Profile { worker_type: WorkerType::Gpu, services: &["vllm", "ollama", "ocr", "vision-ocr", "embeddings"] },
    Profile { worker_type: WorkerType::Cpu, services: &["ner", "spacy", "doc-processor", "notes"] },
    Profile { worker_type: WorkerType::Edge, services: &["upload", "cache"] },
];

/// The type whose profile names a service; `None` for a service of no profile, which any machine may offer.
pub fn home(service: &str) -> Option<WorkerType> {
    PROFILES.iter().find(|profile| profile.services.contains(&service)).map(|profile| profile.worker_type)
}

/// Whether a machine of that type should offer a service, by profiles alone.
pub fn fits(worker_type: WorkerType, service: &str) -> bool {
    home(service).is_none_or(|home| home == worker_type)
}

#[cfg(test)]
mod tests {
    use super::*;
    use paceline_proto::id::ServiceName;

    #[test]
    fn each_service_has_one_home_and_strangers_live_anywhere() {
        for profile in &PROFILES {
            for service in profile.services {
                assert_eq!(home(service), Some(profile.worker_type), "{service} stands twice");
                assert!(ServiceName::new(service).is_ok());
            }
        }
        assert!(fits(WorkerType::Gpu, "vllm") && !fits(WorkerType::Cpu, "vllm"));
        assert!(fits(WorkerType::Edge, "upload") && !fits(WorkerType::Gpu, "upload"));
        assert!([WorkerType::Gpu, WorkerType::Cpu, WorkerType::Edge].iter().all(|t| fits(*t, "my-service")));
    }
}
