//! Decisions of a Paceline node: no tokio, no libp2p, no files, no clock.
//!
//! Each core is a plain struct that takes inputs and the time, and gives outputs; [`node`] composes them, and is the
//! only place where they meet. A driver (the `paceline-mesh` crate, or the simulator) carries out what they ask for.

pub mod budget;
pub mod carrier;
pub mod conduct;
mod connect;
pub mod credential;
mod credentials;
pub mod detector;
pub mod election;
pub mod envelope;
pub mod heartbeat;
pub mod id;
pub mod lead;
pub mod manifest;
pub mod membership;
pub mod memo;
pub mod message;
mod meter;
pub mod node;
mod parked;
pub mod registry;
pub mod revocation;
mod rng;
mod roster;
pub mod summary;
pub mod sync;
#[cfg(test)]
pub(crate) mod testing;
pub mod timer;
pub mod token;
pub mod view;
pub mod wire;

use std::time::Instant;

/// The time, as the driver tells it: a core never reads a clock.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For deadlines.
    pub at: Instant,
    /// For certificates.
    pub unix: id::UnixSeconds,
}
