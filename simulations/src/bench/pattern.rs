//! The bytes that bodies are made of: every offset is told from its neighbours, so that a lost, doubled or moved piece
//! of a body shows without comparing all of it.

use std::sync::OnceLock;

/// The body of a bulk transfer repeats after this many bytes.
pub const PERIOD_BYTES: usize = 1 << 16;

/// The body of a small answer.
pub const SMALL_BYTES: usize = 1024;

/// How much of each end of a piece is compared.
const SAMPLE_BYTES: usize = 64;

/// One period, then [`SAMPLE_BYTES`] of the next.
static BYTES: OnceLock<Vec<u8>> = OnceLock::new();

fn bytes() -> &'static [u8] {
    BYTES.get_or_init(|| {
        // xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2014
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
        })
        .take(PERIOD_BYTES)
        .collect();
        bytes.extend_from_within(..SAMPLE_BYTES);
        bytes
    })
}

/// One period.
pub fn block() -> &'static [u8] {
    &bytes()[..PERIOD_BYTES]
}

/// The body of a small answer.
pub fn small() -> &'static [u8] {
    &bytes()[..SMALL_BYTES]
}

/// Whether a piece of a bulk body that begins at `offset` is right at both of its ends.
pub fn fits(piece: &[u8], offset: u64) -> bool {
    let at = |offset: u64, piece: &[u8]| {
        let start = (offset % PERIOD_BYTES as u64) as usize;
        bytes()[start..start + piece.len()] == *piece
    };
    let sample = piece.len().min(SAMPLE_BYTES);
    let tail = piece.len() - sample;
    at(offset, &piece[..sample]) && at(offset + tail as u64, &piece[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_and_broken_pieces_are_seen() {
        let body = [block(), block()].concat();
        assert!(fits(&body, 0) && fits(&body[100..70_000], 100) && fits(&body[65_530..65_541], 65_530));
        assert!(!fits(&body[100..70_000], 101), "moved by one");
        let mut last = body.clone();
        *last.last_mut().expect("not empty") ^= 1;
        assert!(!fits(&last, 0), "the last byte");
        assert!(fits(&[], 5));
    }
}
