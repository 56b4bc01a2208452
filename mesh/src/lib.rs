//! All network IO of a Paceline node: the libp2p control plane, the QUIC data plane, and the identity on disk.
//!
//! [`Mesh::start`] brings a node into its cluster; readers get [`Mesh::view`], a gateway thread gets [`Mesh::client`].

pub mod args;
pub mod config;
mod control;
pub mod data;
pub mod http;
pub mod leadership;
pub mod local_api;
pub mod mesh;
pub mod process;
pub mod sink;
pub mod trust;

pub use config::{Bind, MeshConfig};
pub use mesh::{Mesh, StartError};
