//! The store against a model, in one thread and in many; the life of a fill.

use super::*;
use proptest::prelude::*;
use sluice_core::cache::{Freshness, PassReason, Vary};
use std::collections::{HashMap, HashSet};

/// Remembers who was woken.
#[derive(Default)]
struct Woken(Mutex<Vec<Subscriber>>);

impl Wakeup for Woken {
    fn wake(&self, who: Subscriber) {
        self.0.lock().push(who);
    }
}

impl Woken {
    fn take(&self) -> Vec<u64> {
        let mut list: Vec<u64> = std::mem::take(&mut *self.0.lock()).iter().map(|s| s.token).collect();
        list.sort_unstable();
        list
    }
}

const NO_FIELDS: &[(&str, &str)] = &[];

fn store(capacity: u64) -> (Arc<Store>, Arc<Woken>) {
    let woken = Arc::new(Woken::default());
    (Store::new(StoreConfig { capacity_bytes: capacity, shards: 1 }, woken.clone()).unwrap(), woken)
}

fn at(mono_ms: u64) -> Now {
    Now { mono_ms, unix_s: 0 }
}

fn query<'a>(key: u128, token: u64, request: &'a dyn FieldSource) -> Query<'a> {
    Query {
        key: CacheKey(key),
        host_generation: 1,
        now: at(0),
        control: RequestControl::default(),
        request,
        may_fill: true,
        attempt: 0,
        subscriber: Subscriber { worker: 0, token },
    }
}

fn meta(lifetime_ms: u64) -> ObjectMeta {
    let freshness = Freshness {
        lifetime_ms,
        received_mono_ms: 0,
        initial_age_s: 0,
        stale_while_revalidate_s: 0,
        stale_if_error_s: 0,
        always_validate: false,
        never_stale: false,
    };
    ObjectMeta { status: 200, freshness, last_modified_s: None, date_s: None, etag: None }
}

fn ask(store: &Arc<Store>, key: u128, token: u64) -> Lookup {
    store.lookup_or_begin(&query(key, token, &NO_FIELDS))
}

fn begin(store: &Arc<Store>, key: u128) -> FillWriter {
    match ask(store, key, 0) {
        Lookup::Begin(writer) => writer,
        other => panic!("expected to begin: {other:?}"),
    }
}

fn join(store: &Arc<Store>, key: u128, token: u64) -> FillReader {
    match ask(store, key, token) {
        Lookup::Join(reader) => reader,
        other => panic!("expected to join: {other:?}"),
    }
}

fn hit(store: &Arc<Store>, key: u128) -> ObjectRef {
    match ask(store, key, 0) {
        Lookup::Hit { object, stale: false } => object,
        other => panic!("expected a hit: {other:?}"),
    }
}

fn start(writer: FillWriter, len: Option<u64>) -> BodyWriter {
    writer.start(meta(1000), &Vary::None, &NO_FIELDS, b"head", len).unwrap()
}

fn fill(store: &Arc<Store>, key: u128, body: &[u8]) -> ObjectRef {
    let mut writer = start(begin(store, key), Some(body.len() as u64));
    writer.append(body).unwrap();
    writer.finish().unwrap()
}

fn body(object: &Object) -> Vec<u8> {
    let mut out = Vec::new();
    while (out.len() as u64) < object.body_available() {
        out.extend_from_slice(object.body_chunk(out.len() as u64));
    }
    out
}

fn content(key: u64, version: u64, len: usize) -> Vec<u8> {
    let seed = (key << 32 | version).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..len as u64).map(|i| (seed.wrapping_add(i.wrapping_mul(0x2545_f491)) >> 13) as u8).collect()
}

/// Everything can be evicted and nothing stays charged.
fn assert_no_leak(store: &Arc<Store>) {
    assert!(store.make_room(store.arena.capacity()));
    let stats = store.stats();
    assert_eq!((stats.bytes, stats.objects, stats.fills), (0, 0, 0));
}

