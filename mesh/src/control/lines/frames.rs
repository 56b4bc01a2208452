//! A message on a line: its length as a little-endian base-128 number of at most three bytes, then its bytes.

use std::{collections::VecDeque, io};

/// Most bytes of a message; as many as the cores make.
pub(crate) const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the longest length: three times seven bits.
const LENGTH_BYTES_MAX: u32 = 3;
/// Memory is set aside for what has arrived, and this much ahead.
const AHEAD_BYTES: usize = 4 * 1024;

/// Appends a message, which the queue has bounded.
pub(super) fn put(buffer: &mut Vec<u8>, message: &[u8]) {
    let mut length = message.len();
    while length >= 0x80 {
        buffer.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    buffer.push(length as u8);
    buffer.extend_from_slice(message);
}

/// Cuts what arrives into messages.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    length: usize,
    length_bytes: u32,
    /// The message that has begun, while bytes of it are missing.
    message: Option<Vec<u8>>,
}

impl Cutter {
    /// Takes what has arrived, and appends the messages that are whole.
    ///
    /// # Errors
    /// A length of 0, or above [`FRAME_BYTES_MAX`]: nothing after it can be read.
    pub(super) fn take(&mut self, mut bytes: &[u8], messages: &mut VecDeque<Vec<u8>>) -> io::Result<()> {
        while let Some((first, rest)) = bytes.split_first() {
            let Some(message) = &mut self.message else {
                bytes = rest;
                self.length_byte(*first)?;
                continue;
            };
            let (now, later) = bytes.split_at((self.length - message.len()).min(bytes.len()));
            message.extend_from_slice(now);
            bytes = later;
            if message.len() == self.length {
                messages.extend(self.message.take());
                (self.length, self.length_bytes) = (0, 0);
            }
        }
        Ok(())
    }

    fn length_byte(&mut self, byte: u8) -> io::Result<()> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        self.length |= usize::from(byte & 0x7f) << (7 * self.length_bytes);
        self.length_bytes += 1;
        if byte & 0x80 == 0 {
            if !(1..=FRAME_BYTES_MAX).contains(&self.length) {
                return Err(invalid());
            }
            self.message = Some(Vec::with_capacity(self.length.min(AHEAD_BYTES)));
        } else if self.length_bytes == LENGTH_BYTES_MAX {
            return Err(invalid());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(bytes: &[u8], step: usize) -> io::Result<Vec<Vec<u8>>> {
        let (mut cutter, mut messages) = (Cutter::default(), VecDeque::new());
        for chunk in bytes.chunks(step) {
            cutter.take(chunk, &mut messages)?;
        }
        Ok(messages.into())
    }

    #[test]
    fn messages_come_back_however_they_arrive() {
        let messages: Vec<Vec<u8>> =
            [1, 127, 128, 16_383, 16_384, FRAME_BYTES_MAX].iter().map(|n| vec![*n as u8; *n]).collect();
        let mut wire = Vec::new();
        messages.iter().for_each(|m| put(&mut wire, m));
        for step in [1, 2, 3, 1000, wire.len()] {
            assert_eq!(cut(&wire, step).expect("whole"), messages, "{step}");
        }
        assert_eq!(cut(&wire[..wire.len() - 1], 7).expect("so far").len(), messages.len() - 1);
    }

    #[test]
    fn a_length_past_the_bound_is_refused_before_memory_is_taken() {
        let mut long = Vec::new();
        put(&mut long, &vec![0; FRAME_BYTES_MAX + 1]);
        for bad in [&long[..3], &[0], &[0xff, 0xff, 0xff], &[0x80, 0x80, 0x80, 0x01]] {
            assert!(cut(bad, 1).is_err(), "{bad:?}");
        }
        let mut cutter = Cutter::default();
        let mut wire = Vec::new();
        put(&mut wire, &vec![0; FRAME_BYTES_MAX]);
        cutter.take(&wire[..4], &mut VecDeque::new()).expect("a good length");
        assert!(cutter.message.expect("begun").capacity() <= AHEAD_BYTES);
    }
}
