//! Byte classes and word-at-a-time scanning.

use super::field::FieldId;

/// RFC 9110 section 5.6.2 `tchar`.
const TOKEN: u8 = 1;
/// Allowed in a request target: printable ASCII without `#` (a fragment is never sent).
const TARGET: u8 = 2;
/// Allowed in a field value: HTAB, SP, printable ASCII, obs-text (RFC 9110 section 5.5).
const VALUE: u8 = 4;
/// Allowed in a registered name of an authority: what DNS names use, and `_`, `~`.
const HOST: u8 = 8;

static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut t = [0u8; 256];
    let mut i = 0usize;
    while i < 256 {
        let b = i as u8;
        let alnum = b.is_ascii_alphanumeric();
        let mark = matches!(
            b,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        );
        if alnum || mark {
            t[i] |= TOKEN;
        }
        if b > 0x20 && b < 0x7f && b != b'#' {
            t[i] |= TARGET;
        }
        if b == b'\t' || (b >= 0x20 && b != 0x7f) {
            t[i] |= VALUE;
        }
        if alnum || matches!(b, b'-' | b'.' | b'_' | b'~') {
            t[i] |= HOST;
        }
        i += 1;
    }
    t
}

#[inline]
pub(super) fn is_token(b: u8) -> bool {
    CLASS[usize::from(b)] & TOKEN != 0
}

#[inline]
pub(super) fn is_value(b: u8) -> bool {
    CLASS[usize::from(b)] & VALUE != 0
}

#[inline]
pub(super) fn is_host(b: u8) -> bool {
    CLASS[usize::from(b)] & HOST != 0
}

/// A non-empty token.
pub(super) fn is_token_str(s: &[u8]) -> bool {
    !s.is_empty() && s.iter().all(|&b| is_token(b))
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// High bit set in each byte of `x` that is below `n` (n ≤ 128). Exact up to and including the lowest such byte.
#[inline]
const fn below(x: u64, n: u8) -> u64 {
    x.wrapping_sub(ONES * n as u64) & !x & HIGH
}

/// High bit set in each byte of `x` equal to `n`. Exact up to and including the lowest such byte.
#[inline]
const fn equal(x: u64, n: u8) -> u64 {
    let y = x ^ (ONES * n as u64);
    y.wrapping_sub(ONES) & !y & HIGH
}

#[inline]
fn word(buf: &[u8], at: usize) -> Option<u64> {
    let bytes = buf.get(at..at + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// First offset at or after `at` whose byte is not allowed in a field value; `buf.len()` if none.
#[inline]
pub(super) fn skip_value(buf: &[u8], mut at: usize) -> usize {
    while let Some(w) = word(buf, at) {
        let mut stop = below(w, 0x20) | equal(w, 0x7f);
        while stop != 0 {
            let i = at + (stop.trailing_zeros() / 8) as usize;
            if !is_value(buf[i]) {
                return i;
            }
            stop &= stop - 1;
        }
        at += 8;
    }
    while at < buf.len() && is_value(buf[at]) {
        at += 1;
    }
    at
}

/// First offset at or after `at` whose byte is not allowed in a request target; `buf.len()` if none.
#[inline]
pub(super) fn skip_target(buf: &[u8], mut at: usize) -> usize {
    while let Some(w) = word(buf, at) {
        let stop = below(w, 0x21) | equal(w, 0x7f) | equal(w, b'#') | (w & HIGH);
        if stop != 0 {
            return at + (stop.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while at < buf.len() && CLASS[usize::from(buf[at])] & TARGET != 0 {
        at += 1;
    }
    at
}

/// First offset at or after `at` whose byte is not a token byte; `buf.len()` if none.
#[inline]
pub(super) fn skip_token(buf: &[u8], mut at: usize) -> usize {
    while at < buf.len() && is_token(buf[at]) {
        at += 1;
    }
    at
}

/// `s` without SP and HTAB at both ends.
#[inline]
pub(super) fn trim(s: &[u8]) -> &[u8] {
    let mut s = s;
    while let [b' ' | b'\t', rest @ ..] = s {
        s = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = s {
        s = rest;
    }
    s
}

/// Members of one comma-separated value, trimmed, empty ones left out. Quoted strings are kept whole.
pub(super) fn list_members(value: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        loop {
            let s = rest?;
            let (member, tail) = match list_comma(s) {
                Some(i) => (&s[..i], Some(&s[i + 1..])),
                None => (s, None),
            };
            rest = tail;
            let member = trim(member);
            if !member.is_empty() {
                return Some(member);
            }
        }
    })
}

fn list_comma(s: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut i = 0;
    while i < s.len() {
        match s[i] {
            b'\\' if quoted => i += 1,
            b'"' => quoted = !quoted,
            b',' if !quoted => return Some(i),
            _ => {}
        }
        i += 1;
    }
    None
}

/// Slots of the name table; a power of two, found together with the multipliers in `slot` so that no two known
/// names share one (checked when compiled).
const SLOTS: usize = 256;

static NAMES: [u8; SLOTS] = name_table();

/// Length, first, middle and last byte tell the known names apart; `| 0x20` folds ASCII case.
#[inline]
const fn slot(name: &[u8]) -> usize {
    let n = name.len();
    let first = (name[0] | 0x20) as usize;
    let mid = (name[n / 2] | 0x20) as usize;
    let last = (name[n - 1] | 0x20) as usize;
    (n * 169 + first * 62 + mid * 133 + last * 168) % SLOTS
}

const fn name_table() -> [u8; SLOTS] {
    let mut t = [FieldId::Other as u8; SLOTS];
    let mut i = 0;
    while i < FieldId::KNOWN.len() {
        let s = slot(FieldId::KNOWN[i].name().as_bytes());
        assert!(t[s] == FieldId::Other as u8, "two known field names share a slot");
        t[s] = i as u8;
        i += 1;
    }
    t
}

/// Id of a field name, ASCII case ignored.
#[inline]
pub(super) fn field_id(name: &[u8]) -> FieldId {
    if name.is_empty() {
        return FieldId::Other;
    }
    match FieldId::KNOWN.get(usize::from(NAMES[slot(name)])) {
        Some(&id) if id.name().as_bytes().eq_ignore_ascii_case(name) => id,
        _ => FieldId::Other,
    }
}
