//! The agent of a machine, and the `paceline` command.
//!
//! [`services`] knows what the machine offers and whether it is well, [`worker`] serves requests for it, [`files`] is
//! the service that a directory is, and [`cli`] is the command line.

pub mod cli;
mod client;
pub mod config;
pub mod files;
pub mod services;
pub mod worker;
