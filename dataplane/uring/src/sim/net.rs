//! Connections, faults and the clock of the simulated network.

use super::{SimIo, SimWake};
use crate::io::{Event, Sock};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

const ECONNRESET: i32 = 104;
const ECONNREFUSED: i32 = 111;
const ECANCELED: i32 = 125;
/// First port of the connecting side.
const EPHEMERAL: u16 = 32_768;

/// Chances and times of what can go wrong. Chances are in thousandths.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Delay of a message, us: least and most.
    pub delay_us: (u64, u64),
    /// A part of a send is cut shorter.
    pub split: u32,
    /// A connect is refused.
    pub refuse: u32,
    /// A delivery resets its connection instead.
    pub reset: u32,
    /// Bytes under way or unread on one direction of a connection.
    pub window: usize,
    /// Largest part received at once.
    pub part: usize,
}

impl Default for Faults {
    fn default() -> Self {
        Self { delay_us: (20, 500), split: 200, refuse: 0, reset: 0, window: 64 << 10, part: 4096 }
    }
}

pub(crate) enum Happened {
    Plain(Event),
    Bytes(Sock, Vec<u8>),
}

#[derive(Debug)]
enum Action {
    /// A connect reaches the other side.
    Syn {
        conn: usize,
    },
    /// Its answer comes back.
    SynAck {
        conn: usize,
        errno: i32,
    },
    /// Bytes arrive at a side.
    Bytes {
        conn: usize,
        side: usize,
        bytes: Vec<u8>,
    },
    Fin {
        conn: usize,
        side: usize,
    },
    Reset {
        conn: usize,
        side: usize,
    },
    /// A side may hand over more of what it sends.
    Push {
        conn: usize,
        side: usize,
    },
}

#[derive(Default)]
struct End {
    node: usize,
    sock: Option<Sock>,
    addr: Option<SocketAddr>,
    /// Arrived and not taken.
    unread: VecDeque<u8>,
    fin: bool,
    fin_told: bool,
    receiving: bool,
    /// Being sent: bytes and how many went.
    out: Option<(Vec<u8>, usize)>,
    /// Bytes this side has under way.
    under_way: usize,
    shut: bool,
    /// Arrival time of the last message of this side: order is kept.
    last_us: u64,
}

#[derive(Default)]
struct Conn {
    ends: [End; 2],
    to: Option<SocketAddr>,
    dead: bool,
}

enum Slot {
    Free,
    Listener { port: u16, accepting: bool, backlog: VecDeque<usize> },
    End { conn: usize, side: usize },
}

struct Node {
    address: IpAddr,
    slots: Vec<(u32, Slot)>,
    free: Vec<u32>,
    events: VecDeque<Happened>,
    wake: Arc<SimWake>,
    alive: bool,
}

pub(crate) struct Inner {
    now_us: u64,
    random: u64,
    faults: Faults,
    nodes: Vec<Node>,
    conns: Vec<Conn>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    actions: BTreeMap<(u64, u64), Action>,
    sequence: u64,
    ports: u16,
    cut: BTreeSet<(IpAddr, IpAddr)>,
}

/// The network. Clones share it.
#[derive(Clone)]
pub struct SimNet(Rc<RefCell<Inner>>);

