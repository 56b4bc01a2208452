//! Services that this node starts itself: what they are, whether they fit this machine, and keeping them up.

pub mod spec;
pub mod units;

pub use spec::{CommandSpec, Machine};
