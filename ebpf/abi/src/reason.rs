//! Drop reasons and events, by name.
//!
//! Append-only: numbers are map indices and names are metric labels. Removing or renumbering one raises
//! [`crate::ABI_VERSION`].

macro_rules! named {
    ($(#[$m:meta])* $name:ident, $count:ident, $names:ident: $($(#[$vm:meta])* $v:ident = $n:literal, $s:literal;)*) => {
        $(#[$m])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vm])* $v = $n,)* }

        /// Names by number; an empty name is a number not given yet.
        pub const $names: [&str; $count] = {
            let mut a = [""; $count];
            $(a[$n] = $s;)*
            a
        };

        impl $name {
            /// All, in order of number.
            pub const ALL: &[$name] = &[$($name::$v),*];

            /// Name in metrics and on the command line.
            pub const fn name(self) -> &'static str {
                $names[self as usize]
            }

            /// From its number.
            pub const fn from_number(n: usize) -> Option<Self> {
                match n { $($n => Some($name::$v),)* _ => None }
            }
        }
    };
}

/// Places for drop counters of a VIP; numbers below it.
pub const DROP_REASONS: usize = 64;

/// Places for event counters; numbers below it.
pub const EVENTS: usize = 64;

named! {
    /// Why a packet for a forwarded VIP ended here.
    DropReason, DROP_REASONS, DROP_NAMES:
    /// The frame ends inside a header.
    Truncated = 1, "truncated";
    /// IP version or header length field is wrong.
    BadIpHeader = 2, "bad_ip_header";
    /// A length field says more than the frame holds, or less than its own header.
    BadLength = 3, "bad_length";
    /// A fragment of neither TCP nor UDP, or for a VIP whose mode cannot carry fragments.
    Fragment = 4, "fragment";
    /// TTL or hop limit would reach 0 here.
    TtlExpired = 5, "ttl_expired";
    /// TCP data offset is wrong.
    BadTcpHeader = 6, "bad_tcp_header";
    /// SYN together with FIN or RST.
    BadTcpFlags = 7, "bad_tcp_flags";
    /// IPv6 extension headers that do not lead to TCP or UDP, or only by a chain too long to walk.
    Ipv6Extension = 8, "ipv6_extension";
    /// The slot has no owner, or its owner is not in the backend table.
    NoBackend = 9, "no_backend";
    /// The backend lacks what the forwarding mode needs (address, MAC, interface).
    BackendUnreachable = 10, "backend_unreachable";
    /// Larger than the link to the backend after encapsulation.
    TooBig = 11, "too_big";
    /// A new flow on a changed slot found its bucket full of flows that talk.
    FlowTableFull = 12, "flow_table_full";
    /// The driver left no room before the frame.
    NoHeadroom = 13, "no_headroom";
    /// The VIP has no slot table.
    NoTable = 14, "no_table";
    /// An ICMP error whose quoted packet is cut or wrong.
    BadIcmp = 15, "bad_icmp";
    /// Encapsulated packet for this node that is cut short or wrong.
    DecapMalformed = 16, "decap_malformed";
    /// Encapsulated packet for this node whose inner destination is none of its VIPs.
    DecapUnknownVip = 17, "decap_unknown_vip";
    /// A TCP segment of mode NAT that begins no flow and is of none.
    NatNoFlow = 18, "nat_no_flow";
    /// Every source port tried for a new flow is taken.
    NatPortsExhausted = 19, "nat_ports_exhausted";
    /// The table of NAT flows is full.
    NatTableFull = 20, "nat_table_full";
    /// The VIP has no source address on this box.
    NatNoSource = 21, "nat_no_source";
    /// An echo request for a VIP beyond what this processor answers a second.
    EchoLimited = 46, "echo_limited";
    /// A later fragment whose first one was not seen here lately.
    FragmentUnknown = 47, "fragment_unknown";
    /// A first fragment without the whole TCP or UDP header (RFC 1858, RFC 7112).
    FragmentTiny = 48, "fragment_tiny";
    /// A later fragment that lies over the TCP header of the first (RFC 3128).
    FragmentOverlap = 49, "fragment_overlap";
    /// A packet on a route of its sender's choice: IPv4 source-route option, IPv6 routing header with segments left.
    SourceRoute = 50, "source_route";
}

named! {
    /// Things worth counting that are not drops.
    Event, EVENTS, EVENT_NAMES:
    /// Passed up: the VIP is served by this box's own stack.
    PassLocal = 1, "pass_local";
    /// Passed up: ICMP for a VIP address (echo, or an error that could not be steered).
    PassIcmp = 2, "pass_icmp";
    /// An ICMP error sent to the backend of the flow it quotes.
    IcmpSteered = 3, "icmp_steered";
    /// Flow found in the table. Counted with the traffic of its backend.
    FlowHit = 4, "flow_hit";
    /// Entry made for the previous owner of a slot.
    FlowKept = 5, "flow_kept";
    /// Entry made for the current owner of a slot.
    FlowNew = 6, "flow_new";
    /// An unconfirmed entry gave way.
    FlowEvicted = 7, "flow_evicted";
    /// Bucket full of flows that talk: forwarded without an entry.
    FlowUntracked = 8, "flow_untracked";
    /// The flow's backend is gone or down: moved to the current owner.
    FlowRehomed = 9, "flow_rehomed";
    /// Two processors wrote one place; the flow's next packet tries again.
    FlowRaced = 10, "flow_raced";
    /// A too-big message was sent to the source.
    TooBigSent = 11, "too_big_sent";
    /// Decapsulated and passed to the node's own stack.
    Decapsulated = 12, "decapsulated";
    /// A NAT flow began.
    NatFlowNew = 13, "nat_flow_new";
    /// A source port tried for a new flow was taken.
    NatPortTaken = 14, "nat_port_taken";
    /// A NAT flow ended early: its backend is gone, or its ports began a new one.
    NatFlowReplaced = 15, "nat_flow_replaced";
    /// A too-big message that was not sent: this processor sent enough this second.
    TooBigLimited = 41, "too_big_limited";
    /// An echo request for a VIP answered here.
    EchoAnswered = 42, "echo_answered";
    /// A first fragment forwarded; those that follow go where it went.
    FragmentFirst = 43, "fragment_first";
    /// A later fragment sent where the first one went.
    FragmentFollowed = 44, "fragment_followed";
    /// A datagram of which more may come gave way to another.
    FragmentEvicted = 45, "fragment_evicted";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree() {
        for &r in DropReason::ALL {
            assert_eq!(DropReason::from_number(r as usize), Some(r));
            assert!(!r.name().is_empty());
        }
        for &e in Event::ALL {
            assert_eq!(Event::from_number(e as usize), Some(e));
            assert!(!e.name().is_empty());
        }
        assert_eq!(DropReason::from_number(0), None);
    }
}
