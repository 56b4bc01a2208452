//! Placeholder.
use super::report::Report;
use super::world::World;
/// Draws.
pub fn draw(_: &World, _: &Report) -> String {
    String::new()
}
