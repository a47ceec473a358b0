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

/// High bit set in each byte of `x` that is a control byte (below 0x20, or 0x7f). Exact: no sum carries over.
#[inline]
const fn control(x: u64) -> u64 {
    let y = x & !HIGH;
    (!(y + 0x60 * ONES) | (y + ONES)) & !x & HIGH
}

/// High bit set in each byte of `x` equal to `n`. Exact up to and including the lowest such byte.
#[inline]
const fn equal(x: u64, n: u8) -> u64 {
    let y = x ^ (ONES * n as u64);
    y.wrapping_sub(ONES) & !y & HIGH
}

#[inline]
fn word(buf: &[u8], at: usize) -> Option<u64> {
    buf.get(at..)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
}

/// First offset at or after `at` whose byte is not allowed in a field value; `buf.len()` if none.
#[inline]
pub(super) fn skip_value(buf: &[u8], mut at: usize) -> usize {
    while let (Some(a), Some(b)) = (word(buf, at), word(buf, at + 8)) {
        if control(a) | control(b) != 0 {
            break;
        }
        at += 16;
    }
    while let Some(w) = word(buf, at) {
        let mut stop = control(w);
        while stop != 0 {
            let i = at + (stop.trailing_zeros() / 8) as usize;
            if buf[i] != b'\t' {
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
        let stop = control(w) | equal(w, b' ') | equal(w, b'#') | (w & HIGH);
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

/// Words of the longest known name.
const NAME_WORDS: usize = 4;

/// A known name, ready to be compared a word at a time.
#[derive(Clone, Copy)]
struct Known {
    len: u8,
    id: FieldId,
    /// The name, padded with zeros.
    want: [u64; NAME_WORDS],
    /// The bit that folds case, only where the name has a letter: no other byte becomes one by it.
    fold: [u64; NAME_WORDS],
}

static NAMES: [u8; SLOTS] = name_table();
/// By id, and an impossible last one for empty slots.
static KNOWN: [Known; FieldId::KNOWN.len() + 1] = known_names();

/// Length, first, middle and last byte tell the known names apart; `| 0x20` folds ASCII case.
#[inline]
const fn slot(len: usize, first: u8, mid: u8, last: u8) -> usize {
    let (first, mid, last) = ((first | 0x20) as usize, (mid | 0x20) as usize, (last | 0x20) as usize);
    (len * 169 + first * 62 + mid * 133 + last * 168) % SLOTS
}

const fn name_table() -> [u8; SLOTS] {
    let mut t = [FieldId::KNOWN.len() as u8; SLOTS];
    let mut i = 0;
    while i < FieldId::KNOWN.len() {
        let name = FieldId::KNOWN[i].name().as_bytes();
        let s = slot(name.len(), name[0], name[name.len() / 2], name[name.len() - 1]);
        assert!(t[s] as usize == FieldId::KNOWN.len(), "two known field names share a slot");
        t[s] = i as u8;
        i += 1;
    }
    t
}

const fn known_names() -> [Known; FieldId::KNOWN.len() + 1] {
    let none = Known { len: 0, id: FieldId::Other, want: [0; NAME_WORDS], fold: [0; NAME_WORDS] };
    let mut t = [none; FieldId::KNOWN.len() + 1];
    let mut i = 0;
    while i < FieldId::KNOWN.len() {
        let name = FieldId::KNOWN[i].name().as_bytes();
        assert!(name.len() <= NAME_WORDS * 8);
        t[i].len = name.len() as u8;
        t[i].id = FieldId::KNOWN[i];
        let mut k = 0;
        while k < name.len() {
            t[i].want[k / 8] |= (name[k] as u64) << (k % 8 * 8);
            if name[k].is_ascii_alphabetic() {
                t[i].fold[k / 8] |= 0x20 << (k % 8 * 8);
            }
            k += 1;
        }
        i += 1;
    }
    t
}

/// Id of a field name, ASCII case ignored.
pub(super) fn field_id(name: &[u8]) -> FieldId {
    let mut padded = [0u8; NAME_WORDS * 8];
    match padded.get_mut(..name.len()) {
        Some(start) => start.copy_from_slice(name),
        None => return FieldId::Other,
    }
    field_id_at(&padded, 0, name.len())
}

/// Id of the name `buf[at..at + len]`. Needs the bytes of whole words behind it: within a word of the end of
/// `buf` nothing is recognised.
#[inline]
fn field_id_at(buf: &[u8], at: usize, len: usize) -> FieldId {
    if len == 0 || at + len > buf.len() {
        return FieldId::Other;
    }
    let s = slot(len, buf[at], buf[at + len / 2], buf[at + len - 1]);
    let known = &KNOWN[usize::from(NAMES[s])];
    if usize::from(known.len) != len {
        return FieldId::Other;
    }
    let mut k = 0;
    while k * 8 < len {
        let Some(w) = word(buf, at + k * 8) else { return FieldId::Other };
        let here = len - k * 8;
        let mask = if here >= 8 { u64::MAX } else { (1 << (here * 8)) - 1 };
        if (w | known.fold[k]) & mask != known.want[k] {
            return FieldId::Other;
        }
        k += 1;
    }
    known.id
}

/// A field name at `at` that ends in a colon within reach: its id and its end. Known names need no check of
/// their bytes; others are checked. `None`: look byte by byte.
#[inline]
pub(super) fn name_at(buf: &[u8], at: usize) -> Option<(FieldId, usize)> {
    let mut end = at;
    loop {
        let colon = equal(word(buf, end)?, b':');
        if colon != 0 {
            end += (colon.trailing_zeros() / 8) as usize;
            break;
        }
        end += 8;
        if end - at > NAME_WORDS * 8 {
            return None;
        }
    }
    let id = field_id_at(buf, at, end - at);
    if id == FieldId::Other && !is_token_str(&buf[at..end]) {
        return None;
    }
    // A known name too near the end of the buffer was not recognised; the slow way will.
    if id == FieldId::Other && end + 8 > buf.len() {
        return None;
    }
    Some((id, end))
}