impl SimNet {
    /// An empty network.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            now_us: 0,
            random: seed,
            faults,
            nodes: Vec::new(),
            conns: Vec::new(),
            queue: BinaryHeap::new(),
            actions: BTreeMap::new(),
            sequence: 0,
            ports: EPHEMERAL,
            cut: BTreeSet::new(),
        })))
    }

    /// A node with this address; one that was killed starts anew under it.
    pub fn node(&self, address: IpAddr) -> SimIo {
        let mut inner = self.0.borrow_mut();
        let wake = Arc::new(SimWake::default());
        inner.nodes.push(Node {
            address,
            slots: Vec::new(),
            free: Vec::new(),
            events: VecDeque::new(),
            wake: wake.clone(),
            alive: true,
        });
        SimIo::new(self.0.clone(), inner.nodes.len() - 1, wake)
    }

    /// Virtual time, us.
    pub fn now_us(&self) -> u64 {
        self.0.borrow().now_us
    }

    /// When something happens next, us.
    pub fn next_us(&self) -> Option<u64> {
        self.0.borrow().queue.peek().map(|Reverse((at, _))| *at)
    }

    /// Moves the clock to `us`, delivering on the way.
    pub fn advance(&self, us: u64) {
        self.0.borrow_mut().advance(us);
    }

    /// The node has something to look at.
    pub fn is_ready(&self, io: &SimIo) -> bool {
        let inner = self.0.borrow();
        let node = &inner.nodes[io.node];
        !node.events.is_empty() || node.wake.is_set()
    }

    /// Changes the chances from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }

    /// Cuts two addresses apart, or joins them: connects between them get no answer, connections stall.
    pub fn set_cut(&self, a: IpAddr, b: IpAddr, cut: bool) {
        let mut inner = self.0.borrow_mut();
        for pair in [(a, b), (b, a)] {
            if cut {
                inner.cut.insert(pair);
            } else {
                inner.cut.remove(&pair);
            }
        }
        if !cut {
            inner.wake_stalled();
        }
    }

    /// The node's process dies: its connections are reset, its listeners gone.
    pub fn kill(&self, io: &SimIo) {
        self.0.borrow_mut().kill(io.node);
    }

    /// Resets one connection of a node, if it has any, chosen by the seed.
    pub fn reset_one(&self, io: &SimIo) -> bool {
        self.0.borrow_mut().reset_one(io.node)
    }
}

