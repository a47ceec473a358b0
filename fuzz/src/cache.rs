//! Cache-Control, Vary, Expires and Date of responses, across the store.

use sluice_core::cache::{FreshnessInput, Now, RequestControl, ResponseControl, Vary, freshness};
use sluice_core::http1::{
    Fields, HttpDate, Limits, Method, Parse, ProxyName, ResponseHead, parse_response, write_stored_head,
};

const NOW: Now = Now { mono_ms: 9_000, unix_s: 784_111_777 };

/// What a cache reads of a response is the same of its stored form; a refusal to store or to reuse is never
/// lost by what stands beside it; ages and lifetimes stay in their bounds and age only grows.
pub fn cache_fields(data: &[u8]) {
    let mut head = ResponseHead::new();
    let Ok(Parse::Complete { .. }) = parse_response(data, &Limits::DEFAULT, Method::Get, &mut head) else {
        return;
    };
    if head.is_interim() {
        return;
    }
    let fields = head.fields(data);
    let before = read(fields);

    let mut stored = Vec::new();
    write_stored_head(data, &head, &ProxyName::new("n1"), &HttpDate::new(NOW.unix_s), 0, &mut stored);
    stored.extend_from_slice(b"\r\n");
    let wide = Limits { head_bytes: 65_535, fields: 255, ..Limits::DEFAULT };
    let mut again = ResponseHead::new();
    assert_eq!(
        parse_response(&stored, &wide, Method::Get, &mut again),
        Ok(Parse::Complete { head_len: stored.len() })
    );
    assert_eq!(read(again.fields(&stored)), before, "stored");

    let line_end = data.windows(2).position(|w| w == b"\r\n").expect("an accepted head has lines") + 2;
    let guarded =
        [&data[..line_end], b"Cache-Control: private, no-store ,no-cache\r\n", &data[line_end..]].concat();
    if let Ok(Parse::Complete { .. }) = parse_response(&guarded, &wide, Method::Get, &mut again) {
        let control = ResponseControl::parse(&again.fields(&guarded));
        assert!(control.no_store && control.no_cache && control.private);
    }
}

/// Control, Vary and lifetime.
fn read(fields: Fields<'_>) -> (ResponseControl, Vary, u64) {
    let control = ResponseControl::parse(&fields);
    let _ = RequestControl::parse(&fields);
    let input = FreshnessInput { request_mono_ms: 8_000, response: NOW, default_ttl_ms: 5 };
    let fresh = freshness(&control, &fields, &input);
    assert!(fresh.lifetime_ms <= (1 << 31) * 1000 && u64::from(fresh.initial_age_s) <= 1 << 31);
    let later = Now { mono_ms: NOW.mono_ms + 60_000, ..NOW };
    assert!(fresh.age_ms(later) >= fresh.age_ms(NOW));
    assert!(!fresh.is_fresh(later) || fresh.is_fresh(NOW), "nothing becomes fresh by waiting");
    (control, Vary::parse(&fields), fresh.lifetime_ms)
}
