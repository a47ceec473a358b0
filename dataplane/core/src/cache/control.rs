//! Cache-Control directives (RFC 9111 section 5.2, RFC 5861, RFC 8246).
//!
//! Lenient in form, strict in effect: tokens and quoted strings are taken alike, unknown directives are ignored, a
//! number that is no number counts as 0 where that means "stale", and the first of several equal directives wins
//! (section 4.2.1).

use super::FieldSource;
use crate::http1::FieldId;

/// Largest delta-seconds; what overflows becomes this (section 1.2.2).
pub(super) const DELTA_MAX_S: u32 = 1 << 31;

/// Directives of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestControl {
    /// `no-cache`, or `Pragma: no-cache` where no Cache-Control is sent (section 5.4).
    pub no_cache: bool,
    /// `no-store`.
    pub no_store: bool,
    /// `only-if-cached`: answer from the store or with 504.
    pub only_if_cached: bool,
    /// `max-age`, seconds.
    pub max_age_s: Option<u32>,
    /// `max-stale`, seconds; without a value any staleness will do: `u32::MAX`.
    pub max_stale_s: Option<u32>,
    /// `min-fresh`, seconds.
    pub min_fresh_s: Option<u32>,
}

impl RequestControl {
    /// Reads the directives of a request.
    pub fn parse<F: FieldSource + ?Sized>(fields: &F) -> Self {
        let mut this = Self::default();
        let mut seen = false;
        fields.each(FieldId::CacheControl, &mut |value| {
            seen = true;
            each_directive(value, |name, arg| this.directive(name, arg));
        });
        if !seen {
            fields.each(FieldId::Pragma, &mut |value| {
                each_directive(value, |name, _| this.no_cache |= name.eq_ignore_ascii_case(b"no-cache"));
            });
        }
        this
    }

    fn directive(&mut self, name: &[u8], arg: Option<&[u8]>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("no-cache") {
            self.no_cache = true;
        } else if is("no-store") {
            self.no_store = true;
        } else if is("only-if-cached") {
            self.only_if_cached = true;
        } else if is("max-age") {
            self.max_age_s.get_or_insert(delta(arg));
        } else if is("max-stale") {
            self.max_stale_s.get_or_insert(if arg.is_none() { u32::MAX } else { delta(arg) });
        } else if is("min-fresh") {
            // A number that is none must not make a stored response look fresh enough.
            self.min_fresh_s.get_or_insert(arg.and_then(parse_delta).unwrap_or(DELTA_MAX_S));
        }
    }
}

