//! Blobs against a plain vector, pages after a send by reference, and threads.

use super::*;
use proptest::prelude::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9).wrapping_add(seed) >> 7) as u8).collect()
}

fn read_all(blob: &Blob) -> Vec<u8> {
    let mut out = Vec::new();
    while (out.len() as u64) < blob.len() {
        let chunk = blob.chunk_at(out.len() as u64);
        assert!(!chunk.is_empty());
        out.extend_from_slice(chunk);
    }
    out
}

#[test]
fn small_blob_is_one_piece_and_costs_whole_lines() {
    let arena = Arena::new(1 << 20).unwrap();
    let blob = arena.reserve(1300, 1).unwrap();
    assert_eq!(arena.used(), 1344);
    assert_eq!(blob.append(&bytes(1, 1300)), 1300);
    assert_eq!(blob.chunk_at(0), bytes(1, 1300));
    assert_eq!(blob.chunk_at(1299), &bytes(1, 1300)[1299..]);
    assert!(blob.chunk_at(1300).is_empty());
    assert!(blob.file_range(0).is_none(), "its pages belong to others too");
    drop(blob);
    assert_eq!(arena.used(), 0);
}

#[test]
fn append_stops_at_the_reservation() {
    let arena = Arena::new(1 << 20).unwrap();
    let blob = arena.reserve(64, 1).unwrap();
    assert_eq!(blob.append(&[1; 100]), 64);
    assert_eq!(blob.append(&[1; 100]), 0);
    assert_eq!(blob.len(), 64);
}

#[test]
fn growing_and_trimming_keeps_bytes_and_charge() {
    let arena = Arena::new(8 << 20).unwrap();
    let blob = arena.reserve(10_000, 1).unwrap();
    let all = bytes(3, 1_500_000);
    let mut at = 0;
    while at < all.len() {
        let n = blob.append(&all[at..(at + 7777).min(all.len())]);
        at += n;
        if n == 0 {
            blob.grow(300_000).unwrap();
        }
    }
    blob.grow(1 << 20).unwrap();
    blob.trim();
    assert_eq!(read_all(&blob), all);
    assert!(arena.used() - 1_500_000 < PAGE_BYTES + UNIT_BYTES, "{}", arena.used());
    assert_eq!(arena.used(), blob.room());
    drop(blob);
    assert_eq!(arena.used(), 0);
}

#[test]
fn capacity_is_never_exceeded_by_charge_or_reserve() {
    let arena = Arena::new(64 << 10).unwrap();
    assert!(arena.charge(60 << 10));
    assert!(!arena.charge(5 << 10));
    assert_eq!(arena.reserve(8 << 10, 1).unwrap_err(), ReserveError::OverCapacity);
    assert_eq!(arena.reserve(65 << 10, 1).unwrap_err(), ReserveError::TooLarge);
    arena.uncharge(60 << 10);
    assert_eq!(arena.used(), 0);
}

/// The reason of the punching rule: without it the receiver of the first object would read the second one.
#[test]
fn bytes_in_flight_by_reference_survive_reuse_of_their_blob() {
    let arena = Arena::new(256 << 10).unwrap();
    let first = arena.reserve(128 << 10, 1).unwrap();
    let old = bytes(1, 128 << 10);
    assert_eq!(first.append(&old), old.len());
    let (at, len) = first.file_range(0).unwrap();
    let (mut near, mut far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let mut offset = at as i64;
    // SAFETY: both descriptors are open and `offset` is a live integer.
    let sent = unsafe { libc::sendfile(near.as_raw_fd(), arena.fd().as_raw_fd(), &mut offset, len as usize) };
    assert!(sent > 4096, "sendfile: {}", io::Error::last_os_error());
    drop(first);
    assert_eq!(arena.stats().punched_bytes, 128 << 10);
    let second = arena.reserve(128 << 10, 1).unwrap();
    second.append(&vec![0xee; 128 << 10]);
    assert_eq!(read_all(&second), vec![0xee; 128 << 10]);
    near.write_all(&[]).unwrap();
    drop(near);
    let mut got = Vec::new();
    far.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), sent as usize);
    assert!(got == old[..sent as usize], "pages in flight were overwritten");
}

