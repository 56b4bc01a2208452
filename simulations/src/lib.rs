//! What tries Paceline as a whole, beside its own tests: benchmarks of the request path and of the membership, and the
//! simulator.

pub mod bench;
pub mod fuzz;
pub mod members;
pub mod sim;
