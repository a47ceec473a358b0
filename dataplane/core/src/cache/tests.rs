//! RFC 9111 and RFC 5861 as a table of cases, and the public crate `http-cache-semantics` as an oracle where its
//! rules and ours agree.

use super::*;
use crate::http1::Method;
use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy};
use proptest::prelude::*;
use std::time::{Duration, SystemTime};

type Fields<'a> = [(&'a str, &'a str)];

/// Friday, 2024-03-01 12:00:00 GMT.
const UNIX_S: u64 = 1_709_294_400;
const DATE: &str = "Fri, 01 Mar 2024 12:00:00 GMT";

fn received() -> Now {
    Now { mono_ms: 50_000, unix_s: UNIX_S }
}

fn exchange<'a>(
    request: &'a Fields<'a>,
    status: u16,
    response: &'a Fields<'a>,
) -> Exchange<'a, Fields<'a>, Fields<'a>> {
    Exchange {
        method: Method::Get,
        request_has_body: false,
        request,
        status,
        response,
        request_mono_ms: 50_000,
        received: received(),
        site: SitePolicy { cache: true, default_ttl_ms: 0 },
    }
}

fn verdict(request: &Fields<'_>, status: u16, response: &Fields<'_>) -> Result<Freshness, PassReason> {
    match storable(&exchange(request, status, response)) {
        Storable::Store { freshness, .. } => Ok(freshness),
        Storable::Pass(reason) => Err(reason),
    }
}

fn cc(value: &str) -> [(&str, &str); 1] {
    [("cache-control", value)]
}

#[test]
fn what_may_be_stored() {
    use PassReason::*;
    let auth: &Fields<'_> = &[("authorization", "Basic x")];
    type Case<'a> = (&'a str, &'a Fields<'a>, u16, &'a Fields<'a>, Result<(), PassReason>);
    let cases: &[Case<'_>] = &[
        ("3: explicit lifetime", &[], 200, &cc("max-age=60"), Ok(())),
        ("3: any final status with one", &[], 302, &cc("max-age=60"), Ok(())),
        (
            "3: Expires is one",
            &[],
            302,
            &[("date", DATE), ("expires", "Fri, 01 Mar 2024 13:00:00 GMT")],
            Ok(()),
        ),
        ("4.2.2: none stated, no default", &[], 200, &[], Err(NoLifetime)),
        ("4.2.2: status not by default", &[], 302, &[("etag", "\"a\"")], Err(NoLifetime)),
        ("3: by default with a validator", &[], 200, &[("etag", "\"a\"")], Ok(())),
        ("5.2.2.5: no-store", &[], 200, &cc("max-age=60, no-store"), Err(NoStore)),
        ("5.2.1.5: no-store asked", &cc("no-store"), 200, &cc("max-age=60"), Err(RequestNoStore)),
        ("5.2.2.7: private", &[], 200, &cc("private, max-age=60"), Err(Private)),
        ("5.2.2.7: private in field form", &[], 200, &cc("private=\"x\", max-age=60"), Err(Private)),
        ("3.5: Authorization", auth, 200, &cc("max-age=60"), Err(Authorization)),
        ("3.5: public", auth, 200, &cc("public, max-age=60"), Ok(())),
        ("3.5: s-maxage", auth, 200, &cc("s-maxage=60"), Ok(())),
        ("3.5: must-revalidate", auth, 200, &cc("max-age=60, must-revalidate"), Ok(())),
        (
            "5.2.2.3: must-understand hides no-store",
            &[],
            200,
            &cc("must-understand, no-store, max-age=9"),
            Ok(()),
        ),
        ("5.2.2.3: unknown status", &[], 299, &cc("must-understand, max-age=9"), Err(Status)),
        ("3.3: partial", &[], 206, &cc("max-age=60"), Err(Status)),
        ("4.3.4: 304", &[], 304, &cc("max-age=60"), Err(Status)),
        ("14.2 of 9110: range", &[("range", "bytes=0-1")], 200, &cc("max-age=60"), Err(RangeRequest)),
        ("4.1: Vary *", &[], 200, &[("vary", "*"), ("cache-control", "max-age=60")], Err(Vary)),
        (
            "7.3: Set-Cookie",
            &[],
            200,
            &[("set-cookie", "a=b"), ("cache-control", "max-age=60")],
            Err(SetCookie),
        ),
        (
            "7.3: made public",
            &[],
            200,
            &[("set-cookie", "a=b"), ("cache-control", "public, max-age=60")],
            Ok(()),
        ),
        ("nothing to reuse", &[], 200, &cc("max-age=0"), Err(Useless)),
        ("nothing to reuse", &[], 200, &cc("no-cache"), Err(Useless)),
        ("to be validated", &[], 200, &[("cache-control", "no-cache"), ("etag", "\"a\"")], Ok(())),
        (
            "older than its lifetime",
            &[],
            200,
            &[("cache-control", "max-age=60"), ("age", "60")],
            Err(Useless),
        ),
        ("5861: useful when stale", &[], 200, &cc("max-age=0, stale-while-revalidate=9"), Ok(())),
    ];
    for (section, request, status, response, want) in cases {
        assert_eq!(verdict(request, *status, response).map(|_| ()), *want, "{section}: {response:?}");
    }
}

