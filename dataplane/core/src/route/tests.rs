//! The table against a plain map; changes beside readers; refusals.

use super::*;
use proptest::prelude::*;
use sluice_api::placement;
use sluice_api::proxy_admin::Apply;
use std::collections::BTreeMap;

fn origin(name: &str, port: u16) -> placement::Origin {
    placement::Origin { name: name.into(), addresses: vec![format!("127.0.0.1:{port}")], host: None }
}

fn site(host: &str, origin: &str) -> placement::Site {
    placement::Site { host: host.into(), routes: vec![], origin: origin.into(), group: "g".into() }
}

fn route(path: &str, origin: Option<&str>, cache: bool, ttl: u64) -> placement::Route {
    placement::Route { path: path.into(), origin: origin.map(Into::into), cache, default_ttl_ms: ttl }
}

fn table() -> RouteTable {
    let table = RouteTable::new();
    table.upsert_origin(&origin("a", 1)).unwrap();
    table.upsert_origin(&origin("b", 2)).unwrap();
    table
}

fn port(table: &RouteTable, host: &str, path: &str) -> Option<u16> {
    let found = table.lookup(host.as_bytes(), path.as_bytes())?;
    table.origin(found.origin).map(|o| o.addresses[0].port())
}

#[test]
fn exact_then_longest_suffix_then_default() {
    let t = table();
    assert_eq!(port(&t, "x.example", "/"), None);
    for (host, origin) in [("x.example", "a"), ("*.example", "b"), ("*.deep.example", "a")] {
        t.upsert_site(&site(host, origin)).unwrap();
    }
    let who = |host: &str| t.lookup(host.as_bytes(), b"/").and_then(|m| t.row_name(&m));
    assert_eq!(who("x.example").as_deref(), Some("x.example"));
    assert_eq!(who("y.example").as_deref(), Some("*.example"));
    assert_eq!(who("a.b.example").as_deref(), Some("*.example"));
    assert_eq!(who("z.deep.example").as_deref(), Some("*.deep.example"));
    assert_eq!(who("deep.example").as_deref(), Some("*.example"));
    assert_eq!(who("example"), None, "the suffix itself is not below itself");
    assert_eq!(who("*.example").as_deref(), Some("*.example"), "as a host below it, not as the row's name");
    assert_eq!(who("other"), None);
    t.upsert_site(&site("*", "a")).unwrap();
    assert_eq!(who("other").as_deref(), Some("*"));
    assert_eq!(who("").as_deref(), Some("*"));
    assert!(t.remove_site("*") && t.remove_site("*.example") && !t.remove_site("*"));
    assert_eq!((who("other"), who("y.example")), (None, None));
}

#[test]
fn longest_prefix_wins_in_whatever_order_written() {
    let t = table();
    let mut s = site("h", "a");
    s.routes =
        vec![route("/x", Some("b"), true, 5), route("/", None, false, 0), route("/x/y", None, true, 9)];
    t.upsert_site(&s).unwrap();
    let of = |path: &str| t.lookup(b"h", path.as_bytes()).map(|m| (m.route, m.cache, m.default_ttl_ms));
    assert_eq!(of("/x/y/z"), Some((2, true, 9)));
    assert_eq!(of("/xz"), Some((0, true, 5)));
    assert_eq!(of("/q"), Some((1, false, 0)));
    assert_eq!(port(&t, "h", "/x"), Some(2));
    assert_eq!(t.route_prefix(&t.lookup(b"h", b"/x/y").unwrap()).as_deref(), Some("/x/y"));
    s.routes.remove(1);
    t.upsert_site(&s).unwrap();
    assert_eq!(of("/q"), None);
    assert_eq!(of("*"), None);
}

#[test]
fn bad_rows_are_refused_alone_with_their_field() {
    let t = table();
    let field = |s: &placement::Site| t.upsert_site(s).unwrap_err().field;
    assert_eq!(field(&site("UPPER", "a")), "host");
    assert_eq!(field(&site("h", "nobody")), "origin");
    let mut s = site("h", "a");
    s.routes = vec![route("/", None, true, 0), route("x", None, true, 0)];
    assert_eq!(field(&s), "routes[1].path");
    s.routes[1] = route("/", None, true, 0);
    assert_eq!(field(&s), "routes[1].path");
    s.routes[1] = route("/y", Some("nobody"), true, 0);
    assert_eq!(field(&s), "routes[1].origin");
    s.routes[1] = route("/y", None, true, u64::MAX);
    assert_eq!(field(&s), "routes[1].default_ttl_ms");
    assert_eq!(t.stats().sites, 0);
    assert_eq!(t.upsert_origin(&origin("c", 0)).unwrap_err().field, "addresses[0]");
    t.upsert_site(&site("h", "a")).unwrap();
    assert_eq!(t.remove_origin("a").unwrap_err().field, "name");
    assert!(t.remove_origin("b").unwrap() && !t.remove_origin("b").unwrap());
}

