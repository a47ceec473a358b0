//! Loading a kernel, its initrd and its command line, and the page from which the kernel learns about them.
//!
//! ELF with a PVH note starts by PVH (32-bit, `hvm_start_info`), other ELF and bzImage by the 64-bit Linux protocol
//! (`boot_params`). The files are untrusted: sizes are checked against guest memory, header fields against the file.

use super::memory_map::{Range, memory_map};
use crate::layout::{CMDLINE, HIGH_MEMORY, LOW_END_MAX, PVH_START_INFO, ZERO_PAGE};
use crate::ram::GuestRam;
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::PvhBootCapability;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use vm_memory::{Address, GuestAddress, ReadVolatile};

/// Why nothing can be started.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum BootError {
    #[error("{field}: cannot read {}: {error}", path.display())]
    Read { field: &'static str, path: PathBuf, error: io::Error },
    #[error("boot.kernel: {} is no ELF executable and no bzImage", path.display())]
    Unknown { path: PathBuf },
    #[error("boot.kernel: {}: {reason}", path.display())]
    Kernel { path: PathBuf, reason: String },
    #[error("boot.initrd: {} has {size} bytes; between the kernel's end at {kernel_end:#x} and {top:#x} is no room", path.display())]
    InitrdRoom { path: PathBuf, size: u64, kernel_end: u64, top: u64 },
}

/// How the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode, `ebx` at `hvm_start_info`.
    Pvh(u64),
    /// 64-bit mode, `rsi` at `boot_params`.
    Linux64(u64),
}

struct Loaded {
    entry: Entry,
    end: u64,
    /// Setup header of a bzImage.
    header: Option<Vec<u8>>,
    initrd_max: u64,
}

const HEADER_AT: usize = 0x1f1;
/// The setup header is at most this long: up to the end of the first two sectors' used part.
const HEADER_END: usize = 0x290;
const XLF_KERNEL_64: u16 = 1;

/// Loads everything; `rsdp` is the guest address of the ACPI root pointer.
pub fn load(
    ram: &GuestRam,
    kernel: &Path,
    initrd: Option<&Path>,
    cmdline: &str,
    rsdp: u64,
) -> Result<Entry, BootError> {
    let mut file = open("boot.kernel", kernel)?;
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).map_err(|_| BootError::Unknown { path: kernel.to_owned() })?;
    let loaded = if magic == *b"\x7fELF" {
        load_elf(ram, &mut file).map_err(|reason| BootError::Kernel { path: kernel.to_owned(), reason })?
    } else if is_bzimage(&file) {
        load_bzimage(ram, &mut file)
            .map_err(|reason| BootError::Kernel { path: kernel.to_owned(), reason })?
    } else {
        return Err(BootError::Unknown { path: kernel.to_owned() });
    };
    let module = initrd.map(|path| load_initrd(ram, path, &loaded)).transpose()?;
    let mut line = cmdline.as_bytes().to_vec();
    line.push(0);
    let small =
        |_| BootError::Kernel { path: kernel.to_owned(), reason: "memory is too small to boot".to_owned() };
    ram.write(CMDLINE, &line).map_err(small)?;
    let map = memory_map(ram.regions());
    match loaded.entry {
        Entry::Pvh(_) => write_start_info(ram, module, rsdp, &map).map_err(small)?,
        Entry::Linux64(_) => {
            let page = zero_page(loaded.header.as_deref(), module, line.len(), rsdp, &map);
            ram.write(ZERO_PAGE, &page).map_err(small)?;
        }
    }
    Ok(loaded.entry)
}

/// Opens a regular file; anything else could block or never end.
fn open(field: &'static str, path: &Path) -> Result<File, BootError> {
    let failed = |error| BootError::Read { field, path: path.to_owned(), error };
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    File::open(path).map_err(failed)
}

fn load_elf(ram: &GuestRam, file: &mut File) -> Result<Loaded, String> {
    let result =
        linux_loader::loader::elf::Elf::load(ram.memory(), None, file, Some(GuestAddress(HIGH_MEMORY)))
            .map_err(|e| e.to_string())?;
    let entry = match result.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(at) => Entry::Pvh(at.raw_value()),
        _ => Entry::Linux64(result.kernel_load.raw_value()),
    };
    let (Entry::Pvh(at) | Entry::Linux64(at)) = entry;
    if !ram.holds(at, 1) {
        return Err(format!("its entry point {at:#x} is not in memory"));
    }
    Ok(Loaded { entry, end: result.kernel_end, header: None, initrd_max: u64::from(u32::MAX) })
}

fn is_bzimage(file: &File) -> bool {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0x202).is_ok() && magic == *b"HdrS"
}