#[test]
fn a_filled_object_is_found_whole_with_its_head() {
    let (store, _) = store(1 << 20);
    fill(&store, 1, b"body");
    let object = hit(&store, 1);
    assert_eq!((object.head(), body(&object), object.body_len()), (&b"head"[..], b"body".to_vec(), Some(4)));
    let mut slices = Vec::new();
    assert_eq!(object.push_body(1, 100, &mut slices), 3);
    assert_eq!(slices[0].bytes(), b"ody");
    assert_eq!(store.stats().bytes, ENTRY_BYTES + 64);
    drop((object, slices));
    assert_no_leak(&store);
}

#[test]
fn readers_are_woken_as_bytes_arrive_and_never_twice_for_the_same() {
    let (store, woken) = store(1 << 20);
    let writer = begin(&store, 1);
    let (mut a, mut b) = (join(&store, 1, 10), join(&store, 1, 11));
    assert!(
        matches!(a.poll(&NO_FIELDS), FillPoll::Pending) && matches!(a.poll(&NO_FIELDS), FillPoll::Pending)
    );
    assert!(matches!(b.poll(&NO_FIELDS), FillPoll::Pending));
    let mut writer = start(writer, None);
    assert_eq!(woken.take(), [10, 11]);
    let FillPoll::Ready(object) = a.poll(&NO_FIELDS) else { panic!() };
    assert_eq!(a.poll_body(0), BodyPoll::Pending);
    writer.append(b"abc").unwrap();
    assert_eq!(woken.take(), [10], "only who asked for more");
    assert_eq!(a.poll_body(0), BodyPoll::Available(3));
    writer.append(b"def").unwrap();
    assert_eq!(woken.take(), [0; 0], "a reader that has not caught up is left alone");
    assert_eq!(a.poll_body(3), BodyPoll::Available(6));
    assert_eq!(a.poll_body(6), BodyPoll::Pending);
    writer.finish().unwrap();
    assert_eq!(woken.take(), [10]);
    assert_eq!(a.poll_body(6), BodyPoll::End);
    assert!(matches!(b.poll(&NO_FIELDS), FillPoll::Ready(_)));
    assert_eq!(b.poll_body(0), BodyPoll::Available(6));
    assert_eq!(body(&object), b"abcdef");
    drop((a, b, object));
    assert_no_leak(&store);
}

#[test]
fn a_reader_joining_late_gets_everything() {
    let (store, _) = store(1 << 20);
    let mut writer = start(begin(&store, 1), Some(6));
    writer.append(b"abc").unwrap();
    let mut late = join(&store, 1, 5);
    assert!(matches!(late.poll(&NO_FIELDS), FillPoll::Ready(_)));
    assert_eq!(late.poll_body(0), BodyPoll::Available(3));
    writer.append(b"def").unwrap();
    writer.finish().unwrap();
    assert_eq!(late.poll_body(3), BodyPoll::Available(6));
    assert_eq!(late.poll_body(6), BodyPoll::End);
}

#[test]
fn a_dead_writer_is_replaced_once() {
    let (store, woken) = store(1 << 20);
    let writer = begin(&store, 1);
    let (mut a, mut b) = (join(&store, 1, 10), join(&store, 1, 11));
    assert!(
        matches!(a.poll(&NO_FIELDS), FillPoll::Pending) && matches!(b.poll(&NO_FIELDS), FillPoll::Pending)
    );
    drop(writer);
    assert_eq!(woken.take(), [10, 11]);
    assert!(matches!(a.poll(&NO_FIELDS), FillPoll::Retry) && matches!(b.poll(&NO_FIELDS), FillPoll::Retry));
    let again = |token| store.lookup_or_begin(&Query { attempt: 1, ..query(1, token, &NO_FIELDS) });
    let Lookup::Begin(second) = again(10) else { panic!("the first becomes the writer") };
    let Lookup::Join(mut b) = again(11) else { panic!("the other waits for it") };
    assert!(matches!(b.poll(&NO_FIELDS), FillPoll::Pending));
    drop(second);
    assert!(matches!(b.poll(&NO_FIELDS), FillPoll::Failed), "no third writer for those readers");
    assert_eq!(store.stats().fills_failed, 2);
    drop((a, b));
    assert_no_leak(&store);
}