/// Directives of a response.
///
/// The field-name forms `no-cache="x"` and `private="x"` count as the plain ones, which section 5.2.2.4 and
/// 5.2.2.7 foresee: more is validated or fetched than must be, never less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseControl {
    /// A Cache-Control field was there.
    pub stated: bool,
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`.
    pub no_cache: bool,
    /// `private`.
    pub private: bool,
    /// `public`.
    pub public: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `must-understand`.
    pub must_understand: bool,
    /// `max-age`, seconds.
    pub max_age_s: Option<u32>,
    /// `s-maxage`, seconds.
    pub s_maxage_s: Option<u32>,
    /// `stale-while-revalidate` (RFC 5861 section 3), seconds.
    pub stale_while_revalidate_s: Option<u32>,
    /// `stale-if-error` (RFC 5861 section 4), seconds.
    pub stale_if_error_s: Option<u32>,
}

impl ResponseControl {
    /// Reads the directives of a response.
    pub fn parse<F: FieldSource + ?Sized>(fields: &F) -> Self {
        let mut this = Self::default();
        fields.each(FieldId::CacheControl, &mut |value| {
            this.stated = true;
            each_directive(value, |name, arg| this.directive(name, arg));
        });
        this
    }

    fn directive(&mut self, name: &[u8], arg: Option<&[u8]>) {
        let flag = match name.len() {
            6 if name.eq_ignore_ascii_case(b"public") => &mut self.public,
            7 if name.eq_ignore_ascii_case(b"private") => &mut self.private,
            8 if name.eq_ignore_ascii_case(b"no-store") => &mut self.no_store,
            8 if name.eq_ignore_ascii_case(b"no-cache") => &mut self.no_cache,
            15 if name.eq_ignore_ascii_case(b"must-revalidate") => &mut self.must_revalidate,
            15 if name.eq_ignore_ascii_case(b"must-understand") => &mut self.must_understand,
            16 if name.eq_ignore_ascii_case(b"proxy-revalidate") => &mut self.proxy_revalidate,
            _ => return self.number(name, arg),
        };
        *flag = true;
    }

    fn number(&mut self, name: &[u8], arg: Option<&[u8]>) {
        let slot = if name.eq_ignore_ascii_case(b"max-age") {
            &mut self.max_age_s
        } else if name.eq_ignore_ascii_case(b"s-maxage") {
            &mut self.s_maxage_s
        } else if name.eq_ignore_ascii_case(b"stale-while-revalidate") {
            &mut self.stale_while_revalidate_s
        } else if name.eq_ignore_ascii_case(b"stale-if-error") {
            &mut self.stale_if_error_s
        } else {
            return;
        };
        slot.get_or_insert(delta(arg));
    }
}

/// Delta-seconds, 0 when malformed.
fn delta(arg: Option<&[u8]>) -> u32 {
    arg.and_then(parse_delta).unwrap_or(0)
}

/// Delta-seconds (section 1.2.2).
pub(super) fn parse_delta(arg: &[u8]) -> Option<u32> {
    if arg.is_empty() || !arg.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let sum = arg.iter().fold(0u32, |sum, d| sum.saturating_mul(10).saturating_add(u32::from(d - b'0')));
    Some(sum.min(DELTA_MAX_S))
}

/// Calls `visit` with name and argument (unquoted, escapes kept) of each directive of a field value. Members
/// that begin with something else than a token are skipped.
pub(super) fn each_directive(value: &[u8], mut visit: impl FnMut(&[u8], Option<&[u8]>)) {
    let mut rest = value;
    while !rest.is_empty() {
        let member_len = member_len(rest);
        let member = rest[..member_len].trim_ascii();
        rest = rest.get(member_len + 1..).unwrap_or_default();
        let name_len = member.iter().position(|b| !is_token_byte(*b)).unwrap_or(member.len());
        if name_len == 0 {
            continue;
        }
        let (name, after) = member.split_at(name_len);
        let arg = match after.trim_ascii_start().split_first() {
            None => None,
            Some((b'=', arg)) => Some(unquote(arg.trim_ascii())),
            Some(_) => continue,
        };
        visit(name, arg);
    }
}

/// Bytes up to the comma that ends the first member; a comma in a quoted string is none. A string that never
/// ends takes the rest: nothing behind it can be trusted to be a directive.
fn member_len(value: &[u8]) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in value.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    value.len()
}

fn unquote(arg: &[u8]) -> &[u8] {
    match arg {
        [b'"', inner @ .., b'"'] => inner,
        _ => arg,
    }
}

const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(value: &str) -> RequestControl {
        RequestControl::parse([("cache-control", value)].as_slice())
    }

    fn response(value: &str) -> ResponseControl {
        ResponseControl::parse([("cache-control", value)].as_slice())
    }

    #[test]
    fn request_directives() {
        let c = request("no-cache, No-Store ,only-if-cached,max-age=5, max-stale , min-fresh=7");
        assert!(c.no_cache && c.no_store && c.only_if_cached);
        assert_eq!((c.max_age_s, c.max_stale_s, c.min_fresh_s), (Some(5), Some(u32::MAX), Some(7)));
        assert_eq!(request("max-stale=60").max_stale_s, Some(60));
        assert_eq!(request("max-stale=x").max_stale_s, Some(0));
        assert_eq!(request("min-fresh=x").min_fresh_s, Some(DELTA_MAX_S));
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        assert!(RequestControl::parse([("pragma", "foo, no-cache")].as_slice()).no_cache);
        let both = [("pragma", "no-cache"), ("cache-control", "max-age=1")];
        assert!(!RequestControl::parse(both.as_slice()).no_cache);
    }

    #[test]
    fn response_directives() {
        let c = response("public, max-age=60, s-maxage=\"120\", stale-while-revalidate=5, stale-if-error=6");
        assert!(c.public && c.stated && !c.private);
        assert_eq!((c.max_age_s, c.s_maxage_s), (Some(60), Some(120)));
        assert_eq!((c.stale_while_revalidate_s, c.stale_if_error_s), (Some(5), Some(6)));
        let c = response("no-cache=\"a, private\", private=\"set-cookie\", must-revalidate, must-understand");
        assert!(c.no_cache && c.private && c.must_revalidate && c.must_understand);
    }

    #[test]
    fn odd_forms() {
        assert_eq!(response("max-age=1, max-age=9").max_age_s, Some(1), "section 4.2.1: the first");
        assert_eq!(response("max-age=99999999999").max_age_s, Some(DELTA_MAX_S), "section 1.2.2");
        assert_eq!(response("max-age=-1").max_age_s, Some(0), "section 4.2.1: invalid is stale");
        assert_eq!(response("max-age=1.5").max_age_s, Some(0));
        assert_eq!(response("max-age").max_age_s, Some(0));
        assert_eq!(response("max-age = 5").max_age_s, Some(5));
        assert!(response(",, ,no-store").no_store);
        assert!(!response("x=\"a, no-store").no_store, "inside a string that never ends");
        assert!(response("x=\"a\\\", b\", no-store").no_store);
        assert!(!response("no-storey, xno-store, no store").no_store);
    }
}