#[test]
fn readers_see_a_growing_prefix() {
    let arena = Arena::new(4 << 20).unwrap();
    let blob = Arc::new(arena.reserve(1000, 1).unwrap());
    let all = Arc::new(bytes(9, 1 << 20));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (blob, all) = (blob.clone(), all.clone());
            scope.spawn(move || {
                let mut at = 0;
                while at < all.len() {
                    let chunk = blob.chunk_at(at as u64);
                    assert!(chunk == &all[at..at + chunk.len()]);
                    at += chunk.len();
                    if chunk.is_empty() {
                        std::thread::yield_now();
                    }
                }
            });
        }
        let mut at = 0;
        while at < all.len() {
            let n = blob.append(&all[at..(at + 3000).min(all.len())]);
            at += n;
            if n == 0 {
                blob.grow(100_000).unwrap();
            }
        }
    });
}

#[test]
fn slice_walks_pieces() {
    let arena = Arena::new(4 << 20).unwrap();
    let blob = arena.reserve(100, 1).unwrap();
    blob.append(&bytes(5, 100).repeat(2)[..128]);
    blob.grow(70_000).unwrap();
    blob.append(&bytes(5, 1000));
    let mut slice = ArenaSlice::new(Arc::new(blob), 50, 10_000);
    assert_eq!(slice.len, 1078);
    let mut out = Vec::new();
    while !slice.chunk().is_empty() {
        let n = slice.chunk().len().min(33);
        out.extend_from_slice(&slice.chunk()[..n]);
        slice.advance(n as u64);
    }
    assert_eq!(out.len(), 1078);
    assert_eq!(out[78..], bytes(5, 1000));
}

proptest! {
    #[test]
    fn many_blobs_keep_their_bytes(ops in prop::collection::vec((0u8..4, 1usize..200_000, any::<u16>()), 1..80)) {
        let arena = Arena::new(2 << 20).unwrap();
        let mut live: Vec<(Blob, Vec<u8>)> = Vec::new();
        for (n, (op, len, pick)) in ops.into_iter().enumerate() {
            let at = pick as usize % live.len().max(1);
            match op {
                0 => {
                    if let Ok(blob) = arena.reserve(len as u64, 1) {
                        let data = bytes(n as u64, len);
                        prop_assert_eq!(blob.append(&data), len);
                        live.push((blob, data));
                    }
                }
                1 if !live.is_empty() => {
                    let (blob, data) = &mut live[at];
                    let more = bytes(n as u64, len);
                    let _ = blob.grow(len as u64);
                    let n = blob.append(&more);
                    data.extend_from_slice(&more[..n]);
                }
                2 if !live.is_empty() => live[at].0.trim(),
                3 if !live.is_empty() => drop(live.swap_remove(at)),
                _ => {}
            }
            prop_assert_eq!(arena.used(), live.iter().map(|(b, _)| b.room()).sum::<u64>());
            prop_assert!(arena.used() <= arena.capacity());
            for (blob, data) in &live {
                prop_assert!(read_all(blob) == *data);
            }
        }
        drop(live);
        prop_assert_eq!(arena.used(), 0);
    }
}

#[test]
fn payload_slices_cover_the_range() {
    let arena = Arena::new(4 << 20).unwrap();
    let blob = arena.reserve(100, 1).unwrap();
    blob.append(&bytes(5, 128));
    blob.grow(70_000).unwrap();
    blob.append(&bytes(6, 1000));
    let blob = Arc::new(blob);
    let mut body = Vec::new();
    assert_eq!(push_slices(&blob, 100, 5000, &mut body), 1028);
    assert_eq!(body.len(), 2);
    assert!(body[0].file().is_none() && body[1].file().is_some());
    let got: Vec<u8> = body.iter().flat_map(|s| s.bytes().to_vec()).collect();
    assert_eq!(got, read_all(&blob)[100..]);
}

#[test]
fn fragments_are_used() {
    let arena = Arena::new(1 << 20).unwrap();
    let mut all: Vec<Option<Blob>> = Vec::new();
    while let Ok(blob) = arena.reserve(4096, 1) {
        all.push(Some(blob));
    }
    all.iter_mut().step_by(2).for_each(|blob| *blob = None);
    let free = arena.capacity() - arena.used();
    assert_eq!(
        arena.reserve(free / 4, 5000).unwrap_err(),
        ReserveError::Fragmented,
        "the start must stay together"
    );
    let blobs: Vec<Blob> = (0..4).map(|_| arena.reserve(free / 4, 4000).unwrap()).collect();
    for (n, blob) in blobs.iter().enumerate() {
        assert_eq!(blob.append(&bytes(n as u64, free as usize / 4)), free as usize / 4);
    }
    assert!(blobs.iter().enumerate().all(|(n, blob)| read_all(blob) == bytes(n as u64, free as usize / 4)));
    assert_eq!(arena.used(), arena.capacity());
    drop((blobs, all));
    assert_eq!(arena.used(), 0);
}
