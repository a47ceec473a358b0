//! Getting the guest's memory from the host: reserved, placed, faulted in before the start, or refused with what is
//! short and where.

use crate::config::{Memory, Pages};
use crate::layout::{HIGH_START, LOW_END_MAX};
use crate::ram::GuestRam;
use crate::sys::mapping::Mapping;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::Advice;
use std::fs::File;
use std::io;
use std::path::Path;

/// Bytes that one thread faults in at a time; a multiple of every page size.
const POPULATE_CHUNK: usize = 1 << 30;
/// Most threads that fault in: memory bandwidth is saturated by then.
const POPULATE_THREADS: usize = 16;
/// Alignment of base pages: without it the host gives no transparent huge pages (3.3 times the exits in a boot).
const BASE_ALIGN: usize = 2 << 20;

/// Why memory could not be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum MemoryError {
    #[error(
        "memory.pages: {wanted} pages of {} KiB are needed{place}, {free} are free: raise {path}",
        size / 1024
    )]
    Short { wanted: u64, free: u64, size: u64, place: String, path: String },
    #[error("memory.pages: this host has no pages of {} KiB (no {path})", size / 1024)]
    NoPool { size: u64, path: String },
    #[error("memory.node: this host has no NUMA node {0}")]
    NoNode(u32),
    #[error("memory.lock: {0} (is RLIMIT_MEMLOCK high enough?)")]
    Lock(io::Error),
    #[error("memory.size: cannot {what} {size} bytes: {error}")]
    Host { what: &'static str, size: u64, error: io::Error },
}

/// Guest address and size of each region.
pub fn regions(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(LOW_END_MAX);
    let mut regions = vec![(0, low)];
    if size > low {
        regions.push((HIGH_START, size - low));
    }
    regions
}

/// Takes the memory from the host.
pub(crate) fn allocate(spec: &Memory) -> Result<GuestRam, MemoryError> {
    allocate_under(spec, Path::new("/sys"))
}

fn allocate_under(spec: &Memory, sys: &Path) -> Result<GuestRam, MemoryError> {
    if let Some(node) = spec.node
        && !sys.join(format!("devices/system/node/node{node}")).exists()
    {
        return Err(MemoryError::NoNode(node));
    }
    check_pool(spec, sys)?;
    let host = |what| move |error| MemoryError::Host { what, size: spec.size, error };
    let file = backing(spec).map_err(host("make a memory file of"))?;
    let align = BASE_ALIGN.max(spec.pages.size() as usize);
    let mut mappings = Vec::new();
    let mut offset = 0;
    for (guest, len) in regions(spec.size) {
        let part = file.as_ref().map(|file| (file, offset));
        let mapping =
            Mapping::new(len as usize, align, part).map_err(|error| shortage(spec, sys, "map", error))?;
        offset += len;
        mapping.advise(Advice::LinuxDontDump).map_err(host("keep out of core dumps"))?;
        if file.is_none() {
            // A kernel without transparent huge pages refuses; then there are none to lose.
            let _ = mapping.advise(Advice::LinuxHugepage);
        }
        if let Some(node) = spec.node {
            mapping.bind(node).map_err(host("bind to memory.node"))?;
        }
        if spec.lock {
            mapping.lock_on_fault().map_err(MemoryError::Lock)?;
        }
        mappings.push((guest, mapping));
    }
    let ram = GuestRam::new(mappings).map_err(host("arrange"))?;
    if spec.prefault {
        populate(&ram).map_err(|error| shortage(spec, sys, "fault in", error))?;
    }
    Ok(ram)
}

/// A failure after the check of the pool: someone else was faster, or base memory is short.
fn shortage(spec: &Memory, sys: &Path, what: &'static str, error: io::Error) -> MemoryError {
    match check_pool(spec, sys) {
        Err(short) => short,
        Ok(()) => MemoryError::Host { what, size: spec.size, error },
    }
}

