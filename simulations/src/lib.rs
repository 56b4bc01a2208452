//! What tries Paceline as a whole, beside its own tests: for now the benchmark of the request path.

pub mod bench;
