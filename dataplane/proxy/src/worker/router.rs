//! From a request to what is to be done with it.
//!
//! ```text
//! host and path -> route -> not cacheable: upstream of the route
//!                        -> key -> another member's, and not sent by a peer: that member
//!                               -> ours: store, fill in flight, or a fill of our own
//! ```

use super::Worker;
use super::forward::Plan;
use crate::answer::Why;
use crate::cached::{Saved, is_cached_method};
use crate::exchange::{Candidate, Tier};
use crate::session::Trust;
use sluice_core::cache::{self, CacheKey, KeySeed, MethodClass, RequestControl, Scheme, request_key};
use sluice_core::http1::{BodyFraming, FieldId, Method, RequestHead};
use sluice_core::route::RouteMatch;
use sluice_uring::{Io, Sock};

/// Members a request may have passed: a peer, its parent, that one's peer, and one to spare.
const HOPS_MAX: usize = 4;
/// Requests in flight at a peer that do not count as load: a handful more at one member than at another is
/// chance, and bounding it would scatter keys for nothing.
const LOAD_FREE: u64 = 256;
/// Preconditions that only the origin can judge (RFC 9110 section 13.1).
const ORIGIN_CONDITIONS: u64 = FieldId::IfMatch.bit() | FieldId::IfUnmodifiedSince.bit();

impl<I: Io> Worker<I> {
    pub(super) fn route_request(
        &mut self,
        sock: Sock,
        head: &mut RequestHead,
        bytes: &[u8],
        buffered: usize,
    ) {
        let Some(hop) = self.hop(sock, head, bytes) else {
            self.ctx.stats.refused.loop_detected.add(1);
            return self.refuse(sock, head, 508, "loop_detected");
        };
        let published = self.ctx.published.clone();
        let Some(matched) = published.table.lookup(head.host(), head.path(bytes)) else {
            self.ctx.stats.refused.unknown_host.add(1);
            return self.refuse(sock, head, 421, "unknown_host");
        };
        self.sites.request(&matched, &published.table);
        let bodyless = matches!(head.framing, BodyFraming::None | BodyFraming::Length(0));
        let why = if !is_cached_method(head.method) || !bodyless {
            Some(Why::Method)
        } else if !matched.cache || self.ctx.store.is_none() {
            Some(Why::Bypass)
        } else if head.fields.present() & ORIGIN_CONDITIONS != 0 {
            Some(Why::Request)
        } else {
            None
        };
        let key = self.key(head, bytes);
        if let Some(why) = why {
            self.ctx.stats.counters.passes.add(1);
            return self.pass(sock, head, bytes, buffered, key, &matched, hop, why);
        }
        if hop.is_empty() && self.ctx.group.is_some() {
            let peers = self.peers(key);
            if !peers.is_empty() {
                let now_ms = self.ctx.now.ms();
                if !self.hot.touch(key.owner_hash(), now_ms) {
                    return self.forward_to_owner(sock, head, bytes, key, &matched, peers);
                }
                // A hot key is copied: answered here, and filled from its owner.
                self.ctx.stats.counters.hot_requests.add(1);
                return self.lookup(sock, head, bytes, key, &matched, hop, peers);
            }
        }
        self.lookup(sock, head, bytes, key, &matched, hop, Vec::new());
    }

    /// The hop mark as believed: empty for none; `None` if the request has been here.
    fn hop(&mut self, sock: Sock, head: &RequestHead, bytes: &[u8]) -> Option<Vec<u8>> {
        let fields = head.fields(bytes);
        if head.fields.has(FieldId::Via) {
            let name = self.ctx.name.as_bytes();
            let mut names = fields
                .list(FieldId::Via)
                .filter_map(|via| via.split(|b| *b == b' ').filter(|part| !part.is_empty()).nth(1));
            if names.any(|n| n.eq_ignore_ascii_case(name)) {
                return None;
            }
        }
        if !head.fields.has(FieldId::SluiceHop) {
            return Some(Vec::new());
        }
        if !self.is_member(sock) {
            self.ctx.stats.counters.hop_untrusted.add(1);
            return Some(Vec::new());
        }
        self.ctx.stats.counters.peer_requests.add(1);
        let own = self.ctx.member_name().as_bytes();
        let mut value = Vec::new();
        for (n, name) in fields.list(FieldId::SluiceHop).enumerate() {
            if name == own || n + 1 >= HOPS_MAX {
                return None;
            }
            if n > 0 {
                value.extend_from_slice(b", ");
            }
            value.extend_from_slice(name);
        }
        Some(value)
    }

    fn is_member(&mut self, sock: Sock) -> bool {
        let Some(group) = &self.ctx.group else { return false };
        let Some(client) = self.table.client(sock) else { return false };
        if client.trust == Trust::Unknown {
            let trusted = self.io.peer(sock).is_some_and(|peer| group.trusts(peer.ip()));
            client.trust = if trusted { Trust::Member } else { Trust::Stranger };
        }
        client.trust == Trust::Member
    }

    fn key(&mut self, head: &RequestHead, bytes: &[u8]) -> CacheKey {
        let target = head.path_and_query(bytes);
        match head.port {
            None | Some(80) => self.key_of(head.host(), target),
            Some(port) => {
                let mut host = std::mem::take(&mut self.key_host);
                host.clear();
                host.extend_from_slice(head.host());
                host.push(b':');
                sluice_core::http1::write_decimal(u64::from(port), &mut host);
                let key = self.key_of(&host, target);
                self.key_host = host;
                key
            }
        }
    }

