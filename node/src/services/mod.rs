//! What this machine offers: each service from whom it was told, probed, and advertised at once when it changes.
//!
//! [`Desk`] is where all come together that name services: the command line, the configuration file, detection and
//! what the node itself runs.

mod allow;
mod desk;
mod merge;
mod probe;
mod spec;
mod terms;
mod text;

pub use allow::Allow;
pub use desk::{Desk, Offers};
pub use probe::{Finding, probe};
pub use spec::{HealthCheck, Keeper, Kept, NotStarted, Origin, ServiceSpec, Source};
pub(crate) use spec::{ProtocolWord, check_protocol};
pub use terms::Terms;
pub use text::{directory, health_check, health_of, parse, serve, service, url};
