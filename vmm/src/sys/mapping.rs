//! Host mappings that back guest memory: aligned, never dumped, unmapped exactly once.

use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::fs::File;
use std::io;
use std::ptr::null_mut;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};

/// A mapping of guest memory. Dropping it unmaps the memory, so whatever refers to it must be gone by then;
/// [`crate::ram::GuestRam`] sees to that by owning both.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u8,
    len: usize,
}

// SAFETY: the mapping is plain memory that stays where it is; only the owner unmaps it, in Drop.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference gives no access to the memory, only its address and length.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes at an address that is a multiple of `align`, shared from `file` at `offset` or private and
    /// anonymous.
    pub fn new(len: usize, align: usize, file: Option<(&File, u64)>) -> io::Result<Self> {
        assert!(align.is_power_of_two() && len > 0 && len.is_multiple_of(4096));
        let room = len.checked_add(align).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new mapping without access at an address of the kernel's choice.
        let reserved = unsafe {
            rustix::mm::mmap_anonymous(
                null_mut(),
                room,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?
        .cast::<u8>();
        let skip = (reserved as usize).next_multiple_of(align) - reserved as usize;
        let start = reserved.wrapping_add(skip);
        trim(reserved, skip)?;
        trim(start.wrapping_add(len), align - skip)?;
        let mapping = Self { start, len };
        let access = ProtFlags::READ | ProtFlags::WRITE;
        match file {
            // SAFETY: replaces the reserved range, which nothing uses yet, by the file's pages.
            Some((file, offset)) => unsafe {
                rustix::mm::mmap(start.cast(), len, access, MapFlags::SHARED | MapFlags::FIXED, file, offset)
            },
            // SAFETY: replaces the reserved range, which nothing uses yet, by anonymous memory.
            None => unsafe {
                let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
                rustix::mm::mmap_anonymous(start.cast(), len, access, flags)
            },
        }?;
        Ok(mapping)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The host address, as a number: to compare and to print.
    pub fn address(&self) -> usize {
        self.start as usize
    }

    /// Gives advice about the whole mapping. Only advice that keeps the content is accepted.
    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        self.advise_part(0, self.len, advice)
    }

    /// Faults in `len` bytes at `offset` for writing, so that a shortage shows now.
    pub fn populate(&self, offset: usize, len: usize) -> io::Result<()> {
        self.advise_part(offset, len, Advice::LinuxPopulateWrite)
    }

    fn advise_part(&self, offset: usize, len: usize, advice: Advice) -> io::Result<()> {
        let keeps =
            [Advice::LinuxPopulateWrite, Advice::LinuxHugepage, Advice::LinuxDontDump, Advice::LinuxDontFork];
        assert!(keeps.contains(&advice) && offset.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: the range lies within the mapping and the advice changes no content.
        unsafe { rustix::mm::madvise(self.start.wrapping_add(offset).cast(), len, advice) }?;
        Ok(())
    }

    /// Binds the mapping's pages to a NUMA node (`MPOL_BIND`). To be called before they are touched.
    pub fn bind(&self, node: u32) -> io::Result<()> {
        const MPOL_BIND: libc::c_int = 2;
        let mut mask = [0u64; 16];
        let word = mask.get_mut(node as usize / 64).ok_or(io::ErrorKind::InvalidInput)?;
        *word = 1 << (node % 64);
        let bits = mask.len() * 64;
        // SAFETY: the range is the mapping, the mask is `bits` long and read only during the call.
        let r = unsafe {
            libc::syscall(libc::SYS_mbind, self.start, self.len, MPOL_BIND, mask.as_ptr(), bits, 0)
        };
        if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Locks the mapping's pages as they are faulted in: they are never swapped.
    pub fn lock_on_fault(&self) -> io::Result<()> {
        // SAFETY: the range is the mapping; locking changes no content.
        unsafe { rustix::mm::mlock_with(self.start.cast(), self.len, rustix::mm::MlockFlags::ONFAULT) }?;
        Ok(())
    }

    /// The mapping as vm-memory knows it.
    pub fn region(&self) -> io::Result<MmapRegion> {
        // SAFETY: the range is mapped for reading and writing as long as `self` lives, which GuestRam keeps alive
        // beside the region.
        let builder = unsafe { MmapRegionBuilder::new(self.len).with_raw_mmap_pointer(self.start) };
        builder
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_NORESERVE)
            .build()
            .map_err(io::Error::other)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let _ = trim(self.start, self.len);
    }
}

/// Unmaps a range that this module mapped and nothing uses any more.
fn trim(start: *mut u8, len: usize) -> io::Result<()> {
    if len > 0 {
        // SAFETY: the callers pass ranges of their own reservation, each once.
        unsafe { rustix::mm::munmap(start.cast(), len) }?;
    }
    Ok(())
}