#[test]
fn method_site_and_default_lifetime() {
    let response = cc("max-age=60");
    let x = exchange(&[], 200, &response);
    let reason = |x: &Exchange<'_, Fields<'_>, Fields<'_>>| match storable(x) {
        Storable::Pass(reason) => Some(reason),
        Storable::Store { .. } => None,
    };
    assert_eq!(reason(&Exchange { method: Method::Post, ..x }), Some(PassReason::Method));
    assert_eq!(reason(&Exchange { method: Method::Head, ..x }), Some(PassReason::Method));
    assert_eq!(reason(&Exchange { request_has_body: true, ..x }), Some(PassReason::Method));
    assert_eq!(reason(&Exchange { site: SitePolicy::default(), ..x }), Some(PassReason::SiteOff));
    let site = SitePolicy { cache: true, default_ttl_ms: 1500 };
    let lifetime =
        |status, response: &Fields<'_>| match storable(&Exchange { site, ..exchange(&[], status, response) })
        {
            Storable::Store { freshness, .. } => Ok(freshness.lifetime_ms),
            Storable::Pass(reason) => Err(reason),
        };
    assert_eq!(lifetime(200, &[]), Ok(1500));
    assert_eq!(lifetime(200, &cc("max-age=1")), Ok(1000), "a stated lifetime beats the default");
    assert_eq!(
        lifetime(200, &[("expires", "0"), ("etag", "x")]),
        Ok(0),
        "section 5.3: so does an invalid one"
    );
    assert_eq!(lifetime(302, &[]), Err(PassReason::NoLifetime));
    assert_eq!(lifetime(200, &cc("no-cache")), Err(PassReason::Useless));
}

#[test]
fn lifetimes() {
    let hour = "Fri, 01 Mar 2024 13:00:00 GMT";
    let cases: &[(&str, &Fields<'_>, u64)] = &[
        ("4.2.1: s-maxage first", &[("cache-control", "max-age=5, s-maxage=9")], 9),
        (
            "4.2.1: max-age over Expires",
            &[("cache-control", "max-age=5"), ("date", DATE), ("expires", hour)],
            5,
        ),
        ("4.2.1: Expires minus Date", &[("date", DATE), ("expires", hour)], 3600),
        ("4.2.1: Date missing", &[("expires", hour)], 3600),
        ("5.3: in the past", &[("date", hour), ("expires", DATE), ("etag", "x")], 0),
        ("5.3: no date", &[("date", DATE), ("expires", "-1"), ("etag", "x")], 0),
        ("4.2.1: two that differ", &[("date", DATE), ("expires", hour), ("expires", DATE), ("etag", "x")], 0),
        ("4.2.1: two that agree", &[("date", DATE), ("expires", hour), ("expires", hour)], 3600),
        ("5.6.7 of 9110: old format", &[("date", DATE), ("expires", "Friday, 01-Mar-24 12:01:00 GMT")], 60),
        ("4.2.1: no number is stale", &[("cache-control", "max-age=x"), ("etag", "x")], 0),
    ];
    for (section, response, want_s) in cases {
        let got = verdict(&[], 200, response).map(|f| f.lifetime_ms / 1000);
        assert_eq!(got, Ok(*want_s), "{section}");
    }
}

#[test]
fn ages() {
    let age = |response: &Fields<'_>, delay_ms: u64| {
        let response = [response, &[("cache-control", "max-age=9999999")]].concat();
        let x = Exchange { request_mono_ms: 50_000 - delay_ms, ..exchange(&[], 200, &response) };
        match storable(&x) {
            Storable::Store { freshness, .. } => freshness.initial_age_s,
            Storable::Pass(reason) => panic!("{reason:?}"),
        }
    };
    assert_eq!(age(&[], 0), 0);
    assert_eq!(age(&[("age", "7")], 0), 7);
    assert_eq!(age(&[("age", "7")], 2500), 10, "4.2.3: the response delay counts");
    assert_eq!(age(&[("date", "Fri, 01 Mar 2024 11:59:00 GMT")], 0), 60, "4.2.3: apparent age");
    assert_eq!(age(&[("date", "Fri, 01 Mar 2024 12:59:00 GMT")], 0), 0, "a clock ahead of ours");
    assert_eq!(age(&[("age", "90"), ("date", "Fri, 01 Mar 2024 11:59:00 GMT")], 0), 90, "the larger of both");
    assert_eq!(age(&[("age", "7, 9"), ("age", "11")], 0), 7, "5.1: the first member");
    assert_eq!(age(&[("age", "x")], 0), 0, "5.1: no number is ignored");
    let f = verdict(&[], 200, &[("age", "7"), ("cache-control", "max-age=60")]).unwrap();
    let later = Now { mono_ms: 50_000 + 3999, unix_s: 0 };
    assert_eq!((f.age_s(later), f.is_fresh(later)), (10, true), "the wall clock may jump");
}