#[test]
fn a_fill_that_dies_midway_cuts_its_readers_and_stores_nothing() {
    let (store, woken) = store(1 << 20);
    let mut writer = start(begin(&store, 1), Some(100));
    let mut reader = join(&store, 1, 10);
    assert!(matches!(reader.poll(&NO_FIELDS), FillPoll::Ready(_)));
    writer.append(b"abc").unwrap();
    assert_eq!(reader.poll_body(3), BodyPoll::Pending);
    drop(writer);
    assert_eq!(woken.take(), [10]);
    assert_eq!(reader.poll_body(0), BodyPoll::Available(3));
    assert_eq!(reader.poll_body(3), BodyPoll::Failed);
    drop(reader);
    drop(begin(&store, 1));
    assert_no_leak(&store);
}

#[test]
fn uncacheable_releases_all_at_once_and_is_remembered_for_a_time() {
    let (store, woken) = store(1 << 20);
    let writer = begin(&store, 1);
    let mut readers: Vec<_> = (10..15).map(|t| join(&store, 1, t)).collect();
    readers.iter_mut().for_each(|r| assert!(matches!(r.poll(&NO_FIELDS), FillPoll::Pending)));
    writer.uncacheable(PassReason::Private, at(0), 500);
    assert_eq!(woken.take(), [10, 11, 12, 13, 14]);
    for reader in &mut readers {
        assert!(matches!(reader.poll(&NO_FIELDS), FillPoll::Released(Some(PassReason::Private))));
    }
    assert!(matches!(ask(&store, 1, 0), Lookup::Pass(LookupPass::Uncacheable)));
    assert_eq!(store.peek(&query(1, 0, &NO_FIELDS)), Stored::Uncacheable);
    let later = store.lookup_or_begin(&Query { now: at(500), ..query(1, 0, &NO_FIELDS) });
    assert!(matches!(later, Lookup::Begin(_)));
    drop((readers, later));
    assert_no_leak(&store);
}

#[test]
fn stale_objects_are_revalidated_by_one() {
    let (store, _) = store(1 << 20);
    fill(&store, 1, b"body");
    let late = || Query { now: at(5000), ..query(1, 7, &NO_FIELDS) };
    assert_eq!(store.peek(&late()), Stored::Stale);
    let Lookup::Revalidate { object, writer, serve_now, stale_if_error } = store.lookup_or_begin(&late())
    else {
        panic!()
    };
    assert_eq!((body(&object), serve_now, stale_if_error), (b"body".to_vec(), false, false));
    drop(object);
    let Lookup::Join(mut reader) = store.lookup_or_begin(&late()) else { panic!() };
    assert!(matches!(reader.poll(&NO_FIELDS), FillPoll::Pending));
    let mut fresh = meta(1000);
    fresh.freshness.received_mono_ms = 5000;
    writer.freshen(fresh, b"new head").unwrap();
    let FillPoll::Ready(object) = reader.poll(&NO_FIELDS) else { panic!() };
    assert_eq!((object.head(), body(&object)), (&b"new head"[..], b"body".to_vec()));
    assert!(matches!(store.lookup_or_begin(&late()), Lookup::Hit { stale: false, .. }));
    drop((object, reader));
    assert_no_leak(&store);
}

#[test]
fn stale_while_revalidate_serves_and_validates_behind() {
    let (store, _) = store(1 << 20);
    let mut m = meta(1000);
    m.freshness.stale_while_revalidate_s = 10;
    let writer = begin(&store, 1).start(m, &Vary::None, &NO_FIELDS, b"h", Some(0)).unwrap();
    writer.finish().unwrap();
    let late = || Query { now: at(5000), ..query(1, 7, &NO_FIELDS) };
    let Lookup::Revalidate { writer, serve_now: true, .. } = store.lookup_or_begin(&late()) else { panic!() };
    assert!(matches!(store.lookup_or_begin(&late()), Lookup::Hit { stale: true, .. }));
    let Lookup::Join(mut reader) = store.lookup_or_begin(&Query { now: at(60_000), ..late() }) else {
        panic!()
    };
    let kept = writer.serve_stale();
    assert!(matches!(reader.poll(&NO_FIELDS), FillPoll::Ready(o) if Arc::ptr_eq(&o, &kept)));
}

