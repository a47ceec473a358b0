//! IPv4 options: read for one thing only, whether they ask for a route of the sender's choice.

use crate::IPV4_MIN;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use sluice_abi::layout::ip_option;
use sluice_abi::reason::DropReason;
use sluice_xdp::{ETH_LEN, below_64, end, load, start};

/// Most bytes of options: 15 words less the header's five.
const OPTIONS_MAX: u32 = 40;

/// 0, or the number of a drop reason: a source route (RFC 7126 section 4.3), or options that are none.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn judge_options(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    let (data, data_end) = (start(&ctx), end(&ctx));
    let ip = data + ETH_LEN;
    if ip + IPV4_MIN > data_end {
        return 0;
    }
    // SAFETY: 20 bytes at `ip` were checked.
    let vihl = unsafe { load::<u8>(ip) } as u32;
    let header = (vihl & 0x0f) << 2;
    // Where the next option is: 20, the version being 4. The verifier is to know no more of it than that it is
    // below 64, now and after every option: else it follows each way through the list by itself.
    let (mut at, mut i) = (below_64(IPV4_MIN as u32 + (vihl >> 4) - 4) as u32, 0);
    while i < OPTIONS_MAX {
        if at >= header {
            return 0;
        }
        let option = ip + at as usize;
        if option + 1 > data_end {
            return DropReason::Truncated as u32;
        }
        // SAFETY: 1 byte at `option` was checked.
        let kind: u8 = unsafe { load(option) };
        if kind == ip_option::END {
            return 0;
        }
        if kind == ip_option::LOOSE_ROUTE || kind == ip_option::STRICT_ROUTE {
            return DropReason::SourceRoute as u32;
        }
        if kind == ip_option::NOTHING {
            at = below_64(at + 1) as u32;
        } else {
            if option + 2 > data_end {
                return DropReason::Truncated as u32;
            }
            // SAFETY: 2 bytes at `option` were checked.
            let length = unsafe { load::<u8>(option + 1) } as u32;
            if length < 2 || at + length > header {
                return DropReason::BadIpHeader as u32;
            }
            at = below_64(at + length) as u32;
        }
        i += 1;
    }
    0
}