    fn key_of(&self, host: &[u8], target: &[u8]) -> CacheKey {
        request_key(KeySeed::DEFAULT, MethodClass::Get, Scheme::Http, host, target)
    }

    /// Through the upstream of the route, without the store.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    pub(super) fn pass(
        &mut self,
        sock: Sock,
        head: &mut RequestHead,
        bytes: &[u8],
        buffered: usize,
        key: CacheKey,
        matched: &RouteMatch,
        hop: Vec<u8>,
        why: Why,
    ) {
        let from_peer = !hop.is_empty();
        // What is not stored gains nothing from a parent: straight to the origin.
        let Some(mut plan) = self.plan(key, matched, hop, why, false) else {
            return self.refuse(sock, head, 502, "origin_removed");
        };
        plan.from_peer = from_peer;
        self.forward(sock, head, bytes, buffered, plan);
    }

    fn forward_to_owner(
        &mut self,
        sock: Sock,
        head: &mut RequestHead,
        bytes: &[u8],
        key: CacheKey,
        matched: &RouteMatch,
        peers: Vec<Candidate>,
    ) {
        let Some(mut plan) = self.plan(key, matched, Vec::new(), Why::Owner, true) else {
            return self.refuse(sock, head, 502, "origin_removed");
        };
        plan.candidates.splice(0..0, peers);
        self.forward(sock, head, bytes, 0, plan);
    }

    /// Places that can answer for a route: parents (if `climb`), then the origin.
    pub(super) fn plan(
        &self,
        key: CacheKey,
        matched: &RouteMatch,
        hop: Vec<u8>,
        why: Why,
        climb: bool,
    ) -> Option<Plan> {
        let origin = self.ctx.published.table.origin(matched.origin)?;
        let mut candidates = if climb { self.parents(key) } else { Vec::new() };
        let count = origin.addresses.len();
        let start = (key.owner_hash() % count.max(1) as u64) as usize;
        candidates.extend(
            (0..count).map(|i| Candidate { addr: origin.addresses[(start + i) % count], tier: Tier::Origin }),
        );
        let from_peer = !hop.is_empty();
        let mut mark = hop;
        if from_peer {
            mark.extend_from_slice(b", ");
        }
        mark.extend_from_slice(self.ctx.member_name().as_bytes());
        Some(Plan { candidates, origin: Some(origin), hop: mark, from_peer, why, fill: None })
    }

    /// Parents in the order this key prefers them, those that are down left out.
    fn parents(&self, key: CacheKey) -> Vec<Candidate> {
        let Some(group) = &self.ctx.group else { return Vec::new() };
        let parents = group.parent_order(key.owner_hash());
        parents.map(|n| Candidate { addr: n.addr, tier: Tier::Parent }).collect()
    }

    /// Members that come before this one for a key; empty when the key is ours.
    fn peers(&self, key: CacheKey) -> Vec<Candidate> {
        let Some(group) = &self.ctx.group else { return Vec::new() };
        let now_ms = self.ctx.now.ms();
        let load = |addr: &std::net::SocketAddr| {
            if self.targets.is_down(addr, now_ms) {
                return None;
            }
            Some(self.targets.in_flight(addr).saturating_sub(LOAD_FREE))
        };
        let addrs = group.peers_before_own(key.owner_hash(), load);
        addrs.into_iter().map(|addr| Candidate { addr, tier: Tier::Peer }).collect()
    }

    /// Asks the store, and does what it says. What it has not is asked of `peers` first.
    fn lookup(
        &mut self,
        sock: Sock,
        head: &mut RequestHead,
        bytes: &[u8],
        key: CacheKey,
        matched: &RouteMatch,
        hop: Vec<u8>,
        peers: Vec<Candidate>,
    ) {
        let control = if head.fields.present() & (FieldId::CacheControl.bit() | FieldId::Pragma.bit()) == 0 {
            RequestControl::default()
        } else {
            RequestControl::parse(&head.fields(bytes))
        };
        let from_peer = !hop.is_empty();
        let request = super::cache::Request {
            sock,
            key,
            matched: *matched,
            hop,
            from_peer,
            attempt: 0,
            control,
            peers,
        };
        self.ask_store(request, head, bytes);
    }

    /// A waiting request looks again.
    pub(super) fn lookup_again(&mut self, sock: Sock, saved: Box<Saved>) {
        let Saved { bytes, mut head, key, matched, hop, from_peer, attempt, peers } = *saved;
        let control = RequestControl::parse(&head.fields(&bytes));
        let request = super::cache::Request {
            sock,
            key,
            matched,
            hop,
            from_peer,
            attempt: attempt + 1,
            control,
            peers,
        };
        self.ask_store(request, &mut head, &bytes);
    }

    /// Unsafe methods forget what is stored for their target (RFC 9111 section 4.4).
    pub(super) fn invalidate(
        &mut self,
        head: &RequestHead,
        bytes: &[u8],
        status: u16,
        response: &sluice_core::http1::Fields<'_>,
    ) {
        let Some(store) = self.ctx.store.clone() else { return };
        if matches!(head.method, Method::Get | Method::Head) || !cache::invalidates(head.method, status) {
            return;
        }
        store.purge(self.key(head, bytes));
        let mut host = head.host().to_vec();
        if let Some(port) = head.port.filter(|p| *p != 80) {
            host.push(b':');
            sluice_core::http1::write_decimal(u64::from(port), &mut host);
        }
        for target in cache::invalidation_targets(response, "http", &host) {
            store.purge(self.key_of(&host, &target));
        }
    }
}