#[test]
fn a_change_is_checked_as_a_whole() {
    let t = table();
    let mut change = Apply { sites: vec![site("h1", "a"), site("h2", "new")], ..Default::default() };
    assert_eq!(t.apply(&change).unwrap_err().field, "sites[1].origin");
    assert_eq!(t.stats().sites, 0);
    change.origins = vec![origin("new", 3)];
    t.apply(&change).unwrap();
    assert_eq!((port(&t, "h1", "/"), port(&t, "h2", "/")), (Some(1), Some(3)));
    let remove = Apply { origins_removed: vec!["new".into()], ..Default::default() };
    assert_eq!(t.apply(&remove).unwrap_err().field, "origins_removed[0]");
    let both = Apply { sites_removed: vec!["h2".into()], ..remove };
    t.apply(&both).unwrap();
    assert_eq!((t.stats().sites, t.stats().origins), (1, 2));
    let twice = Apply { sites: vec![site("h1", "a"), site("h1", "a")], ..Default::default() };
    assert_eq!(t.apply(&twice).unwrap_err().field, "sites[1].host");
    let full = Apply {
        full: true,
        origins: vec![origin("z", 9)],
        sites: vec![site("h9", "z")],
        ..Default::default()
    };
    t.apply(&full).unwrap();
    assert_eq!((port(&t, "h1", "/"), port(&t, "h9", "/")), (None, Some(9)));
    assert_eq!((t.stats().sites, t.stats().origins), (1, 1));
    let dangling = Apply { full: true, sites: vec![site("h9", "z")], ..Default::default() };
    assert_eq!(t.apply(&dangling).unwrap_err().field, "sites[0].origin");
}

#[test]
fn counters_and_generation_outlive_a_replacement_not_a_removal() {
    let t = table();
    t.upsert_site(&site("h", "a")).unwrap();
    let first = t.lookup(b"h", b"/").unwrap();
    t.count(&first, true, 10);
    t.upsert_site(&site("h", "b")).unwrap();
    let second = t.lookup(b"h", b"/").unwrap();
    assert_eq!((first.generation, first.serial), (second.generation, second.serial));
    t.count(&first, false, 5);
    let counters = t.counters(&second).unwrap();
    let all = [&counters.requests, &counters.hits, &counters.bytes_out].map(|c| c.load(Ordering::Relaxed));
    assert_eq!(all, [2, 1, 15]);
    assert!(t.purge_host("h") && !t.purge_host("x"));
    let purged = t.lookup(b"h", b"/").unwrap();
    assert!(purged.generation > second.generation);
    t.remove_site("h");
    t.upsert_site(&site("h", "a")).unwrap();
    assert!(t.lookup(b"h", b"/").unwrap().generation > purged.generation);
    assert!(t.counters(&first).is_none(), "the place has another row");
}

#[test]
fn memory_of_a_simple_domain_stays_within_its_budget() {
    let t = table();
    let before = t.stats().bytes;
    for n in 0..10_000 {
        t.upsert_site(&site(&format!("shop-{n:06}.customers.example"), "a")).unwrap();
    }
    let each = (t.stats().bytes - before) / 10_000;
    assert!(each <= 300, "{each} bytes");
    for n in 0..10_000 {
        assert!(t.remove_site(&format!("shop-{n:06}.customers.example")));
    }
    assert_eq!(t.stats().sites, 0);
    let rest = t.stats().bytes;
    for n in 0..10_000 {
        t.upsert_site(&site(&format!("shop-{n:06}.customers.example"), "a")).unwrap();
        t.remove_site(&format!("shop-{n:06}.customers.example"));
    }
    assert!(t.stats().bytes <= rest, "coming and going does not grow the table");
}

fn host() -> impl Strategy<Value = String> {
    prop_oneof![
        10 => "[ab]{1,2}(\\.[ab]){0,3}",
        3 => "\\*(\\.[ab]){1,3}",
        1 => Just("*".to_owned()),
    ]
}

/// What the documents say, the slow way.
fn model_lookup<'a>(rows: &'a BTreeMap<String, bool>, host: &str) -> Option<&'a str> {
    if let Some((name, _)) = rows.get_key_value(host).filter(|_| !host.starts_with('*')) {
        return Some(name);
    }
    let below = |row: &&String| row.strip_prefix('*').is_some_and(|s| s.len() > 1 && host.ends_with(s));
    let longest = rows.keys().filter(below).max_by_key(|row| row.len());
    longest.or_else(|| rows.get_key_value("*").map(|r| r.0)).map(String::as_str)
}

proptest! {
    #[test]
    fn agrees_with_a_map(ops in prop::collection::vec((any::<bool>(), any::<bool>(), host()), 1..150)) {
        let t = table();
        let mut model = BTreeMap::new();
        for (add, b, host) in ops {
            if add {
                t.upsert_site(&site(&host, if b { "b" } else { "a" })).unwrap();
                model.insert(host.clone(), b);
            } else {
                prop_assert_eq!(t.remove_site(&host), model.remove(&host).is_some());
            }
            prop_assert_eq!(t.stats().sites, model.len() as u64);
            for asked in [host.trim_start_matches("*."), "a.b.a", "b"] {
                let want = model_lookup(&model, asked);
                let got = t.lookup(asked.as_bytes(), b"/");
                let name = got.and_then(|m| t.row_name(&m));
                prop_assert_eq!(name.as_deref(), want);
                let want = want.map(|row| if model[row] { 2 } else { 1 });
                prop_assert_eq!(port(&t, asked, "/"), want);
            }
        }
    }
}

/// Rows that do not change are found at every moment while others come, go and the index doubles.
#[test]
fn readers_never_miss_a_row_that_stays() {
    let t = table();
    for n in 0..50 {
        t.upsert_site(&site(&format!("stays-{n}.example"), "a")).unwrap();
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut n = 0;
                while !done.load(Ordering::Relaxed) {
                    let host = format!("stays-{}.example", n % 50);
                    assert_eq!(port(&t, &host, "/"), Some(1));
                    let flips = port(&t, "flips.example", "/");
                    assert!(matches!(flips, None | Some(1 | 2)), "{flips:?}");
                    n += 1;
                }
            });
        }
        for n in 0..3000 {
            t.upsert_site(&site(&format!("comes-{n}.example"), "b")).unwrap();
            t.upsert_site(&site("flips.example", if n % 2 == 0 { "a" } else { "b" })).unwrap();
            if n % 3 == 0 {
                t.remove_site(&format!("comes-{}.example", n / 2));
                t.remove_site("flips.example");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}
