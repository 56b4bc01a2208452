//! Length-prefixed frames on one substream. A length is judged before a byte is allocated for it, and memory grows
//! only with what has arrived.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use paceline_proto::wire::{self, Message, WireError};

/// A frame that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The stream broke or ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not hold the message that is due.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(e) => e,
            FrameError::Wire(e) => io::Error::new(io::ErrorKind::InvalidData, e),
        }
    }
}

/// Writes a message as one frame and flushes it.
pub(crate) async fn put<M: Message>(stream: &mut (impl AsyncWrite + Unpin), message: &M) -> Result<(), FrameError> {
    put_bytes(stream, &wire::encode(message)?, M::BYTES_MAX).await
}

/// Reads the frame of a message.
pub(crate) async fn get<M: Message>(stream: &mut (impl AsyncRead + Unpin)) -> Result<M, FrameError> {
    Ok(wire::decode(&get_bytes(stream, M::BYTES_MAX).await?)?)
}

/// Writes bytes as one frame and flushes it.
pub(crate) async fn put_bytes(
    stream: &mut (impl AsyncWrite + Unpin),
    payload: &[u8],
    max: usize,
) -> Result<(), FrameError> {
    let too_long = WireError::TooLong { bytes: payload.len(), max };
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= max).ok_or(too_long)?;
    // one write: a header alone would be a packet of its own
    let mut frame = Vec::with_capacity(4 + payload.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads a frame of at most `max` bytes.
pub(crate) async fn get_bytes(stream: &mut (impl AsyncRead + Unpin), max: usize) -> Result<Vec<u8>, FrameError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length);
    if length as usize > max {
        return Err(WireError::TooLong { bytes: length as usize, max }.into());
    }
    let mut payload = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut payload).await?;
    if payload.len() != length as usize {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use futures::{executor::block_on, io::Cursor};

    use super::*;

    #[test]
    fn bytes_come_back() {
        let mut wire = Vec::new();
        block_on(put_bytes(&mut wire, b"hello", 5)).expect("within the bound");
        assert_eq!(block_on(get_bytes(&mut Cursor::new(&wire), 5)).expect("whole"), b"hello");
    }

    #[test]
    fn a_length_past_the_bound_is_refused_by_both_sides() {
        assert!(matches!(block_on(put_bytes(&mut Vec::new(), b"hello", 4)), Err(FrameError::Wire(_))));
        let claim = u32::MAX.to_be_bytes();
        assert!(matches!(block_on(get_bytes(&mut Cursor::new(claim), 4)), Err(FrameError::Wire(_))));
    }

    #[test]
    fn a_truncated_frame_is_an_error() {
        let mut wire = Vec::new();
        block_on(put_bytes(&mut wire, b"hello", 5)).expect("within the bound");
        for end in 0..wire.len() {
            assert!(matches!(block_on(get_bytes(&mut Cursor::new(&wire[..end]), 5)), Err(FrameError::Io(_))), "{end}");
        }
    }
}
