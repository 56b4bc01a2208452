//! What this machine offers: parsed from `--service` and `--serve`, probed, and advertised at once when it changes.

mod probe;
mod prober;
mod spec;

pub use probe::{Finding, probe};
pub use prober::Prober;
pub use spec::{HealthCheck, ServiceSpec, Source, parse};
