//! The thread that owns the engine, and the handle others reach it by.
//!
//! Inputs wait in a bounded queue and are taken one at a time; between them the engine's timers run. A full
//! queue makes the sender wait: sources and probes slow down rather than get lost.

use crate::clock::{Clock, SystemClock};
use crate::engine::{Engine, SourceEvent};
use crate::goal::Target;
use crate::health::Outcome;
use crate::host::Host;
use crate::probe::Targets;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Inputs that wait: a burst of probe results of the largest pools.
const QUEUE_MAX: usize = 16_384;

type Job<H> = Box<dyn FnOnce(&mut Engine<H>) + Send>;

/// Something for the engine.
pub enum Input<H: Host> {
    /// A source saw something.
    Source(Vec<SourceEvent>, u64),
    /// A probe ended.
    Probe(Target, Outcome),
    /// A probe had to wait for a place.
    ProbeWaited,
    /// A proxy process ended.
    ProxyEnded(u32),
    /// Neighbours, routes or interfaces of the node changed.
    LinksChanged,
    /// A request of the API.
    Call(Job<H>),
    /// End; the node is left as it is.
    Stop,
}

/// Reaches the engine from other threads.
pub struct Handle<H: Host> {
    inputs: SyncSender<Input<H>>,
    /// Number of the newest event.
    pub events: watch::Receiver<u64>,
    /// What to probe.
    pub targets: watch::Receiver<Targets>,
}

impl<H: Host> Clone for Handle<H> {
    fn clone(&self) -> Self {
        Handle { inputs: self.inputs.clone(), events: self.events.clone(), targets: self.targets.clone() }
    }
}

/// The engine is gone.
#[derive(Debug, thiserror::Error)]
#[error("the engine has ended")]
pub struct Ended;

impl<H: Host + 'static> Handle<H> {
    /// Queues an input, waiting while the queue is full.
    ///
    /// # Errors
    /// The engine has ended.
    pub fn send(&self, input: Input<H>) -> Result<(), Ended> {
        self.inputs.send(input).map_err(|_| Ended)
    }

    /// Runs something on the engine's thread.
    ///
    /// # Errors
    /// The engine has ended.
    pub async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Engine<H>) -> T + Send + 'static,
    ) -> Result<T, Ended> {
        let (answer, answered) = oneshot::channel();
        let job = move |engine: &mut Engine<H>| drop(answer.send(job(engine)));
        let inputs = self.inputs.clone();
        // The queue is nearly always free; when it is full the wait must not block this thread.
        let job: Input<H> = Input::Call(Box::new(job));
        match inputs.try_send(job) {
            Ok(()) => {}
            Err(std::sync::mpsc::TrySendError::Disconnected(_)) => return Err(Ended),
            Err(std::sync::mpsc::TrySendError::Full(job)) => {
                let sent = tokio::task::spawn_blocking(move || inputs.send(job)).await;
                sent.map_err(|_| Ended)?.map_err(|_| Ended)?;
            }
        }
        answered.await.map_err(|_| Ended)
    }
}

/// The queue made before the engine, so that its host can already send into it.
pub struct Queue<H: Host> {
    inputs: SyncSender<Input<H>>,
    waiting: Receiver<Input<H>>,
}

impl<H: Host + 'static> Queue<H> {
    /// An empty queue.
    pub fn new() -> Self {
        let (inputs, waiting) = sync_channel(QUEUE_MAX);
        Queue { inputs, waiting }
    }

    /// A sender into it.
    pub fn sender(&self) -> SyncSender<Input<H>> {
        self.inputs.clone()
    }

    /// Starts the thread. `start` makes the engine there; its error comes back.
    ///
    /// # Errors
    /// What `start` said, or that there is no thread.
    pub fn run<E>(
        self,
        clock: SystemClock,
        start: impl FnOnce() -> Result<Engine<H>, E> + Send + 'static,
    ) -> Result<(Handle<H>, std::thread::JoinHandle<()>), E>
    where
        E: From<std::io::Error> + Send + 'static,
    {
        let (event_tell, events) = watch::channel(0);
        let (target_tell, targets) = watch::channel((0, Default::default()));
        let (ready, started) = sync_channel(1);
        let waiting = self.waiting;
        let body = move || {
            let engine = match start() {
                Ok(engine) => engine,
                Err(error) => return drop(ready.send(Err(error))),
            };
            drop(ready.send(Ok(())));
            turn(engine, &waiting, clock, &event_tell, &target_tell);
        };
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(body)?;
        match started.recv() {
            Ok(Ok(())) => Ok((Handle { inputs: self.inputs, events, targets }, thread)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(std::io::Error::other("the engine's thread ended while it started").into()),
        }
    }
}

impl<H: Host + 'static> Default for Queue<H> {
    fn default() -> Self {
        Self::new()
    }
}

fn turn<H: Host>(
    mut engine: Engine<H>,
    waiting: &Receiver<Input<H>>,
    clock: SystemClock,
    events: &watch::Sender<u64>,
    targets: &watch::Sender<Targets>,
) {
    loop {
        if targets.borrow().0 != engine.targets_version() {
            drop(targets.send_replace(engine.targets()));
        }
        events.send_if_modified(|last| std::mem::replace(last, engine.last_event()) != *last);
        let now_ms = clock.now().mono_ms();
        let pause = Duration::from_millis(engine.next_tick_ms().saturating_sub(now_ms));
        match waiting.recv_timeout(pause) {
            Ok(Input::Source(batch, seen_us)) => engine.on_source(batch, seen_us),
            Ok(Input::Probe(target, outcome)) => engine.probe_result(&target, outcome),
            Ok(Input::ProbeWaited) => engine.probe_waited(),
            Ok(Input::ProxyEnded(pid)) => engine.proxy_ended(pid),
            Ok(Input::LinksChanged) => engine.links_changed(),
            Ok(Input::Call(job)) => job(&mut engine),
            Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if engine.is_released() {
            return;
        }
        if engine.next_tick_ms() <= clock.now().mono_ms() {
            engine.tick();
        }
    }
}