impl Inner {
    fn draw(&mut self, below: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn chance(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.draw(1000) < u64::from(thousandths)
    }

    fn schedule(&mut self, at_us: u64, action: Action) {
        self.sequence += 1;
        self.queue.push(Reverse((at_us, self.sequence)));
        self.actions.insert((at_us, self.sequence), action);
    }

    /// Schedules a message of `side`, behind those it sent before.
    fn transmit(&mut self, conn: usize, side: usize, action: Action) {
        let (least, most) = self.faults.delay_us;
        let delay = least + self.draw(most.saturating_sub(least) + 1);
        let at = (self.now_us + delay).max(self.conns[conn].ends[side].last_us);
        self.conns[conn].ends[side].last_us = at;
        self.schedule(at, action);
    }

    fn insert(&mut self, node: usize, slot: Slot) -> Sock {
        let node = &mut self.nodes[node];
        match node.free.pop() {
            Some(index) => {
                node.slots[index as usize].1 = slot;
                Sock { index, generation: node.slots[index as usize].0 }
            }
            None => {
                node.slots.push((0, slot));
                Sock { index: node.slots.len() as u32 - 1, generation: 0 }
            }
        }
    }

    fn slot(&mut self, node: usize, sock: Sock) -> Option<&mut Slot> {
        let (generation, slot) = self.nodes[node].slots.get_mut(sock.index as usize)?;
        (*generation == sock.generation && !matches!(slot, Slot::Free)).then_some(slot)
    }

    fn end(&mut self, node: usize, sock: Sock) -> Option<(usize, usize)> {
        match self.slot(node, sock)? {
            Slot::End { conn, side } => Some((*conn, *side)),
            Slot::Free | Slot::Listener { .. } => None,
        }
    }

    fn tell(&mut self, conn: usize, side: usize, make: impl FnOnce(Sock) -> Happened) {
        let end = &self.conns[conn].ends[side];
        if let Some(sock) = end.sock {
            self.nodes[end.node].events.push_back(make(sock));
        }
    }

    pub(super) fn address(&self, node: usize) -> IpAddr {
        self.nodes[node].address
    }

    pub(super) fn listen(&mut self, node: usize, port: u16) -> Sock {
        self.insert(node, Slot::Listener { port, accepting: false, backlog: VecDeque::new() })
    }

    pub(super) fn set_accepting(&mut self, node: usize, listener: Sock, on: bool) {
        let Some(Slot::Listener { accepting, backlog, .. }) = self.slot(node, listener) else { return };
        let was = std::mem::replace(accepting, on);
        if on {
            let waiting = std::mem::take(backlog);
            waiting.into_iter().for_each(|conn| self.accepted(node, listener, conn));
        } else if was {
            let ended = Event::AcceptEnded { listener, errno: ECANCELED };
            self.nodes[node].events.push_back(Happened::Plain(ended));
        }
    }

    fn accepted(&mut self, node: usize, listener: Sock, conn: usize) {
        let sock = self.insert(node, Slot::End { conn, side: 1 });
        self.conns[conn].ends[1].sock = Some(sock);
        self.nodes[node].events.push_back(Happened::Plain(Event::Accepted { listener, sock }));
    }

    pub(super) fn connect(&mut self, node: usize, to: SocketAddr) -> Sock {
        let conn = self.conns.len();
        let sock = self.insert(node, Slot::End { conn, side: 0 });
        self.ports = if self.ports == u16::MAX { EPHEMERAL } else { self.ports + 1 };
        let addr = SocketAddr::new(self.nodes[node].address, self.ports);
        let mut fresh = Conn { to: Some(to), ..Conn::default() };
        fresh.ends[0] = End { node, sock: Some(sock), addr: Some(addr), ..End::default() };
        fresh.ends[1].addr = Some(to);
        self.conns.push(fresh);
        self.transmit(conn, 0, Action::Syn { conn });
        sock
    }

    fn is_cut(&self, conn: usize) -> bool {
        let [a, b] = &self.conns[conn].ends;
        match (a.addr, b.addr) {
            (Some(a), Some(b)) => self.cut.contains(&(a.ip(), b.ip())),
            _ => false,
        }
    }

    fn wake_stalled(&mut self) {
        for conn in 0..self.conns.len() {
            if self.conns[conn].dead || self.is_cut(conn) {
                continue;
            }
            for side in 0..2 {
                if self.conns[conn].ends[side].out.is_some() {
                    self.transmit(conn, side, Action::Push { conn, side });
                }
            }
        }
    }

    pub(super) fn set_receiving(&mut self, node: usize, sock: Sock, on: bool) {
        let Some((conn, side)) = self.end(node, sock) else { return };
        let end = &mut self.conns[conn].ends[side];
        let was = std::mem::replace(&mut end.receiving, on);
        if on {
            self.hand_in(conn, side);
        } else if was && !self.conns[conn].ends[side].fin_told {
            self.tell(conn, side, |sock| Happened::Plain(Event::RecvIdle { sock, starved: false }));
        }
    }

    /// Bytes a starved endpoint could not take.
    pub(super) fn put_back(&mut self, node: usize, sock: Sock, bytes: Vec<u8>) {
        let Some((conn, side)) = self.end(node, sock) else { return };
        // What is queued behind these bytes goes back with them, in order.
        let (mut bytes, mut eof) = (bytes, false);
        self.nodes[node].events.retain(|happened| match happened {
            Happened::Bytes(other, more) if *other == sock => {
                bytes.extend_from_slice(more);
                false
            }
            Happened::Plain(Event::Eof { sock: other, errno: 0 }) if *other == sock => {
                eof = true;
                false
            }
            _ => true,
        });
        let end = &mut self.conns[conn].ends[side];
        end.receiving = false;
        end.fin_told &= !eof;
        bytes.into_iter().rev().for_each(|b| end.unread.push_front(b));
    }

    /// Gives arrived bytes to a side that receives.
    fn hand_in(&mut self, conn: usize, side: usize) {
        let part = self.faults.part.max(1);
        loop {
            let end = &mut self.conns[conn].ends[side];
            if !end.receiving || end.unread.is_empty() {
                break;
            }
            let n = end.unread.len().min(part);
            let bytes: Vec<u8> = end.unread.drain(..n).collect();
            self.tell(conn, side, |sock| Happened::Bytes(sock, bytes));
            let other = &mut self.conns[conn].ends[1 - side];
            other.under_way = other.under_way.saturating_sub(n);
            if other.out.is_some() {
                self.transmit(conn, 1 - side, Action::Push { conn, side: 1 - side });
            }
        }
        let end = &mut self.conns[conn].ends[side];
        if end.receiving && end.fin && !end.fin_told && end.unread.is_empty() {
            end.fin_told = true;
            end.receiving = false;
            self.tell(conn, side, |sock| Happened::Plain(Event::Eof { sock, errno: 0 }));
        }
    }

    pub(super) fn send(&mut self, node: usize, sock: Sock, bytes: Vec<u8>) {
        let Some((conn, side)) = self.end(node, sock) else { return };
        let end = &mut self.conns[conn].ends[side];
        assert!(end.out.is_none(), "a send is under way on {sock:?}");
        end.out = Some((bytes, 0));
        if self.conns[conn].dead {
            return self.sent(conn, side, 0, ECONNRESET);
        }
        self.push(conn, side);
    }

    fn sent(&mut self, conn: usize, side: usize, bytes: usize, errno: i32) {
        let end = &mut self.conns[conn].ends[side];
        let done = errno != 0 || end.out.as_ref().is_none_or(|(all, went)| *went == all.len());
        if done {
            end.out = None;
        }
        self.tell(conn, side, |sock| Happened::Plain(Event::Sent { sock, bytes: bytes as u32, done, errno }));
    }

    /// Hands over as much of a send as the window takes.
    fn push(&mut self, conn: usize, side: usize) {
        if self.is_cut(conn) {
            return;
        }
        let room = self.faults.window.saturating_sub(self.conns[conn].ends[side].under_way);
        let Some((bytes, went)) = &self.conns[conn].ends[side].out else { return };
        let left = bytes.len() - went;
        let mut n = left.min(room);
        if n == 0 && left > 0 {
            return;
        }
        let split = self.faults.split;
        if n > 1 && self.chance(split) {
            n = 1 + self.draw(n as u64 - 1) as usize;
        }
        let end = &mut self.conns[conn].ends[side];
        let Some((bytes, went)) = &mut end.out else { return };
        let part = bytes[*went..*went + n].to_vec();
        *went += n;
        end.under_way += n;
        let more = *went < bytes.len();
        if n > 0 {
            self.transmit(conn, side, Action::Bytes { conn, side: 1 - side, bytes: part });
        }
        self.sent(conn, side, n, 0);
        if more {
            self.transmit(conn, side, Action::Push { conn, side });
        }
    }

    pub(super) fn shutdown_write(&mut self, node: usize, sock: Sock) {
        let Some((conn, side)) = self.end(node, sock) else { return };
        self.fin(conn, side);
    }

    fn fin(&mut self, conn: usize, side: usize) {
        let end = &mut self.conns[conn].ends[side];
        if !std::mem::replace(&mut end.shut, true) && !self.conns[conn].dead {
            self.transmit(conn, side, Action::Fin { conn, side: 1 - side });
        }
    }

    pub(super) fn close(&mut self, node: usize, sock: Sock, reset: bool) {
        let Some(slot) = self.slot(node, sock) else { return };
        let old = std::mem::replace(slot, Slot::Free);
        self.nodes[node].slots[sock.index as usize].0 += 1;
        self.nodes[node].free.push(sock.index);
        self.nodes[node].events.retain(|happened| names(happened) != Some(sock));
        match old {
            Slot::Free => {}
            Slot::Listener { backlog, .. } => backlog.into_iter().for_each(|conn| self.reset(conn, 0)),
            Slot::End { conn, side } => {
                let end = &mut self.conns[conn].ends[side];
                end.sock = None;
                // As TCP does: unread bytes make a close a reset.
                let reset = reset || !end.unread.is_empty();
                end.unread.clear();
                if reset { self.reset(conn, 1 - side) } else { self.fin(conn, side) }
            }
        }
    }

    /// Tells a side that its connection broke.
    fn reset(&mut self, conn: usize, side: usize) {
        if !self.conns[conn].dead {
            self.transmit(conn, 1 - side, Action::Reset { conn, side });
        }
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].alive = false;
        self.nodes[node].events.clear();
        let slots: Vec<Sock> = self.nodes[node]
            .slots
            .iter()
            .enumerate()
            .filter(|(_, (_, slot))| !matches!(slot, Slot::Free))
            .map(|(index, (generation, _))| Sock { index: index as u32, generation: *generation })
            .collect();
        slots.into_iter().for_each(|sock| self.close(node, sock, true));
    }

