//! What tries Paceline as a whole, beside its own tests: the benchmark of the request path, and the
//! simulator.

pub mod bench;
pub mod sim;
