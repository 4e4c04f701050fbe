//! A queue from any thread into the event loop of one.
//!
//! ```text
//!  Sender ---push---> [ VecDeque under a Mutex ] ---drain---> Mailbox (the loop's thread)
//!         \---wake, only when it was empty---> mio::Waker ---> the loop's poll
//! ```
//!
//! Owns the lock and the wake-up. Bounded by construction: a push into a full queue hands the value
//! back. Never blocks longer than another thread's push.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::Waker;

struct Shared<T> {
    queue: Mutex<VecDeque<T>>,
    waker: Arc<Waker>,
    max: usize,
}

impl<T> Shared<T> {
    /// A queue is whole after every push and drain, so a panic of another thread breaks nothing.
    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiving end: owned by one event loop.
pub struct Mailbox<T> {
    shared: Arc<Shared<T>>,
}

/// The sending end: cloned freely.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// Why a value did not go into a mailbox; gives it back.
#[derive(Debug)]
pub enum SendError<T> {
    /// The queue holds its maximum.
    Full(T),
    /// It is in the queue, but the loop could not be woken (it finds it at its next turn).
    NotWoken(io::Error),
}

/// A mailbox that holds at most `max` values and wakes the loop behind `waker`.
pub fn mailbox<T>(waker: Arc<Waker>, max: usize) -> (Sender<T>, Mailbox<T>) {
    let shared = Arc::new(Shared { queue: Mutex::new(VecDeque::new()), waker, max: max.max(1) });
    (Sender { shared: Arc::clone(&shared) }, Mailbox { shared })
}

impl<T> Sender<T> {
    /// Puts `value` at the end of the queue, and wakes the loop if the queue was empty.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        let was_empty = {
            let mut queue = self.shared.lock();
            if queue.len() >= self.shared.max {
                return Err(SendError::Full(value));
            }
            queue.push_back(value);
            queue.len() == 1
        };
        if was_empty {
            self.shared.waker.wake().map_err(SendError::NotWoken)?;
        }
        Ok(())
    }

    /// How many values wait.
    pub fn len(&self) -> usize {
        self.shared.lock().len()
    }

    /// Does nothing wait?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Wakes the loop without a value, to make it look at something else that is shared.
    ///
    /// # Errors
    /// The waker's descriptor is broken.
    pub fn wake(&self) -> io::Result<()> {
        self.shared.waker.wake()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Mailbox<T> {
    /// Moves everything that waits to the end of `out`, oldest first; the lock is held for a swap
    /// only when `out` is empty. Values sent from now on wake the loop again.
    pub fn drain(&self, out: &mut VecDeque<T>) {
        let mut queue = self.shared.lock();
        if out.is_empty() {
            std::mem::swap(&mut *queue, out);
        } else {
            out.append(&mut queue);
        }
    }

    /// Takes the oldest value. For a loop that must not take all at once: whoever leaves values
    /// behind has to come back on its own, since a non-empty queue wakes nobody.
    pub fn pop(&self) -> Option<T> {
        self.shared.lock().pop_front()
    }

    /// Another sending end.
    pub fn sender(&self) -> Sender<T> {
        Sender { shared: Arc::clone(&self.shared) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token};
    use std::time::Duration;

    fn poll() -> (Poll, Arc<Waker>) {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(7)).unwrap());
        (poll, waker)
    }

    #[test]
    fn wakes_once_and_keeps_order() {
        let (mut poll, waker) = poll();
        let (tx, rx) = mailbox(waker, 100);
        let thread = std::thread::spawn(move || (0..50).for_each(|n| tx.send(n).unwrap()));
        let mut events = Events::with_capacity(4);
        let (mut got, mut batch) = (Vec::new(), VecDeque::new());
        while got.len() < 50 {
            poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
            assert!(!events.is_empty(), "a send was not announced; got {got:?}");
            rx.drain(&mut batch);
            got.extend(batch.drain(..));
        }
        thread.join().unwrap();
        assert_eq!(got, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn full_gives_back_and_only_the_first_send_wakes() {
        let (mut poll, waker) = poll();
        let (tx, rx) = mailbox(waker, 2);
        let mut events = Events::with_capacity(4);
        tx.send('a').unwrap();
        poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        assert_eq!(events.iter().count(), 1);
        tx.send('b').unwrap();
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.iter().count(), 0, "the loop was already told");
        assert!(matches!(tx.send('c'), Err(SendError::Full('c'))));
        assert_eq!((rx.pop(), rx.pop(), rx.pop()), (Some('a'), Some('b'), None));
    }
}