#[test]
fn what_may_be_reused() {
    use Reuse::*;
    let no = Revalidate { stale_if_error: false };
    let on_error = Revalidate { stale_if_error: true };
    // Response directives, request directives, seconds since it came in.
    let cases: &[(&str, &str, &str, u64, Reuse)] = &[
        ("4.2: fresh", "max-age=60", "", 59, Fresh),
        ("4.2: stale", "max-age=60", "", 60, no),
        ("5.2.1.4: no-cache", "max-age=60", "no-cache", 1, no),
        ("5.2.1.1: max-age", "max-age=60", "max-age=10", 11, no),
        ("5.2.1.1: max-age", "max-age=60", "max-age=10", 10, Fresh),
        ("5.2.1.3: min-fresh", "max-age=60", "min-fresh=20", 40, Fresh),
        ("5.2.1.3: min-fresh", "max-age=60", "min-fresh=20", 41, no),
        ("5.2.1.2: max-stale", "max-age=60", "max-stale=5", 65, StaleAllowed),
        ("5.2.1.2: max-stale", "max-age=60", "max-stale=5", 66, no),
        ("5.2.1.2: any staleness", "max-age=60", "max-stale", 9999, StaleAllowed),
        ("5.2.2.2: must-revalidate", "max-age=60, must-revalidate", "max-stale", 61, no),
        ("5.2.2.8: proxy-revalidate", "max-age=60, proxy-revalidate", "max-stale", 61, no),
        ("5.2.2.10: s-maxage", "s-maxage=60", "max-stale", 61, no),
        ("5.2.2.4: no-cache", "no-cache, max-age=60", "", 1, no),
        ("5861 3: window", "max-age=60, stale-while-revalidate=10", "", 70, StaleWhileRevalidate),
        ("5861 3: over", "max-age=60, stale-while-revalidate=10", "", 71, no),
        ("5861 3: not against the request", "max-age=60, stale-while-revalidate=10", "max-age=1", 65, no),
        ("5861 4: window", "max-age=60, stale-if-error=10", "", 70, on_error),
        ("5861 4: over", "max-age=60, stale-if-error=10", "", 71, no),
        ("4.2.4: must-revalidate", "max-age=60, must-revalidate, stale-if-error=10", "", 61, no),
    ];
    for (section, response, request, after_s, want) in cases {
        let response = [("cache-control", *response), ("etag", "\"a\"")];
        let stored = verdict(&[], 200, &response).unwrap();
        let request = if request.is_empty() {
            RequestControl::default()
        } else {
            RequestControl::parse(&cc(request)[..])
        };
        let now = Now { mono_ms: 50_000 + after_s * 1000, unix_s: UNIX_S + after_s };
        assert_eq!(reuse(&stored, &request, now), *want, "{section} after {after_s} s");
    }
}

#[test]
fn a_304_updates_what_it_names_and_keeps_the_rest() {
    let stored: &Fields<'_> = &[("cache-control", "max-age=60"), ("etag", "\"a\""), ("vary", "accept")];
    let newer: &Fields<'_> = &[("cache-control", "max-age=5, must-revalidate")];
    let merged = Overlay { over: newer, under: stored };
    let control = ResponseControl::parse(&merged);
    assert_eq!((control.max_age_s, control.must_revalidate), (Some(5), true));
    assert!(matches!(super::Vary::parse(&merged), super::Vary::Fields(_)));
}

