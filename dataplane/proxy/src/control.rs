//! Orders to workers, from the admin and main threads.

use crate::mailbox::Mailbox;
use crate::worker::Mode;
use crossbeam_queue::SegQueue;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// An order.
#[derive(Debug)]
pub enum Order {
    /// Accept on this listener too.
    Listen(OwnedFd),
    /// See [`Mode`].
    Mode(Mode),
    /// Close every connection and end.
    Cut,
    /// Look at the configuration.
    Look,
}

/// The way to one worker.
#[derive(Clone)]
pub struct Control {
    orders: Arc<SegQueue<Order>>,
    mailbox: Arc<Mailbox>,
}

impl Control {
    /// For the worker with this mailbox.
    pub fn new(mailbox: Arc<Mailbox>) -> Self {
        Self { orders: Arc::default(), mailbox }
    }

    /// Gives an order and wakes the worker.
    pub fn order(&self, order: Order) {
        self.orders.push(order);
        self.mailbox.nudge();
    }

    pub(crate) fn take(&self) -> Option<Order> {
        self.orders.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }
}