    fn reset_one(&mut self, node: usize) -> bool {
        let open: Vec<usize> = (0..self.conns.len())
            .filter(|&c| {
                !self.conns[c].dead && self.conns[c].ends.iter().any(|e| e.node == node && e.sock.is_some())
            })
            .collect();
        if open.is_empty() {
            return false;
        }
        let conn = open[self.draw(open.len() as u64) as usize];
        self.break_now(conn);
        true
    }

    /// Both sides learn at once that a connection is gone.
    fn break_now(&mut self, conn: usize) {
        self.conns[conn].dead = true;
        for side in 0..2 {
            self.broken(conn, side);
        }
    }

    fn broken(&mut self, conn: usize, side: usize) {
        self.conns[conn].dead = true;
        let end = &mut self.conns[conn].ends[side];
        end.unread.clear();
        let told = std::mem::replace(&mut end.fin_told, true);
        if end.out.is_some() {
            self.sent(conn, side, 0, ECONNRESET);
        }
        if !told {
            self.tell(conn, side, |sock| Happened::Plain(Event::Eof { sock, errno: ECONNRESET }));
        }
    }

    pub(super) fn peer(&self, node: usize, sock: Sock) -> Option<SocketAddr> {
        let (generation, slot) = self.nodes[node].slots.get(sock.index as usize)?;
        match slot {
            Slot::End { conn, side } if *generation == sock.generation => {
                self.conns[*conn].ends[1 - side].addr
            }
            _ => None,
        }
    }