fn response_fields() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let number = 0u32..200;
    let directive = prop_oneof![
        4 => number.clone().prop_map(|n| format!("max-age={n}")),
        2 => number.clone().prop_map(|n| format!("s-maxage={n}")),
        1 => Just("public".to_owned()),
        1 => Just("private".to_owned()),
        1 => Just("no-store".to_owned()),
        1 => Just("no-cache".to_owned()),
        1 => Just("must-revalidate".to_owned()),
        1 => Just("no-transform".to_owned()),
    ];
    // The oracle and we differ on repeated directives: each at most once.
    let directives = prop::collection::vec(directive, 0..4).prop_map(|mut list: Vec<String>| {
        list.sort_by_key(|d| d.split('=').next().map(str::to_owned));
        list.dedup_by_key(|d| d.split('=').next().map(str::to_owned));
        list.join(", ")
    });
    (directives, prop::option::of(number.clone()), prop::option::of(number), any::<bool>()).prop_map(
        |(directives, age, expires, etag)| {
            let mut fields = vec![("date", DATE.to_owned())];
            if !directives.is_empty() {
                fields.push(("cache-control", directives));
            }
            if let Some(age) = age {
                fields.push(("age", age.to_string()));
            }
            if let Some(expires) = expires {
                let at = SystemTime::UNIX_EPOCH + Duration::from_secs(UNIX_S + u64::from(expires));
                fields.push(("expires", httpdate::fmt_http_date(at)));
            }
            if etag {
                fields.push(("etag", "\"a\"".to_owned()));
            }
            fields
        },
    )
}

fn request_fields() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let directive = prop_oneof![
        6 => Just(String::new()),
        1 => (0u32..200).prop_map(|n| format!("max-age={n}")),
        1 => (0u32..200).prop_map(|n| format!("min-fresh={n}")),
        1 => (0u32..200).prop_map(|n| format!("max-stale={n}")),
        1 => Just("no-cache".to_owned()),
    ];
    (directive, prop::bool::weighted(0.2)).prop_map(|(directive, auth)| {
        let mut fields = Vec::new();
        if !directive.is_empty() {
            fields.push(("cache-control", directive));
        }
        if auth {
            fields.push(("authorization", "Basic x".to_owned()));
        }
        fields
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn agrees_with_the_oracle(
        request in request_fields(),
        status in prop::sample::select(vec![200u16, 203, 204, 300, 301, 302, 307, 308, 404, 405, 410, 414, 501]),
        response in response_fields(),
        after_s in 0u64..400,
    ) {
        let mut oracle_request = http::Request::get("http://a.example/");
        for (name, value) in &request {
            oracle_request = oracle_request.header(*name, value);
        }
        let oracle_request = oracle_request.body(()).unwrap();
        let mut oracle_response = http::Response::builder().status(status);
        for (name, value) in &response {
            oracle_response = oracle_response.header(*name, value);
        }
        let oracle_response = oracle_response.body(()).unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(UNIX_S);
        let options = CacheOptions { shared: true, cache_heuristic: 0.0, ..Default::default() };
        let oracle = CachePolicy::new_options(&oracle_request, &oracle_response, then, options);

        let request: Vec<(&str, &str)> = request.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let response: Vec<(&str, &str)> = response.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let ours = verdict(&request, status, &response);
        let stated = ["max-age", "expires", "s-maxage"];
        let lists = |what: &str| response.iter().any(|(n, v)| *n == what || v.contains(what));
        // Nothing is kept that the oracle would not keep; what it would keep and use is kept. A bare `public`
        // without a lifetime it counts as storable whatever the status, and so do we.
        match &ours {
            Ok(_) => prop_assert!(oracle.is_storable(), "{request:?} {response:?}"),
            Err(_) => prop_assert!(!oracle.is_storable() || oracle.is_stale(then), "{ours:?} {response:?}"),
        }
        let Ok(ours) = ours else { return Ok(()) };
        let half = Duration::from_millis(500);
        let later = then + Duration::from_secs(after_s) + half;
        let now = Now { mono_ms: 50_000 + after_s * 1000 + 500, unix_s: UNIX_S + after_s };
        if stated.iter().any(|s| lists(s)) {
            prop_assert_eq!(ours.is_fresh(now), !oracle.is_stale(later), "{:?}", response);
        }
        let control = RequestControl::parse(&request[..]);
        let max_stale_on_shared = control.max_stale_s.is_some() && (lists("s-maxage") || lists("no-cache"));
        if !max_stale_on_shared {
            let serves = matches!(reuse(&ours, &control, now), Reuse::Fresh | Reuse::StaleAllowed);
            let oracle_serves = matches!(oracle.before_request(&oracle_request, later), BeforeRequest::Fresh(_));
            prop_assert_eq!(serves, oracle_serves, "{:?} {:?} after {}", request, response, after_s);
        }
    }
}