fn load_bzimage(ram: &GuestRam, file: &mut File) -> Result<Loaded, String> {
    let mut head = vec![0; HEADER_END];
    file.read_exact_at(&mut head, 0).map_err(|_| "the setup header is cut short".to_owned())?;
    let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
    let (version, flags) = (half(0x206), half(0x236));
    if version < 0x20c || flags & XLF_KERNEL_64 == 0 {
        return Err(format!("boot protocol {version:#x}: no 64-bit entry (needs Linux 3.8 or later)"));
    }
    // Where the kernel wants to be unpacked; there it need not move itself.
    let preferred = u64::from(word(0x258)) | u64::from(word(0x25c)) << 32;
    let at = if preferred >= HIGH_MEMORY { preferred } else { 0x100_0000 };
    let init_size = u64::from(word(0x260));
    if !ram.holds(at, init_size.max(1)) {
        return Err(format!("it needs {init_size} bytes at {at:#x}: more memory than there is"));
    }
    let result = linux_loader::loader::bzimage::BzImage::load(
        ram.memory(),
        Some(GuestAddress(at)),
        file,
        Some(GuestAddress(HIGH_MEMORY)),
    )
    .map_err(|e| e.to_string())?;
    // The header says itself how long it is: from 0x202 on, as many bytes as the jump before it skips.
    let header_end = (0x202 + usize::from(head[0x201])).clamp(0x264, HEADER_END);
    Ok(Loaded {
        entry: Entry::Linux64(result.kernel_load.raw_value() + 0x200),
        end: result.kernel_end.max(at + init_size),
        initrd_max: u64::from(word(0x22c)),
        header: Some(head[HEADER_AT..header_end].to_vec()),
    })
}

/// Loads the initrd as high as it may lie; says where and how long.
fn load_initrd(ram: &GuestRam, path: &Path, loaded: &Loaded) -> Result<(u64, u64), BootError> {
    let mut file = open("boot.initrd", path)?;
    let failed = |error| BootError::Read { field: "boot.initrd", path: path.to_owned(), error };
    let size = file.metadata().map_err(failed)?.len();
    let low_end = ram.regions().first().map_or(0, |r| r.len as u64).min(LOW_END_MAX);
    let top = low_end.min(loaded.initrd_max.saturating_add(1));
    let room = BootError::InitrdRoom { path: path.to_owned(), size, kernel_end: loaded.end, top };
    let Some(at) = top.checked_sub(size).map(|at| at & !0xfff).filter(|at| *at >= loaded.end) else {
        return Err(room);
    };
    let slice = ram.slice(at, size as usize).map_err(|_| room)?;
    let mut left = slice;
    while !left.is_empty() {
        let n = file.read_volatile(&mut left).map_err(|e| failed(io::Error::other(e.to_string())))?;
        if n == 0 {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        left = left.offset(n).map_err(|e| failed(io::Error::other(e.to_string())))?;
    }
    Ok((at, size))
}

/// `boot_params` (Documentation/arch/x86/zero-page.rst).
fn zero_page(
    header: Option<&[u8]>,
    module: Option<(u64, u64)>,
    line: usize,
    rsdp: u64,
    map: &[Range],
) -> Vec<u8> {
    const E820_AT: usize = 0x2d0;
    const E820_MAX: usize = 128;
    let mut page = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    match header {
        Some(header) => put(HEADER_AT, header),
        None => {
            put(0x1fe, &0xaa55_u16.to_le_bytes());
            put(0x202, b"HdrS");
            put(0x206, &0x20c_u16.to_le_bytes());
            put(0x230, &0x20_0000_u32.to_le_bytes()); // kernel_alignment
        }
    }
    put(0x070, &rsdp.to_le_bytes());
    put(0x210, &[0xff]); // type_of_loader: none of the registered
    put(0x228, &(CMDLINE as u32).to_le_bytes());
    put(0x238, &(line as u32).to_le_bytes());
    if let Some((at, size)) = module {
        put(0x218, &(at as u32).to_le_bytes());
        put(0x21c, &(size as u32).to_le_bytes());
    }
    put(0x1e8, &[map.len().min(E820_MAX) as u8]);
    for (i, range) in map.iter().take(E820_MAX).enumerate() {
        put(E820_AT + 20 * i, &range.start.to_le_bytes());
        put(E820_AT + 20 * i + 8, &range.len.to_le_bytes());
        put(E820_AT + 20 * i + 16, &range.kind.to_le_bytes());
    }
    page
}

/// `hvm_start_info` version 1 (Xen's `arch-x86/hvm/start_info.h`), its module and its memory map behind it.
fn write_start_info(
    ram: &GuestRam,
    module: Option<(u64, u64)>,
    rsdp: u64,
    map: &[Range],
) -> Result<(), crate::ram::OutsideMemory> {
    const MAGIC: u32 = 0x336e_c578;
    const MODULE_AT: u64 = PVH_START_INFO + 0x40;
    const MAP_AT: u64 = PVH_START_INFO + 0x80;
    let mut info = Vec::with_capacity(56);
    for word in [MAGIC, 1, 0, u32::from(module.is_some())] {
        info.extend(word.to_le_bytes());
    }
    for long in [if module.is_some() { MODULE_AT } else { 0 }, CMDLINE, rsdp, MAP_AT] {
        info.extend(long.to_le_bytes());
    }
    info.extend((map.len() as u32).to_le_bytes());
    info.extend([0; 4]);
    ram.write(PVH_START_INFO, &info)?;
    if let Some((at, size)) = module {
        let entry: Vec<u8> = [at, size, 0, 0].iter().flat_map(|n: &u64| n.to_le_bytes()).collect();
        ram.write(MODULE_AT, &entry)?;
    }
    for (i, range) in map.iter().enumerate() {
        let mut entry = range.start.to_le_bytes().to_vec();
        entry.extend(range.len.to_le_bytes());
        entry.extend(range.kind.to_le_bytes());
        entry.extend([0; 4]);
        ram.write(MAP_AT + 24 * i as u64, &entry)?;
    }
    Ok(())
}
