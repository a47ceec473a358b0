//! One payload on its way through the kernel.
//!
//! Small payloads go by `SEND` or `SENDMSG` through the ring. Large ones whose body is in the store's memory
//! file go by `sendfile(2)` called directly: it hands over page references instead of copying, and never
//! blocks; when the socket is full the ring polls it for writability.

use crate::payload::Payload;
use crate::sys;
use io_uring::types::Fd;
use io_uring::{opcode, squeue};
use std::os::fd::RawFd;

/// Vectors of one `SENDMSG`: more pieces go by a further one.
const IOV_MAX: usize = 8;
/// Bodies of at least this many bytes go by `sendfile`: below it, copying is cheaper than the extra calls.
const SENDFILE_MIN: usize = 128 << 10;
/// `POLLOUT` of `<poll.h>`.
const POLLOUT: u32 = libc::POLLOUT as u32;

/// What to do next.
pub(crate) enum Step {
    /// Hand this to the ring; bytes since the last report.
    Submit { entry: squeue::Entry, bytes: u32 },
    /// Nothing is left, or it failed; bytes since the last report.
    Done { bytes: u32, errno: i32 },
}

/// State of a send; boxed, so that the kernel may read `msg` and `iov`.
pub(crate) struct SendOp {
    payload: Payload,
    sent: usize,
    len: usize,
    by_file: bool,
    polling: bool,
    /// Bytes sent by direct calls and not reported yet.
    unreported: u32,
    sendfiles: u32,
    iov: [libc::iovec; IOV_MAX],
    msg: libc::msghdr,
}

impl Default for SendOp {
    fn default() -> Self {
        Self {
            payload: Payload::default(),
            sent: 0,
            len: 0,
            by_file: false,
            polling: false,
            unreported: 0,
            sendfiles: 0,
            iov: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; IOV_MAX],
            // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
            msg: unsafe { std::mem::zeroed() },
        }
    }
}

impl SendOp {
    pub(crate) fn start(&mut self, payload: Payload) {
        let body: usize = payload.body.iter().map(|s| s.len()).sum();
        self.len = payload.head.len() + body;
        self.by_file = body >= SENDFILE_MIN && payload.body.iter().all(|s| s.file().is_some());
        self.payload = payload;
        self.sent = 0;
        self.polling = false;
        self.unreported = 0;
    }

    pub(crate) fn take_payload(&mut self) -> Payload {
        std::mem::take(&mut self.payload)
    }

    pub(crate) fn take_sendfiles(&mut self) -> u32 {
        std::mem::take(&mut self.sendfiles)
    }

    pub(crate) fn left(&self) -> usize {
        self.len - self.sent
    }

    /// Accounts for a completion of what `next` submitted; returns bytes to report.
    pub(crate) fn completed(&mut self, result: i32) -> u32 {
        if self.polling {
            self.polling = false;
            return 0;
        }
        if result > 0 {
            self.sent += result as usize;
        }
        result.max(0) as u32
    }

    /// The next operation on `fd`.
    pub(crate) fn next(&mut self, fd: RawFd) -> Step {
        if self.by_file {
            return self.next_by_file(fd);
        }
        if self.left() == 0 {
            return Step::Done { bytes: 0, errno: 0 };
        }
        let flags = libc::MSG_NOSIGNAL;
        if self.payload.body.is_empty() {
            let rest = &self.payload.head[self.sent..];
            let entry = opcode::Send::new(Fd(fd), rest.as_ptr(), rest.len() as u32).flags(flags).build();
            return Step::Submit { entry, bytes: 0 };
        }
        let mut count = 0;
        for (iov, piece) in self.iov.iter_mut().zip(self.payload.pieces(self.sent)) {
            *iov = libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() };
            count += 1;
        }
        self.msg.msg_iov = self.iov.as_mut_ptr();
        self.msg.msg_iovlen = count;
        let entry = opcode::SendMsg::new(Fd(fd), &raw const self.msg).flags(flags as u32).build();
        Step::Submit { entry, bytes: 0 }
    }

    fn next_by_file(&mut self, fd: RawFd) -> Step {
        sys::set_nonblocking(fd, true);
        let outcome = self.push_by_file(fd);
        sys::set_nonblocking(fd, false);
        let bytes = std::mem::take(&mut self.unreported);
        match outcome {
            Ok(()) => Step::Done { bytes, errno: 0 },
            Err(libc::EAGAIN) => {
                self.polling = true;
                Step::Submit { entry: opcode::PollAdd::new(Fd(fd), POLLOUT).build(), bytes }
            }
            Err(errno) => Step::Done { bytes, errno },
        }
    }

    /// Sends until everything went or the socket is full (`EAGAIN`).
    fn push_by_file(&mut self, fd: RawFd) -> Result<(), i32> {
        let Self { payload, sent, unreported, sendfiles, .. } = self;
        let head = payload.head.len();
        while *sent < head {
            let n = sys::send_more(fd, &payload.head[*sent..])?;
            *sent += n;
            *unreported += n as u32;
        }
        let mut start = head;
        for slice in &payload.body {
            let end = start + slice.len();
            while *sent < end {
                let (file, offset) = slice.file().ok_or(libc::EINVAL)?;
                let done = *sent - start;
                *sendfiles += 1;
                let n = sys::sendfile(fd, file, offset + done as u64, slice.len() - done)?;
                if n == 0 {
                    // The file ended early: the store broke its promise; sending on would corrupt.
                    return Err(libc::EIO);
                }
                *sent += n;
                *unreported += n as u32;
            }
            start = end;
        }
        Ok(())
    }
}