#[test]
fn request_directives_are_obeyed() {
    let (store, _) = store(1 << 20);
    let with = |control| store.lookup_or_begin(&Query { control, ..query(1, 0, &NO_FIELDS) });
    let cached_only = RequestControl { only_if_cached: true, ..Default::default() };
    assert!(matches!(with(cached_only), Lookup::OnlyIfCached));
    fill(&store, 1, b"x");
    assert!(matches!(with(cached_only), Lookup::Hit { .. }));
    let no_cache = RequestControl { no_cache: true, ..Default::default() };
    let revalidating = with(no_cache);
    assert!(matches!(revalidating, Lookup::Revalidate { .. }));
    assert!(
        matches!(with(no_cache), Lookup::Pass(LookupPass::Unshared)),
        "an answer under way is not its own"
    );
    assert!(matches!(with(RequestControl::default()), Lookup::Hit { .. }), "others are served meanwhile");
    let head = store.lookup_or_begin(&Query { may_fill: false, ..query(2, 0, &NO_FIELDS) });
    assert!(matches!(head, Lookup::Pass(LookupPass::NotFillable)));
}

#[test]
fn purges_hide_what_is_stored_and_what_is_in_flight() {
    let (store, _) = store(1 << 20);
    fill(&store, 1, b"x");
    store.purge(CacheKey(1));
    let mut writer = start(begin(&store, 1), Some(3));
    store.purge(CacheKey(1));
    let second = begin(&store, 1);
    writer.append(b"old").unwrap();
    writer.finish().unwrap();
    let mut second = start(second, Some(3));
    second.append(b"new").unwrap();
    second.finish().unwrap();
    assert_eq!(body(&hit(&store, 1)), b"new");
    let other_host = Query { host_generation: 2, ..query(1, 0, &NO_FIELDS) };
    assert!(matches!(store.lookup_or_begin(&other_host), Lookup::Begin(_)));
    fill(&store, 2, b"x");
    let in_flight = start(begin(&store, 3), Some(0));
    store.purge_all();
    in_flight.finish().unwrap();
    drop((begin(&store, 2), begin(&store, 3)));
    assert_no_leak(&store);
}

fn vary(names: &str) -> Vary {
    Vary::parse([("vary", names)].as_slice())
}

#[test]
fn variants_are_kept_apart_and_purged_together() {
    let (store, woken) = store(1 << 20);
    let (de, en) = ([("accept-language", "de")], [("accept-language", "en")]);
    let (de, en): (&[_], &[_]) = (&de, &en);
    let v = vary("accept-language");
    let Lookup::Begin(first) = store.lookup_or_begin(&query(1, 0, &de)) else { panic!() };
    let Lookup::Join(mut same) = store.lookup_or_begin(&query(1, 1, &de)) else { panic!() };
    let Lookup::Join(mut other) = store.lookup_or_begin(&query(1, 2, &en)) else {
        panic!("nobody knows yet")
    };
    assert!(matches!(same.poll(&de), FillPoll::Pending) && matches!(other.poll(&en), FillPoll::Pending));
    let mut first = first.start(meta(1000), &v, &de, b"h", Some(2)).unwrap();
    assert_eq!(woken.take(), [1, 2]);
    assert!(matches!(same.poll(&de), FillPoll::Ready(_)));
    assert!(matches!(other.poll(&en), FillPoll::Retry));
    let again = Query { attempt: 1, ..query(1, 2, &en) };
    let Lookup::Begin(second) = store.lookup_or_begin(&again) else { panic!("its own fill") };
    assert!(matches!(store.lookup_or_begin(&query(1, 3, &de)), Lookup::Join(_)));
    first.append(b"de").unwrap();
    first.finish().unwrap();
    let mut second = second.start(meta(1000), &v, &en, b"h", Some(2)).unwrap();
    second.append(b"en").unwrap();
    second.finish().unwrap();
    for (request, text) in [(&de, "de"), (&en, "en")] {
        let Lookup::Hit { object, .. } = store.lookup_or_begin(&query(1, 0, request)) else { panic!() };
        assert_eq!(body(&object), text.as_bytes());
    }
    assert_eq!(store.stats().objects, 2);
    store.purge(CacheKey(1));
    assert_eq!(store.stats().objects, 0);
    drop((same, other));
    assert_no_leak(&store);
}

