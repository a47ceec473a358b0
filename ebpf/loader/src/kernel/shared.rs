//! Arrays the programs and this process share through a mapping.
//!
//! Every access is one atomic word, so neither side sees half a value. The mapping lives as long as its
//! [`Shared`]; the kernel keeps the array alive under it.

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A mapped array of atomic words.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    base: NonNull<T>,
    len: usize,
    bytes: usize,
}

/// Words that may be shared.
pub(crate) trait Word {}
impl Word for AtomicU32 {}
impl Word for AtomicU64 {}

// SAFETY: the memory is shared with the kernel anyway and only reachable as atomic words; the owner unmaps it
// once, on drop.
unsafe impl<T: Word> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Word> Sync for Shared<T> {}

impl<T: Word> Shared<T> {
    /// Maps `len` words of a `BPF_F_MMAPABLE` array, whose values lie at multiples of 8 bytes:
    /// `stride` words are one value.
    pub(crate) fn map(fd: impl AsFd, len: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let bytes = (len * size_of::<T>()).next_multiple_of(page);
        // SAFETY: a fresh mapping at an address the kernel chooses; nothing else knows it.
        let base = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)
        }?;
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Shared { base, len, bytes })
    }

    /// The words.
    pub(crate) fn words(&self) -> &[T] {
        // SAFETY: `base` is page-aligned and valid for `len` words while `self` lives; atomic words may be
        // written by others.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `map`; no reference outlives `self`.
        let result = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(result.is_ok(), "unmapping our own mapping failed: {result:?}");
    }
}
