//! The agent of a machine, and the `paceline` command.
//!
//! [`services`] knows what the machine offers and whether it is well, [`detect`] finds what nobody named, [`supervise`]
//! keeps up what the node starts itself, [`hardware`] knows the machine, [`worker`] serves requests, [`files`] is the
//! service that a directory is, and [`cli`] is the command line.

pub mod cli;
mod client;
pub mod config;
pub mod detect;
pub mod files;
pub mod hardware;
pub mod offering;
pub mod services;
pub mod supervise;
pub mod worker;