#[test]
fn variants_of_a_url_are_bounded() {
    let (store, _) = store(4 << 20);
    let v = vary("x");
    for n in 0..VARIANTS_MAX + 10 {
        let value = n.to_string();
        let request = [("x", value.as_str())];
        let request: &[_] = &request;
        let Lookup::Begin(writer) = store.lookup_or_begin(&query(1, 0, &request)) else { panic!() };
        writer.start(meta(1000), &v, &request, b"h", Some(0)).unwrap().finish().unwrap();
    }
    assert_eq!(store.stats().objects, VARIANTS_MAX as u64);
    assert_no_leak(&store);
}

#[test]
fn a_response_that_stops_varying_replaces_its_variants() {
    let (store, _) = store(1 << 20);
    let en: &[(&str, &str)] = &[("x", "en")];
    let Lookup::Begin(writer) = store.lookup_or_begin(&query(1, 0, &en)) else { panic!() };
    writer.start(meta(1000), &vary("x"), &en, b"h", Some(0)).unwrap().finish().unwrap();
    fill(&store, 1, b"plain");
    let Lookup::Hit { object, .. } = store.lookup_or_begin(&query(1, 0, &en)) else { panic!() };
    assert_eq!(body(&object), b"plain");
    drop(object);
    assert_no_leak(&store);
}

#[test]
fn too_large_passes_and_is_remembered() {
    let (store, _) = store(1 << 20);
    let refused = begin(&store, 1).start(meta(1000), &Vary::None, &NO_FIELDS, b"h", Some(200_000));
    assert_eq!(refused.unwrap_err(), NotStored::TooLarge);
    assert!(matches!(ask(&store, 1, 0), Lookup::Pass(LookupPass::Uncacheable)));
    let mut grows = start(begin(&store, 2), None);
    let error = (0..100).find_map(|_| grows.append(&[7; 10_000]).err());
    assert_eq!(error, Some(NotStored::TooLarge));
    assert!(grows.object().is_failed());
    assert_eq!(store.stats().refused_large, 2);
    drop(grows);
    assert_no_leak(&store);
}

#[test]
fn lengths_must_agree() {
    let (store, _) = store(1 << 20);
    let mut writer = start(begin(&store, 1), Some(3));
    assert_eq!(writer.append(b"four"), Err(NotStored::Length));
    drop(writer);
    let mut writer = start(begin(&store, 1), Some(3));
    writer.append(b"no").unwrap();
    assert_eq!(writer.finish().unwrap_err(), NotStored::Length);
    assert_no_leak(&store);
}

#[test]
fn objects_in_use_are_not_evicted_and_full_is_counted() {
    let (store, _) = store(256 << 10);
    let held: Vec<_> = (0..7).map(|n| fill(&store, n, &[1; 30_000])).collect();
    let tries: Vec<_> = (100..110)
        .map(|n| begin(&store, n).start(meta(9), &Vary::None, &NO_FIELDS, b"h", Some(30_000)))
        .collect();
    let refused = tries.iter().filter(|t| matches!(t, Err(NotStored::Full))).count();
    assert_eq!((refused, store.stats().refused_full), (9, 9), "an eighth object fits");
    drop(tries);
    held.iter().for_each(|o| assert_eq!(body(o), vec![1; 30_000]));
    drop(held);
    fill(&store, 200, &[2; 30_000]);
    assert_no_leak(&store);
}

#[test]
fn bytes_being_sent_hold_an_object_too() {
    let (store, _) = store(256 << 10);
    let mut slices = Vec::new();
    fill(&store, 1, &[1; 30_000]).push_body(0, 30_000, &mut slices);
    for n in 10..40 {
        fill(&store, n, &[2; 20_000]);
    }
    assert!(
        matches!(ask(&store, 1, 0), Lookup::Hit { .. }),
        "smaller and used less, but it would free nothing"
    );
    assert_eq!(slices[0].bytes(), [1; 30_000]);
    drop(slices);
    assert_no_leak(&store);
}

#[test]
fn worth_continuing_follows_the_rule() {
    let (store, _) = store(64 << 20);
    let mut writer = start(begin(&store, 1), Some(4 << 20));
    assert!(!writer.worth_continuing());
    let reader = join(&store, 1, 0);
    assert!(writer.worth_continuing());
    drop(reader);
    writer.append(&vec![0; (2 << 20) + 1]).unwrap();
    assert!(writer.worth_continuing(), "more than half is there");
    assert!(start(begin(&store, 2), Some(1 << 20)).worth_continuing(), "little is missing");
    assert!(!start(begin(&store, 3), None).worth_continuing(), "nobody knows how much is missing");
}

