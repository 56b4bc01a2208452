//! Lanes: one current-thread tokio runtime per core, each on its own thread. HTTP listeners, QUIC connections and
//! requests live on a lane and stay there.

/// The lanes of this process.
pub struct Lanes {}

impl Lanes {
    /// Starts `count` lanes (at least one).
    ///
    /// # Errors
    /// A thread or a runtime that cannot be made.
    pub fn start(_count: usize) -> std::io::Result<std::sync::Arc<Self>> {
        unimplemented!()
    }

    /// One for each core that this process may use, at most 16.
    pub fn default_count() -> usize {
        std::thread::available_parallelism().map_or(1, |n| n.get().min(16))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        unimplemented!()
    }

    /// The runtime of a lane; spawn on it, and whatever the task awaits runs there.
    pub fn handle(&self, _lane: usize) -> &tokio::runtime::Handle {
        unimplemented!()
    }
}
