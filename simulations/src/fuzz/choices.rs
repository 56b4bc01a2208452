//! Choices from a fuzzer's bytes: a small change of the bytes is a small change of what is done.

/// The bytes that are left. Where none are, every choice is the first one.
pub(super) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(super) fn yes(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    /// Any number; mostly a small one.
    pub(super) fn number(&mut self) -> u64 {
        match self.byte() {
            255 => (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte())),
            small => small.into(),
        }
    }

    pub(super) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    /// So many bytes as the next choice says; few, so that much is left for other choices.
    pub(super) fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte() % 64);
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
