//! The directory of pins: a bpffs, mounted here when there is none.
//!
//! ```text
//! PIN_DIR/maps/NAME          maps
//! PIN_DIR/links/IFINDEX-NAME links of the balancer
//! PIN_DIR/node/...           the same for the node's side
//! ```

use crate::error::{Error, Result};
use rustix::fs::statfs;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// `BPF_FS_MAGIC`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.f_type as u64 == BPF_FS_MAGIC)
}

/// Makes `dir` a directory on a bpffs, mounting one exactly there when it is not.
pub fn prepare(dir: &Path) -> Result<()> {
    let fail = |source: io::Error| Error::PinDir { path: dir.to_path_buf(), source };
    fs::create_dir_all(dir).map_err(fail)?;
    if !is_bpffs(dir).map_err(fail)? {
        mount("sluice", dir, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
            .map_err(|e| fail(e.into()))?;
    }
    Ok(())
}

/// Takes back what [`prepare`] did: removes the (empty) directory, or unmounts it when it is a mount of its own.
/// Absent is fine.
pub fn release(dir: &Path) -> Result<()> {
    let fail = |source: io::Error| Error::Unpin { path: dir.to_path_buf(), source };
    match is_bpffs(dir) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(fail(e)),
    }
    if dir.parent().map(is_bpffs).transpose().map_err(fail)?.unwrap_or(false) {
        return fs::remove_dir(dir).map_err(fail);
    }
    for entry in fs::read_dir(dir).map_err(fail)? {
        // The kernel shows two iterators of its own, `maps.debug` and `progs.debug`. Anything else is someone's
        // pin, and then the mount is not ours to take.
        if entry.map_err(fail)?.path().extension().is_none_or(|e| e != "debug") {
            return Ok(());
        }
    }
    unmount(dir, UnmountFlags::empty()).map_err(|e| fail(e.into()))
}

/// Directory `name` below the pins, made when absent.
pub(crate) fn sub(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    match fs::create_dir(&path) {
        Ok(()) => Ok(path),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(path),
        Err(source) => Err(Error::PinDir { path, source }),
    }
}

/// Removes every pin in a directory and the directory. Absent is fine.
pub(crate) fn clear(dir: &Path) -> Result<()> {
    let fail = |source: io::Error| Error::Unpin { path: dir.to_path_buf(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(fail(e)),
    };
    for entry in entries {
        fs::remove_file(entry.map_err(fail)?.path()).map_err(fail)?;
    }
    fs::remove_dir(dir).map_err(fail)
}
