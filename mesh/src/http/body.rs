//! One body type for every hop.

use bytes::Bytes;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streamed body: what hyper received, bytes at hand, or anything else boxed. Never buffered.
#[derive(Debug, Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes at hand, given out once.
    Full(Option<Bytes>),
    /// As hyper receives it.
    Incoming(hyper::body::Incoming),
    /// Anything else.
    Boxed(http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    /// Bytes at hand.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Body::Full(Some(bytes.into()))
    }
}
