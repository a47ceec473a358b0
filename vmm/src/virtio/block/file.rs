//! The file or block device behind a disk: opened once, locked, probed for what it can do.

use rustix::fs::{FallocateFlags, FileType, FlockOperation, OFlags, fallocate, fcntl_getfl, flock, fstat};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum DiskError {
    #[error("cannot open {}: {error}", path.display())]
    Open { path: PathBuf, error: io::Error },
    #[error("{} is {what}, not a regular file or block device", path.display())]
    Kind { path: PathBuf, what: &'static str },
    #[error("{} is in use by another process (locked)", path.display())]
    Locked { path: PathBuf },
    #[error("{} does not take direct I/O: {error}", path.display())]
    Direct { path: PathBuf, error: io::Error },
    #[error("{} has {size} bytes, which is not a positive multiple of its block size {block}", path.display())]
    Size { path: PathBuf, size: u64, block: u32 },
    #[error("cannot examine {}: {error}", path.display())]
    Examine { path: PathBuf, error: io::Error },
}

/// An open disk.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    size: u64,
    block: u32,
    direct: bool,
    read_only: bool,
    discard: bool,
    zero: bool,
}

/// Block sizes to try for direct I/O, the smallest first.
const BLOCKS: [u32; 2] = [512, 4096];

impl DiskFile {
    /// Opens `path`. `direct`: required, forbidden, or where the file takes it.
    pub fn open(path: &Path, read_only: bool, direct: Option<bool>) -> Result<Self, DiskError> {
        let named = || path.to_owned();
        let open = |flags: OFlags| {
            // Not blocking, so that a FIFO is an error and not a wait.
            let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
            OpenOptions::new().read(true).write(!read_only).custom_flags(flags.bits() as i32).open(path)
        };
        let plain = open(OFlags::empty()).map_err(|error| DiskError::Open { path: named(), error })?;
        let examine = |error: io::Error| DiskError::Examine { path: named(), error };
        let device = match FileType::from_raw_mode(fstat(&plain).map_err(|e| examine(e.into()))?.st_mode) {
            FileType::RegularFile => false,
            FileType::BlockDevice => true,
            other => return Err(DiskError::Kind { path: named(), what: kind_name(other) }),
        };
        let lock = if read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        let size = (&plain).seek(SeekFrom::End(0)).map_err(examine)?;
        let (file, block, direct) = match direct {
            Some(false) => (plain, BLOCKS[0], false),
            wish => match open(OFlags::DIRECT).and_then(|file| probe_direct(file, size)) {
                Ok((file, block)) => (file, block, true),
                Err(error) if wish == Some(true) => return Err(DiskError::Direct { path: named(), error }),
                Err(_) => (plain, BLOCKS[0], false),
            },
        };
        flock(&file, lock).map_err(|_| DiskError::Locked { path: named() })?;
        if size == 0 || !size.is_multiple_of(u64::from(block)) {
            return Err(DiskError::Size { path: named(), size, block });
        }
        let (discard, zero) = if read_only { (false, false) } else { probe_ranges(&file, size, device) };
        Ok(Self { file, size, block, direct, read_only, discard, zero })
    }

    /// The descriptor, once more.
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Smallest unit of transfer.
    pub fn block_size(&self) -> u32 {
        self.block
    }

    /// Whether it goes past the page cache.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Whether ranges can be given back.
    pub fn can_discard(&self) -> bool {
        self.discard
    }

    /// Whether ranges can be zeroed without writing them.
    pub fn can_zero(&self) -> bool {
        self.zero
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        _ => "something else",
    }
}

/// Finds the block size by reading the first block at rising sizes.
fn probe_direct(file: File, size: u64) -> io::Result<(File, u32)> {
    // Set only where open accepted and kept it.
    if !fcntl_getfl(&file)?.contains(OFlags::DIRECT) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut memory = vec![0; 3 * BLOCKS[1] as usize];
    let start = memory.as_ptr().align_offset(BLOCKS[1] as usize);
    let mut last = io::ErrorKind::Unsupported.into();
    for block in BLOCKS {
        if size < u64::from(block) {
            break;
        }
        // The buffer is aligned to this block and to no larger one.
        let at = start + block as usize;
        match file.read_at(&mut memory[at..at + block as usize], 0) {
            Ok(n) if n == block as usize => return Ok((file, block)),
            Ok(_) => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether holes can be punched and ranges zeroed: tried on blocks past the end, where nothing is.
fn probe_ranges(file: &File, size: u64, device: bool) -> (bool, bool) {
    if device {
        // The kernel zeroes on its own where the device cannot; a discard that fails is only a hint not taken.
        return (true, true);
    }
    let past = size.next_multiple_of(4096);
    let punch =
        || fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, past, 4096).is_ok();
    let zero = fallocate(file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, past, 4096).is_ok();
    // This also takes back what the line above may have allocated.
    (punch(), zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(size: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(size).expect("size");
        file
    }

    #[test]
    fn what_is_no_disk_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("folder");
        let open = |path: &Path| DiskFile::open(path, true, None).expect_err("no disk").to_string();
        assert!(open(folder.path()).contains("a directory"));
        assert!(open(&folder.path().join("none")).contains("cannot open"));
        assert!(open(Path::new("/dev/null")).contains("a character device"));
        assert!(open(image(0).path()).contains("0 bytes"));
        assert!(open(image(1000).path()).contains("1000 bytes"));
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, 0o600.into(), 0).expect("fifo");
        assert!(open(&fifo).contains("a FIFO"));
    }

    #[test]
    fn a_disk_has_one_writer_or_many_readers() {
        let image = image(1 << 20);
        let writer = DiskFile::open(image.path(), false, None).expect("first");
        assert!(matches!(DiskFile::open(image.path(), false, None), Err(DiskError::Locked { .. })));
        assert!(matches!(DiskFile::open(image.path(), true, None), Err(DiskError::Locked { .. })));
        drop(writer);
        let _one = DiskFile::open(image.path(), true, None).expect("reader");
        let _two = DiskFile::open(image.path(), true, None).expect("reader");
        assert!(matches!(DiskFile::open(image.path(), false, None), Err(DiskError::Locked { .. })));
    }

    #[test]
    fn probing_changes_neither_size_nor_content() {
        let image = image(12 << 10);
        image.as_file().write_all_at(&[7; 12 << 10], 0).expect("write");
        let disk = DiskFile::open(image.path(), false, None).expect("disk");
        assert_eq!(disk.size(), 12 << 10);
        let mut now = vec![0; 13 << 10];
        assert_eq!(image.as_file().read_at(&mut now, 0).expect("read"), 12 << 10);
        assert!(now[..12 << 10].iter().all(|b| *b == 7));
    }
}
