//! The whole HTTP side over real sockets, with a fake local worker and fake peers.

mod admin;
mod connections;
mod harness;
mod routing;
mod service;
