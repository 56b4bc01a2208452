//! What a fuzzer may do to a node: each function takes any bytes and panics where a promise is broken.
//!
//! `cargo fuzz` runs them from `simulations/fuzz`, guided by coverage; the tests below run each over some thousand random
//! inputs, so that a target that no longer says what it should is noticed without it.

mod choices;
mod decode;
pub mod long;
mod node;

pub use decode::{certificate, direct, gossip, manifest, token};
pub use node::node;

#[cfg(test)]
mod tests {
    use paceline_proto::view::MemberState;

    use super::long::inputs;

    #[test]
    fn decoders_stand_any_bytes() {
        let version = [paceline_proto::wire::WIRE_VERSION];
        for target in [super::gossip, super::direct, super::manifest, super::token, super::certificate] {
            inputs(1, 4_000, 300, &[]).for_each(|bytes| target(&bytes));
            inputs(2, 4_000, 300, &version).for_each(|bytes| target(&bytes));
            inputs(3, 20, 100_000, &version).for_each(|bytes| target(&bytes));
        }
    }

    #[test]
    fn a_node_stands_any_inputs() {
        let views: Vec<_> = inputs(4, 300, 2_000, &[]).map(|bytes| super::node::play(&bytes)).collect();
        // What is refused at the door tries nothing: these inputs get further.
        let count = |state| views.iter().flat_map(|view| view.members.values()).filter(|m| m.state == state).count();
        let states = [MemberState::Alive, MemberState::Suspect, MemberState::Dead, MemberState::Left].map(count);
        assert!(states.iter().all(|count| *count > 3), "{states:?}");
        assert!(
            views.iter().any(|view| view.leadership.leader.is_some_and(|leader| leader != view.me)),
            "a peer leads"
        );
        assert!(views.iter().any(|view| view.members.len() == 5), "all four peers");
    }
}
