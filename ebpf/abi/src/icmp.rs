//! Limits of the ICMP messages the programs make.

/// Name of the one word of read-only data that [`interval_ns`] fills before the program is loaded.
pub const INTERVAL_SYMBOL: &str = "ICMP_INTERVAL_NS";

/// Messages of each kind (echo replies, too-big messages) that one processor makes a second, unless told
/// otherwise: the limit Linux has for all of a host's (`icmp_msgs_per_sec`, ip-sysctl).
pub const PER_SECOND_DEFAULT: u32 = 1_000;

/// How far a burst may run ahead of the rate: a tenth of a second's messages at once.
pub const BURST_NS: u64 = 100_000_000;

/// Kinds of messages with a limit of their own.
pub const KINDS: u32 = 2;

/// Echo replies.
pub const ECHO: u32 = 0;

/// Too-big messages.
pub const TOO_BIG: u32 = 1;

/// Largest quote in an ICMPv4 error: it fills 576 bytes (RFC 1812 section 4.3.2.3). A multiple of 4.
pub const QUOTE4_MAX: u32 = 576 - 20 - 8;

/// Largest quote in an ICMPv6 error: it fills the minimum MTU (RFC 4443 section 2.4 c). A multiple of 4.
pub const QUOTE6_MAX: u32 = 1_280 - 40 - 8;

/// Least link MTU of IPv4 (RFC 791 section 3.2); a message with less would be ignored.
pub const MTU4_MIN: u32 = 68;

/// Least link MTU of IPv6 (RFC 8200 section 5); a message with less must be ignored (RFC 8201 section 4).
pub const MTU6_MIN: u32 = 1_280;

/// Nanoseconds between two messages of a kind; 0: none are made.
pub const fn interval_ns(per_second: u32) -> u64 {
    if per_second == 0 { 0 } else { 1_000_000_000 / per_second as u64 }
}

/// When the next message is due after one at `now`, by the virtual scheduling algorithm (ITU-T I.371 annex A);
/// `None`: too soon. `due` is what the last call returned.
#[inline(always)]
pub const fn next_due(due: u64, now: u64, interval: u64) -> Option<u64> {
    if interval == 0 || due > now + BURST_NS {
        return None;
    }
    let from = if due > now { due } else { now };
    Some(from + interval)
}

/// The source of a packet may be answered: a unicast address of one host (RFC 1122 section 3.2.2). `first` is
/// the first byte on the wire.
#[inline(always)]
pub const fn answerable4(first: u8) -> bool {
    first != 0 && first != 127 && first < 224
}

/// As [`answerable4`] (RFC 4443 section 2.4 e): not multicast, not in `::/16`, which holds the unspecified and
/// the loopback address. `first` is the first two bytes on the wire.
#[inline(always)]
pub const fn answerable6(first: [u8; 2]) -> bool {
    first[0] != 0xff && !(first[0] == 0 && first[1] == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let interval = interval_ns(1_000);
        let (mut due, mut sent) = (0, 0);
        let start = 5_000_000_000;
        while let Some(next) = next_due(due, start, interval) {
            (due, sent) = (next, sent + 1);
        }
        assert_eq!(sent, 101, "a tenth of a second's messages and the one that is due");
        for ms in 1..=50 {
            let now = start + ms * 1_000_000;
            due = next_due(due, now, interval).expect("one a millisecond");
            assert_eq!(next_due(due, now, interval), None, "and no second one");
        }
        assert_eq!(next_due(0, start, interval_ns(0)), None, "switched off");
    }
}
