//! Requests and responses on a QUIC stream between a gateway and a node: frames of our own instead of HTTP/1.1's text, no
//! task between a request and its stream, and bodies that are not copied on their way into it.
//!
//! A stream carries one request after the other, each answered before the next. Who wants no more of an exchange says so
//! by stopping or resetting the stream; a node that will not read another request finishes the stream between two
//! messages, and then a request that was on its way has certainly not been seen.

pub mod body;
pub(super) mod client;
mod frame;
pub(super) mod reader;
pub(super) mod server;
mod write;