#[test]
fn entry_bytes_cover_what_an_entry_costs() {
    let arc = 16;
    let malloc = 8;
    let object = size_of::<Object>() + arc + malloc;
    let blob = size_of::<sluice_uring::arena::Blob>() + arc + malloc;
    let slot = size_of::<shard::Slot>();
    // Table at 7/8 load at worst half empty after a doubling; heap: rank, slot, place; allocator: one block, and one
    // free neighbour.
    let sum = slot + 10 + 16 + object + blob + 2 * 28;
    assert!((sum as u64..sum as u64 + 32).contains(&ENTRY_BYTES), "{slot} {object} {blob}: {sum}");
}

#[derive(Clone, Debug)]
enum Op {
    Get { key: u64, len: usize, declared: bool, fate: u8 },
    Continue { pick: usize, bytes: usize },
    Purge { key: u64 },
    PurgeAll,
    Hold { key: u64 },
    Release,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![8 => 0usize..3000, 2 => 0usize..40_000, 1 => 60_000usize..140_000];
    prop_oneof![
        8 => (0u64..60, len, any::<bool>(), 0u8..10)
            .prop_map(|(key, len, declared, fate)| Op::Get { key, len, declared, fate }),
        4 => (any::<prop::sample::Index>(), 1usize..50_000)
            .prop_map(|(pick, bytes)| Op::Continue { pick: pick.index(64), bytes }),
        1 => (0u64..60).prop_map(|key| Op::Purge { key }),
        1 => Just(Op::PurgeAll),
        2 => (0u64..60).prop_map(|key| Op::Hold { key }),
        1 => Just(Op::Release),
    ]
}

/// A fill under way in the model.
struct InFlight {
    key: u64,
    writer: BodyWriter,
    data: Vec<u8>,
    purged: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn agrees_with_a_map(ops in prop::collection::vec(op(), 1..250)) {
        let (store, _) = store(1 << 20);
        let mut stored: HashMap<u64, Vec<u8>> = HashMap::new();
        let mut flying: Vec<InFlight> = Vec::new();
        let mut held: Vec<(ObjectRef, Vec<u8>)> = Vec::new();
        for (version, op) in ops.into_iter().enumerate() {
            match op {
                Op::Get { key, len, declared, fate } => match ask(&store, u128::from(key), 0) {
                    Lookup::Hit { object, .. } => prop_assert!(Some(&body(&object)) == stored.get(&key)),
                    Lookup::Begin(writer) => {
                        let data = content(key, version as u64, len);
                        match fate {
                            0 => drop(writer),
                            1 => writer.uncacheable(PassReason::NoStore, at(0), 0),
                            _ => {
                                let length = declared.then_some(len as u64);
                                if let Ok(writer) = writer.start(meta(9), &Vary::None, &NO_FIELDS, b"head", length) {
                                    flying.push(InFlight { key, writer, data, purged: false });
                                }
                            }
                        }
                        stored.remove(&key);
                    }
                    Lookup::Join(_) => prop_assert!(flying.iter().any(|f| f.key == key && !f.purged)),
                    Lookup::Pass(LookupPass::Uncacheable | LookupPass::TooManyFills) => {
                        stored.remove(&key);
                    }
                    other => prop_assert!(false, "{:?}", other),
                },
                Op::Continue { pick, bytes } if !flying.is_empty() => {
                    let at = pick % flying.len();
                    let f = &mut flying[at];
                    let done = f.writer.object().body_available() as usize;
                    let n = bytes.min(f.data.len() - done);
                    let failed = f.writer.append(&f.data[done..done + n]).is_err();
                    if failed {
                        flying.swap_remove(at);
                    } else if done + n == f.data.len() {
                        let f = flying.swap_remove(at);
                        f.writer.finish().unwrap();
                        if !f.purged {
                            stored.insert(f.key, f.data);
                        }
                    }
                }
                Op::Purge { key } => {
                    store.purge(CacheKey(u128::from(key)));
                    stored.remove(&key);
                    flying.iter_mut().filter(|f| f.key == key).for_each(|f| f.purged = true);
                }
                Op::PurgeAll => {
                    store.purge_all();
                    stored.clear();
                    flying.iter_mut().for_each(|f| f.purged = true);
                }
                Op::Hold { key } => {
                    if let Lookup::Hit { object, .. } = ask(&store, u128::from(key), 0) {
                        let data = stored[&key].clone();
                        held.push((object, data));
                    }
                }
                Op::Release => held.clear(),
                Op::Continue { .. } => {}
            }
            let stats = store.stats();
            prop_assert!(stats.bytes <= stats.capacity_bytes);
            prop_assert_eq!(stats.fills, flying.len() as u64);
            for (object, data) in &held {
                prop_assert!(body(object) == *data);
            }
            for f in &flying {
                let got = body(f.writer.object());
                prop_assert!(got[..] == f.data[..got.len()]);
            }
        }
        drop((flying, held));
        assert_no_leak(&store);
    }
}

