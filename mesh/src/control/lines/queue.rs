//! What waits to be written to one connection: pushed by the loop, taken by the connection's task.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::frames::{self, FRAME_BYTES_MAX};

/// Most messages that wait for one connection.
const QUEUE_MAX: usize = 512;
/// Most bytes of them: all manifests of some 3,000 members, as a newcomer gets them.
const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// So many bytes are written at once; one message may be longer.
const BATCH_BYTES: usize = 16 * 1024;

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
    waker: Option<Waker>,
}

/// A bounded queue with one taker. Its lock is held for as long as a message is moved.
#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<State>);

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message; false where there is no room for it, or it is longer than any may be.
    pub(super) fn push(&self, message: Vec<u8>) -> bool {
        let mut state = self.state();
        let fits = state.messages.len() < QUEUE_MAX && state.bytes + message.len() <= QUEUE_BYTES_MAX;
        if !fits || !(1..=FRAME_BYTES_MAX).contains(&message.len()) {
            return false;
        }
        state.bytes += message.len();
        state.messages.push_back(message);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        true
    }

    /// Whether anything waits; the task is woken when something does.
    pub(super) fn poll_filled(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if !state.messages.is_empty() {
            return Poll::Ready(());
        }
        if state.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Moves a batch into a buffer, as it is written; says how many messages, and their bytes.
    pub(super) fn batch(&self, buffer: &mut Vec<u8>) -> (usize, usize) {
        let (mut count, mut bytes, mut state) = (0, 0, self.state());
        while buffer.len() < BATCH_BYTES
            && let Some(message) = state.messages.pop_front()
        {
            frames::put(buffer, &message);
            count += 1;
            bytes += message.len();
        }
        state.bytes -= bytes;
        (count, bytes)
    }

    /// Takes all that waits.
    pub(super) fn take(&self) -> VecDeque<Vec<u8>> {
        let mut state = self.state();
        state.bytes = 0;
        std::mem::take(&mut state.messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_so_many_messages_and_so_many_bytes() {
        let queue = Queue::default();
        assert!((0..QUEUE_MAX).all(|_| queue.push(vec![1])));
        assert!(!queue.push(vec![1]), "the newest is dropped");
        assert_eq!(queue.take().len(), QUEUE_MAX);
        assert!((0..QUEUE_BYTES_MAX / FRAME_BYTES_MAX).all(|_| queue.push(vec![1; FRAME_BYTES_MAX])));
        assert!(!queue.push(vec![1]));
        let mut buffer = Vec::new();
        assert_eq!(queue.batch(&mut buffer), (1, FRAME_BYTES_MAX), "one that is longer than a batch goes alone");
        assert!(queue.push(vec![1]), "and makes room");
    }

    #[test]
    fn what_cannot_be_framed_is_not_taken() {
        let queue = Queue::default();
        assert!(!queue.push(vec![]) && !queue.push(vec![0; FRAME_BYTES_MAX + 1]));
    }
}
