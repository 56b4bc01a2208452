//! Paceline.
fn main() {}
