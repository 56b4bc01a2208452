//! The labels by which a service tells gateways how it wants to be called. Nodes write them from their configuration,
//! gateways read them; whoever knows neither sees free labels. Times are decimal seconds.

/// From the last byte of a request to its response's head.
pub const FIRST_BYTE_TIMEOUT: &str = "paceline.first_byte_timeout";
/// From the start of a request to the last byte of its response.
pub const TOTAL_TIMEOUT: &str = "paceline.total_timeout";
/// How long a request waits while every worker has enough to do.
pub const QUEUE_TIMEOUT: &str = "paceline.queue_timeout";
/// By what requests are kept on one worker: `header:NAME`, `cookie:NAME` or `client`.
pub const AFFINITY: &str = "paceline.affinity";
/// `true` where a slow idempotent request may go to a second worker too.
pub const HEDGE: &str = "paceline.hedge";
