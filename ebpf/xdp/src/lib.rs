//! Packet access shared by the kernel programs.
//!
//! Every load and store goes through a [`Packet`] whose bounds were checked against the end of the frame in the
//! way the verifier follows: constant offset from the start (or from a bounded variable start), compared once.

#![no_std]
// Assembly for this target is not stable yet; see `start`.
#![feature(asm_experimental_arch)]

pub mod decap;

use aya_ebpf::programs::XdpContext;
use core::arch::asm;

/// Ethernet header, bytes.
pub const ETH_LEN: usize = 14;
/// EtherType of IPv4, as read by [`load`] from the wire.
pub const ETH_IPV4: u16 = 0x0800u16.to_be();
/// EtherType of IPv6, as read by [`load`] from the wire.
pub const ETH_IPV6: u16 = 0x86ddu16.to_be();

/// Start of the frame.
///
/// Written as an instruction: the verifier knows this 32-bit load as a 64-bit packet pointer, and the compiler,
/// which does not, otherwise truncates the pointer where it sees no harm.
#[inline(always)]
pub fn start(ctx: &XdpContext) -> usize {
    let data: usize;
    // SAFETY: reads `data`, the first field of the context.
    unsafe {
        asm!("{data} = *(u32 *)({ctx} + 0)", 
            data = out(reg) data, ctx = in(reg) ctx.ctx, options(nostack, readonly));
    }
    data
}

/// End of the frame.
#[inline(always)]
pub fn end(ctx: &XdpContext) -> usize {
    let data: usize;
    // SAFETY: reads `data_end`, the second field of the context.
    unsafe {
        asm!("{data} = *(u32 *)({ctx} + 4)", 
            data = out(reg) data, ctx = in(reg) ctx.ctx, options(nostack, readonly));
    }
    data
}

/// Bytes from `from` to `end`, both in the packet: the difference is taken in 64 bits, as the verifier demands.
#[inline(always)]
pub fn distance(end: usize, from: usize) -> u32 {
    let mut bytes = end;
    // SAFETY: arithmetic only.
    unsafe {
        asm!("{bytes} -= {from}", bytes = inout(reg) bytes, from = in(reg) from, options(nostack, pure, nomem))
    };
    bytes as u32
}

/// Reads at a byte address of the packet.
///
/// # Safety
/// The caller compared `addr + size_of::<T>()` with the end of the frame on this path, and changed neither
/// bound since; the verifier proves the same again at load time.
#[inline(always)]
pub unsafe fn load<T: Copy>(addr: usize) -> T {
    // SAFETY: see above; the target allows misaligned access (build.sh sets the feature).
    unsafe { (addr as *const T).read_unaligned() }
}

/// Writes at a byte address of the packet.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
pub unsafe fn store<T: Copy>(addr: usize, value: T) {
    // SAFETY: see above.
    unsafe { (addr as *mut T).write_unaligned(value) }
}

/// `index & 63`, in a form the compiler cannot reason away: it knows the callers' constants, the verifier of a
/// called function does not.
#[inline(always)]
pub fn below_64(index: u32) -> usize {
    let mut bounded = index as u64;
    // SAFETY: arithmetic only.
    unsafe { asm!("{bounded} &= 63", bounded = inout(reg) bounded, options(nostack, pure, nomem)) };
    bounded as usize
}

/// `index & 7`, as [`below_64`].
#[inline(always)]
pub fn below_8(index: u32) -> usize {
    let mut bounded = index as u64;
    // SAFETY: arithmetic only.
    unsafe { asm!("{bounded} &= 7", bounded = inout(reg) bounded, options(nostack, pure, nomem)) };
    bounded as usize
}

/// The same number (below 2^31), of which the compiler knows nothing: keeps it from folding a shift into the
/// number's computation where the verifier then loses the bound. One real instruction, since line information
/// of none is refused.
#[inline(always)]
pub fn opaque(value: u32) -> u32 {
    let mut same = value as u64;
    // SAFETY: arithmetic only.
    unsafe { asm!("{same} &= 0x7fffffff", same = inout(reg) same, options(nostack, pure, nomem)) };
    same as u32
}

/// The highest bit as 0 or 1, in a form that neither the compiler turns into a branch nor the verifier follows
/// as two states (it does for an arithmetic shift that is masked): both would multiply the paths to check.
#[inline(always)]
pub fn top_bit(value: u64) -> u64 {
    let mut bit = value;
    // SAFETY: arithmetic only.
    unsafe { asm!("{bit} >>= 63", bit = inout(reg) bit, options(nostack, pure, nomem)) };
    bit
}
