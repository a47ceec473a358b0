//! Open-loop load.
//!
//! A request has an intended send time, and its latency counts from there: a server that stalls delays
//! every request meant for the stall, and each of them shows (no coordinated omission). [`plan`] says what
//! to send, `worker` keeps the schedule of one thread, `session` is one connection, `response`
//! reads answers in place, `stats` and [`report`] keep and print what came of it. `udp` is the same for
//! datagrams.

pub mod generate;
pub mod plan;
pub mod report;
pub mod response;
mod session;
pub mod stats;
pub mod udp;
mod worker;

use plan::Plan;
use report::{Output, Totals};
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Barrier, mpsc};

/// Runs a plan to its end or until `stop`; prints a line a second.
pub fn run(plan: &Plan, output: Output, stop: &AtomicBool) -> io::Result<Totals> {
    let barrier = Barrier::new(plan.threads + 1);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads)
            .map(|thread| {
                let (barrier, sender) = (&barrier, sender.clone());
                scope.spawn(move || worker::run(plan, thread, barrier, stop, &sender))
            })
            .collect();
        drop(sender);
        barrier.wait();
        let totals = report::collect(plan, output, &receiver);
        for thread in threads {
            thread.join().map_err(|_| io::Error::other("a load thread panicked"))??;
        }
        Ok(totals)
    })
}