    pub(super) fn next_event(&mut self, node: usize) -> Option<Happened> {
        self.nodes[node].events.pop_front()
    }

    fn advance(&mut self, us: u64) {
        while let Some(&Reverse((at, sequence))) = self.queue.peek()
            && at <= us
        {
            self.queue.pop();
            self.now_us = self.now_us.max(at);
            if let Some(action) = self.actions.remove(&(at, sequence)) {
                self.act(action);
            }
        }
        self.now_us = self.now_us.max(us);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Syn { conn } => self.syn(conn),
            Action::SynAck { conn, errno } => {
                self.tell(conn, 0, |sock| Happened::Plain(Event::Connected { sock, errno }));
            }
            Action::Push { conn, side } if !self.conns[conn].dead => self.push(conn, side),
            Action::Bytes { conn, side, bytes } if !self.conns[conn].dead => {
                let reset = self.faults.reset;
                if self.chance(reset) {
                    return self.break_now(conn);
                }
                if self.conns[conn].ends[side].sock.is_none() && side == 0 {
                    // Bytes for a closed socket are answered by a reset.
                    return self.reset(conn, 1 - side);
                }
                self.conns[conn].ends[side].unread.extend(bytes);
                self.hand_in(conn, side);
            }
            Action::Fin { conn, side } if !self.conns[conn].dead => {
                self.conns[conn].ends[side].fin = true;
                self.hand_in(conn, side);
            }
            Action::Reset { conn, side } if !self.conns[conn].dead => self.broken(conn, side),
            Action::Push { .. } | Action::Bytes { .. } | Action::Fin { .. } | Action::Reset { .. } => {}
        }
    }

    fn syn(&mut self, conn: usize) {
        if self.is_cut(conn) || self.conns[conn].ends[0].sock.is_none() {
            return;
        }
        let Some(to) = self.conns[conn].to else { return };
        let refuse = self.faults.refuse;
        let place = self.nodes.iter().enumerate().filter(|(_, n)| n.alive && n.address == to.ip()).find_map(
            |(node, n)| {
                let index = n.slots.iter().position(
                    |(_, slot)| matches!(slot, Slot::Listener { port, .. } if *port == to.port()),
                )?;
                Some((node, Sock { index: index as u32, generation: n.slots[index].0 }))
            },
        );
        let Some((node, listener)) = place.filter(|_| !self.chance(refuse)) else {
            self.conns[conn].dead = true;
            return self.transmit(conn, 1, Action::SynAck { conn, errno: ECONNREFUSED });
        };
        self.conns[conn].ends[1].node = node;
        self.transmit(conn, 1, Action::SynAck { conn, errno: 0 });
        match self.slot(node, listener) {
            Some(Slot::Listener { accepting: true, .. }) => self.accepted(node, listener, conn),
            Some(Slot::Listener { backlog, .. }) => backlog.push_back(conn),
            _ => {}
        }
    }
}

/// Socket an event is about.
fn names(happened: &Happened) -> Option<Sock> {
    match happened {
        Happened::Bytes(sock, _) => Some(*sock),
        Happened::Plain(event) => match event {
            Event::Accepted { sock, .. }
            | Event::Connected { sock, .. }
            | Event::Data { sock, .. }
            | Event::Eof { sock, .. }
            | Event::RecvIdle { sock, .. }
            | Event::Sent { sock, .. } => Some(*sock),
            Event::AcceptEnded { listener, .. } => Some(*listener),
            Event::Woken => None,
        },
    }
}
