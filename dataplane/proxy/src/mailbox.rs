//! Wake-ups between workers.
//!
//! Anyone may post a token to a worker; the worker takes them all at the start of a turn and before it sleeps.
//! A sleeping worker is woken through its ring once for any number of posts; one that is awake is not bothered.

use crate::store::{Subscriber, Wakeup};
use crossbeam_queue::SegQueue;
use sluice_uring::Wake;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// What one worker is told.
#[derive(Default)]
pub struct Mailbox {
    posts: SegQueue<u64>,
    asleep: AtomicBool,
    waker: OnceLock<Arc<dyn Wake>>,
}

impl Mailbox {
    /// The worker is there; `waker` ends its sleep.
    pub fn attach(&self, waker: Arc<dyn Wake>) {
        // A second worker on the same mailbox would steal posts: the first one stays.
        let _ = self.waker.set(waker);
    }

    /// Posts a token and wakes the worker if it sleeps.
    pub fn post(&self, token: u64) {
        self.posts.push(token);
        self.nudge();
    }

    /// Wakes the worker if it sleeps.
    pub fn nudge(&self) {
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Some(waker) = self.waker.get()
        {
            waker.wake();
        }
    }

    /// The next post.
    pub(crate) fn take(&self) -> Option<u64> {
        self.posts.pop()
    }

    /// About to sleep; false if something was posted meanwhile.
    pub(crate) fn sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.posts.is_empty() {
            return true;
        }
        self.asleep.store(false, Ordering::SeqCst);
        false
    }

    /// Awake again.
    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }
}

/// The mailboxes of all workers of a process.
pub struct Mailboxes(Vec<Arc<Mailbox>>);

impl Mailboxes {
    /// One for each of `workers`.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self((0..workers).map(|_| Arc::default()).collect()))
    }

    /// That of a worker.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn of(&self, worker: usize) -> Arc<Mailbox> {
        self.0[worker].clone()
    }

    /// Wakes every worker that sleeps.
    pub fn nudge_all(&self) {
        self.0.iter().for_each(|m| m.nudge());
    }
}

impl Wakeup for Mailboxes {
    fn wake(&self, who: Subscriber) {
        if let Some(mailbox) = self.0.get(who.worker as usize) {
            mailbox.post(who.token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[derive(Default)]
    struct Counting(AtomicU32);

    impl Wake for Counting {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_sleeper_is_woken_once_for_many_posts_and_never_misses_one() {
        let boxes = Mailboxes::new(2);
        let (mailbox, counting) = (boxes.of(1), Arc::new(Counting::default()));
        mailbox.attach(counting.clone());
        let post = |token| boxes.wake(Subscriber { worker: 1, token });
        post(1);
        assert_eq!(counting.0.load(Ordering::Relaxed), 0, "awake workers are not bothered");
        assert!(!mailbox.sleep(), "a post before sleeping keeps it awake");
        assert_eq!(mailbox.take(), Some(1));
        assert!(mailbox.sleep());
        post(2);
        post(3);
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
        assert_eq!((mailbox.take(), mailbox.take(), mailbox.take()), (Some(2), Some(3), None));
        boxes.wake(Subscriber { worker: 9, token: 0 });
    }
}