fn backing(spec: &Memory) -> io::Result<Option<File>> {
    let huge = match spec.pages {
        Pages::Base if !spec.shared => return Ok(None),
        Pages::Base => MemfdFlags::empty(),
        Pages::Huge2M => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        Pages::Huge1G => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
    };
    let file =
        File::from(memfd_create("guest memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | huge)?);
    ftruncate(&file, spec.size)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(Some(file))
}

/// Whether the pool of huge pages holds enough, on the node if one is asked for.
fn check_pool(spec: &Memory, sys: &Path) -> Result<(), MemoryError> {
    if spec.pages == Pages::Base {
        return Ok(());
    }
    let size = spec.pages.size();
    let kib = size / 1024;
    let (folder, place) = match spec.node {
        Some(node) => (
            sys.join(format!("devices/system/node/node{node}/hugepages/hugepages-{kib}kB")),
            format!(" on NUMA node {node}"),
        ),
        None => (sys.join(format!("kernel/mm/hugepages/hugepages-{kib}kB")), String::new()),
    };
    let Some(free) = read_number(&folder.join("free_hugepages")) else {
        return Err(MemoryError::NoPool { size, path: folder.display().to_string() });
    };
    // Reserved pages are free in this file but promised to others; nodes do not tell.
    let promised = read_number(&folder.join("resv_hugepages")).unwrap_or(0);
    let (wanted, free) = (spec.size / size, free.saturating_sub(promised));
    if wanted > free {
        let path = folder.join("nr_hugepages").display().to_string();
        return Err(MemoryError::Short { wanted, free, size, place, path });
    }
    Ok(())
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Faults everything in, chunk by chunk, on as many threads as there are CPUs.
fn populate(ram: &GuestRam) -> io::Result<()> {
    let chunks: Vec<_> = ram
        .mappings()
        .iter()
        .flat_map(|m| {
            (0..m.len()).step_by(POPULATE_CHUNK).map(move |at| (m, at, POPULATE_CHUNK.min(m.len() - at)))
        })
        .collect();
    let threads =
        std::thread::available_parallelism().map_or(1, |n| n.get()).min(POPULATE_THREADS).min(chunks.len());
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || -> io::Result<()> {
        while let Some((mapping, at, len)) =
            chunks.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        {
            mapping.populate(*at, *len)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        workers
            .into_iter()
            .map(|w| w.join().unwrap_or_else(|_| Err(io::Error::other("a thread that faults in panicked"))))
            .fold(mine, |all, one| all.and(one))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(size: u64, pages: Pages) -> Memory {
        Memory { size, pages, node: None, shared: false, lock: false, prefault: false }
    }

    #[test]
    fn memory_goes_around_the_hole_below_four_gigabytes() {
        assert_eq!(regions(1 << 30), [(0, 1 << 30)]);
        assert_eq!(regions(4 << 30), [(0, 3 << 30), (4 << 30, 1 << 30)]);
    }

    #[test]
    fn base_memory_is_aligned_and_can_be_faulted_in() {
        let ram = allocate(&Memory { prefault: true, ..spec(8 << 20, Pages::Base) }).expect("memory");
        assert_eq!((ram.size(), ram.regions()[0].host % BASE_ALIGN), (8 << 20, 0));
        ram.write((8 << 20) - 1, &[7]).expect("the last byte");
        assert!(ram.write(8 << 20, &[7]).is_err());
        let shared = allocate(&Memory { shared: true, ..spec(4 << 20, Pages::Base) }).expect("memory");
        shared.write(0, &[1]).expect("the first byte");
    }

    #[test]
    fn too_few_huge_pages_are_refused_with_number_and_node() {
        let sys = tempfile::tempdir().expect("folder");
        let write = |path: &str, text: &str| {
            let path = sys.path().join(path);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            std::fs::write(path, text).expect("file");
        };
        write("kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "9\n");
        write("kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "2\n");
        write("devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "3\n");
        let refused = |spec: &Memory| allocate_under(spec, sys.path()).expect_err("refused").to_string();
        let two = spec(16 << 20, Pages::Huge2M);
        let text = refused(&two);
        assert!(text.contains("8 pages of 2048 KiB are needed, 7 are free"), "{text}");
        let text = refused(&Memory { node: Some(1), ..two });
        assert!(text.contains("on NUMA node 1, 3 are free"), "{text}");
        assert!(refused(&Memory { node: Some(7), ..two }).contains("no NUMA node 7"));
        assert!(refused(&spec(1 << 30, Pages::Huge1G)).contains("no pages of 1048576 KiB"));
    }
}
