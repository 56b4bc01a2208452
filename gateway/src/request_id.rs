//! One id for each request, from the caller where it is sane, else our own: in every answer, log line and forwarded
//! request.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Most bytes of a caller's id.
const BYTES_MAX: usize = 128;

/// A request's id: printable ASCII without quotes, 1 to 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's, or one made of 64 random bits.
    pub(crate) fn of(headers: &HeaderMap, draw: impl FnOnce() -> u64) -> Self {
        match headers.get(X_REQUEST_ID) {
            Some(value) if is_sane(value.as_bytes()) => Self(value.clone()),
            _ => Self::from_bits(draw()),
        }
    }

    fn from_bits(bits: u64) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0u8; 16];
        for (i, place) in text.iter_mut().enumerate() {
            *place = DIGITS[(bits >> (60 - 4 * i)) as usize & 15];
        }
        // Hex digits are a valid header value; the other arm is never taken.
        Self(HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0")))
    }

    pub(crate) fn value(&self) -> HeaderValue {
        self.0.clone()
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or("")
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=BYTES_MAX).contains(&id.len()) && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept_and_another_replaced() {
        let mut headers = HeaderMap::new();
        assert_eq!(RequestId::of(&headers, || 0x0123_4567_89ab_cdef).as_str(), "0123456789abcdef");
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("trace-1/2"));
        assert_eq!(RequestId::of(&headers, || 1).as_str(), "trace-1/2");
        for bad in ["", "two words", "a\"b", &"x".repeat(129)] {
            headers.insert(X_REQUEST_ID, HeaderValue::from_str(bad).expect("value"));
            assert_eq!(RequestId::of(&headers, || 1).as_str(), "0000000000000001", "{bad}");
        }
    }
}
