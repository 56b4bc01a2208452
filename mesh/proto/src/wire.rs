//! The one encoding of everything between nodes: a version byte, then bincode with a limit. Only this file knows bincode.

use serde::{Serialize, de::DeserializeOwned};

/// Version of the wire format; another is refused by name.
pub const WIRE_VERSION: u8 = 1;

/// A message with a bound.
pub trait Message: Serialize + DeserializeOwned {
    /// Most bytes of its encoding, the version byte included.
    const BYTES_MAX: usize;
}

/// Bytes that are not a message, or a message that is too long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Longer than [`Message::BYTES_MAX`].
    #[error("message has {bytes} bytes, at most {max}")]
    TooLong {
        /// How long.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// Of another version.
    #[error("wire version {0} is not {WIRE_VERSION}: one side needs an update")]
    Version(u8),
    /// Truncated, trailing bytes, or not of this type.
    #[error("malformed message")]
    Malformed,
}

/// Encodes a message.
///
/// # Errors
/// [`WireError::TooLong`].
pub fn encode<M: Message>(_message: &M) -> Result<Vec<u8>, WireError> {
    unimplemented!()
}

/// Decodes a message; every byte must be used.
///
/// # Errors
/// Any [`WireError`]. Allocation is bounded by [`Message::BYTES_MAX`].
pub fn decode<M: Message>(_bytes: &[u8]) -> Result<M, WireError> {
    unimplemented!()
}
