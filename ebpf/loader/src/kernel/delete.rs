//! Deleting from an array of maps (bpf(2), `BPF_MAP_DELETE_ELEM`), which aya has no call for.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const BPF_MAP_DELETE_ELEM: libc::c_int = 3;

/// The members of `union bpf_attr` this command reads.
#[repr(C)]
struct Attr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Takes the map at `index` out; the kernel frees it when the last program run that sees it ends. Absent is fine.
pub(crate) fn delete(map: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let attr =
        Attr { map_fd: map.as_raw_fd() as u32, pad: 0, key: (&raw const index) as u64, value: 0, flags: 0 };
    // SAFETY: `attr` and the key it points to outlive the call; the size given is that of `attr`.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_DELETE_ELEM, &raw const attr, size_of::<Attr>()) };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            e => Err(e),
        },
    }
}
