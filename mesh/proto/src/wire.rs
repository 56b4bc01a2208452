//! The one encoding of everything between nodes: a version byte, then bincode with a limit. Only this file knows bincode.
//!
//! A message that decodes has used every byte, is within its bound, and cost at most [`ALLOCATION_MAX`] to read: lengths
//! inside a message are checked against what may stand there before anything is allocated for them.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _, SeqAccess, Visitor},
};

/// Version of the wire format; another is refused by name.
pub const WIRE_VERSION: u8 = 1;

/// Most bytes that any message may have, the version byte included.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Most bytes that decoding claims for the values inside a message. A number counts at its full width here but is shorter
/// on the wire, hence the factor over [`MESSAGE_BYTES_MAX`].
pub const ALLOCATION_MAX: usize = 2 * MESSAGE_BYTES_MAX;

const CONFIG: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<ALLOCATION_MAX>,
> = bincode::config::standard().with_limit::<ALLOCATION_MAX>();

/// A message with a bound.
pub trait Message: Serialize + DeserializeOwned {
    /// Most bytes of its encoding, the version byte included; at most [`MESSAGE_BYTES_MAX`].
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
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![WIRE_VERSION];
    bincode::serde::encode_into_std_write(message, &mut bytes, CONFIG).map_err(|_| WireError::Malformed)?;
    if bytes.len() > M::BYTES_MAX {
        return Err(WireError::TooLong { bytes: bytes.len(), max: M::BYTES_MAX });
    }
    Ok(bytes)
}

/// Decodes a message; every byte must be used.
///
/// # Errors
/// Any [`WireError`]. Allocation is bounded by [`ALLOCATION_MAX`], whatever the bytes claim.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, WireError> {
    if bytes.len() > M::BYTES_MAX {
        return Err(WireError::TooLong { bytes: bytes.len(), max: M::BYTES_MAX });
    }
    let (version, body) = bytes.split_first().ok_or(WireError::Malformed)?;
    if *version != WIRE_VERSION {
        return Err(WireError::Version(*version));
    }
    let (message, used) = bincode::serde::decode_from_slice(body, CONFIG).map_err(|_| WireError::Malformed)?;
    if used == body.len() { Ok(message) } else { Err(WireError::Malformed) }
}

/// How many bytes a value takes inside a message; `None` where it cannot be encoded.
pub(crate) fn size_of<T: Serialize>(value: &T) -> Option<usize> {
    let mut counter = Counter(0);
    bincode::serde::encode_into_std_write(value, &mut counter, CONFIG).ok()?;
    Some(counter.0)
}

struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads a list of at most `MAX`; a longer one is refused before its first element is read.
pub(crate) fn list<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct List<T, const MAX: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            if seq.size_hint().is_some_and(|n| n > MAX) {
                return Err(A::Error::custom("list too long"));
            }
            let mut list = Vec::new();
            while let Some(element) = seq.next_element()? {
                if list.len() == MAX {
                    return Err(A::Error::custom("list too long"));
                }
                list.push(element);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(List::<T, MAX>(PhantomData))
}

/// Bytes as bytes, not as a list of numbers: their length is checked before they are allocated.
pub(crate) mod bytes {
    use super::*;

    pub(crate) fn serialize<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }

        deserializer.deserialize_byte_buf(Bytes)
    }
}

#[cfg(test)]
mod tests;