/// Threads that look up, fill, die, purge and read at once: no byte of another key or version, and nothing left.
#[test]
fn threads_never_see_wrong_bytes() {
    let woken = Arc::new(Woken::default());
    let store = Store::new(StoreConfig { capacity_bytes: 2 << 20, shards: 4 }, woken).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let store = &store;
            scope.spawn(move || {
                let mut rng = thread + 1;
                let mut next = move |n: u64| {
                    rng ^= rng << 13;
                    rng ^= rng >> 7;
                    rng ^= rng << 17;
                    rng % n
                };
                for round in 0..6000 {
                    let key = next(200) * next(200) / 200;
                    let wide = u128::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
                    stress_step(store, key, wide, thread << 32 | round, &mut next);
                }
            });
        }
    });
    assert_no_leak(&store);
}

/// A body names its version in its first eight bytes.
fn check_body(key: u64, got: &[u8]) {
    if let Some((version, rest)) = got.split_first_chunk::<8>() {
        assert!(rest == content(key, u64::from_le_bytes(*version), rest.len()));
    }
}

fn stress_step(store: &Arc<Store>, key: u64, wide: u128, version: u64, next: &mut impl FnMut(u64) -> u64) {
    match ask(store, wide, version) {
        Lookup::Hit { object, .. } => check_body(key, &body(&object)),
        Lookup::Join(mut reader) => {
            for _ in 0..50 {
                if let FillPoll::Ready(object) = reader.poll(&NO_FIELDS) {
                    check_body(key, &body(&object));
                    reader.poll_body(object.body_available());
                }
            }
        }
        Lookup::Begin(writer) => {
            let len = next(20_000) as usize + if next(20) == 0 { 100_000 } else { 0 };
            let mut data = version.to_le_bytes().to_vec();
            data.extend(content(key, version, len));
            let length = (next(2) == 0).then_some(data.len() as u64);
            match next(10) {
                0 => return drop(writer),
                1 => return writer.uncacheable(PassReason::Private, at(0), next(2)),
                2 => store.purge(CacheKey(wide)),
                _ => {}
            }
            let Ok(mut writer) = writer.start(meta(9), &Vary::None, &NO_FIELDS, b"head", length) else {
                return;
            };
            for chunk in data.chunks(4096) {
                if next(200) == 0 || writer.append(chunk).is_err() {
                    return;
                }
            }
            writer.finish().unwrap();
        }
        Lookup::Pass(_) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_fill_per_key_at_any_time() {
    let woken = Arc::new(Woken::default());
    let store = Store::new(StoreConfig { capacity_bytes: 1 << 20, shards: 2 }, woken).unwrap();
    let writers = AtomicU64::new(0);
    let begun: Mutex<HashSet<u64>> = Mutex::default();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (store, writers, begun) = (&store, &writers, &begun);
            scope.spawn(move || {
                for round in 0..500u64 {
                    let key = u128::from(round) << 70 | u128::from(round);
                    if let Lookup::Begin(writer) = ask(store, key, thread) {
                        assert!(begun.lock().insert(round), "begun twice");
                        writers.fetch_add(1, Ordering::Relaxed);
                        start(writer, Some(0)).finish().unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(writers.into_inner(), 500);
}
