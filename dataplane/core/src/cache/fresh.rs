//! Freshness lifetime and age (RFC 9111 section 4.2).

use super::control::{DELTA_MAX_S, parse_delta};
use super::{FieldSource, ResponseControl};
use crate::http1::FieldId;

/// The two clocks, read by the caller.
///
/// Time that passes is measured by the monotonic one, so that setting the wall clock neither revives nor kills
/// what is stored; the wall clock is only compared with the dates in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back; any epoch.
    pub mono_ms: u64,
    /// Seconds since 1970.
    pub unix_s: u64,
}

/// When a stored response is fresh, and what may be done once it is not. 32 bytes, kept beside each object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Freshness lifetime, ms.
    pub lifetime_ms: u64,
    /// Monotonic time the response head came in, ms.
    pub received_mono_ms: u64,
    /// Age at that time (section 4.2.3: corrected_initial_age), seconds.
    pub initial_age_s: u32,
    /// May be served that long past its lifetime while it is revalidated, seconds.
    pub stale_while_revalidate_s: u32,
    /// May be served that long past its lifetime when the next hop fails, seconds.
    pub stale_if_error_s: u32,
    /// `no-cache`: validate before each use.
    pub always_validate: bool,
    /// `must-revalidate`, `proxy-revalidate` or `s-maxage`: never serve stale (sections 5.2.2.2, 5.2.2.8,
    /// 5.2.2.10).
    pub never_stale: bool,
}

impl Freshness {
    /// Current age, ms.
    #[inline]
    pub fn age_ms(&self, now: Now) -> u64 {
        u64::from(self.initial_age_s) * 1000 + now.mono_ms.saturating_sub(self.received_mono_ms)
    }

    /// Value of the Age field, seconds.
    pub fn age_s(&self, now: Now) -> u64 {
        (self.age_ms(now) / 1000).min(u64::from(DELTA_MAX_S))
    }

    /// Neither stale nor to be validated first.
    #[inline]
    pub fn is_fresh(&self, now: Now) -> bool {
        !self.always_validate && self.lifetime_ms > self.age_ms(now)
    }

    /// Requests that waited for this response may be answered with it: it can satisfy more than the one
    /// request it was fetched for (section 4).
    pub fn is_shareable(&self) -> bool {
        !self.always_validate && self.lifetime_ms > u64::from(self.initial_age_s) * 1000
    }

    /// How long past its lifetime, ms; 0 while fresh.
    pub fn staleness_ms(&self, now: Now) -> u64 {
        self.age_ms(now).saturating_sub(self.lifetime_ms)
    }
}

/// What [`freshness`] reads besides the fields.
#[derive(Clone, Copy, Debug)]
pub struct FreshnessInput {
    /// Monotonic time the request was sent, ms.
    pub request_mono_ms: u64,
    /// Time the response head came in.
    pub response: Now,
    /// Lifetime of responses that state none, ms.
    pub default_ttl_ms: u64,
}

/// A lifetime was stated by the response itself.
pub(super) fn states_lifetime<F: FieldSource + ?Sized>(control: &ResponseControl, fields: &F) -> bool {
    control.s_maxage_s.is_some() || control.max_age_s.is_some() || fields.has(FieldId::Expires)
}

/// Computes the record of a response.
///
/// Lifetime for a shared cache (section 4.2.1): `s-maxage`, else `max-age`, else Expires minus Date, else the
/// configured default; no heuristic of our own. An Expires that is no date, or is given twice with different
/// values, is in the past (section 5.3).
pub fn freshness<F: FieldSource + ?Sized>(
    control: &ResponseControl,
    fields: &F,
    input: &FreshnessInput,
) -> Freshness {
    let date = http_date(fields, FieldId::Date).flatten();
    let lifetime_ms = if let Some(seconds) = control.s_maxage_s.or(control.max_age_s) {
        u64::from(seconds) * 1000
    } else if let Some(expires) = http_date(fields, FieldId::Expires) {
        let date = date.unwrap_or(input.response.unix_s);
        expires.map_or(0, |expires| expires.saturating_sub(date)).min(u64::from(DELTA_MAX_S)) * 1000
    } else {
        input.default_ttl_ms
    };
    Freshness {
        lifetime_ms,
        received_mono_ms: input.response.mono_ms,
        initial_age_s: initial_age_s(fields, date, input),
        stale_while_revalidate_s: control.stale_while_revalidate_s.unwrap_or(0),
        stale_if_error_s: control.stale_if_error_s.unwrap_or(0),
        always_validate: control.no_cache,
        never_stale: control.must_revalidate || control.proxy_revalidate || control.s_maxage_s.is_some(),
    }
}

/// corrected_initial_age of section 4.2.3.
fn initial_age_s<F: FieldSource + ?Sized>(fields: &F, date: Option<u64>, input: &FreshnessInput) -> u32 {
    let apparent_s = date.map_or(0, |date| input.response.unix_s.saturating_sub(date));
    let delay_s = input.response.mono_ms.saturating_sub(input.request_mono_ms).div_ceil(1000);
    let corrected_s = age_value(fields) + delay_s;
    apparent_s.max(corrected_s).min(u64::from(DELTA_MAX_S)) as u32
}

/// The first member of Age; 0 when absent or no number (section 5.1).
fn age_value<F: FieldSource + ?Sized>(fields: &F) -> u64 {
    let mut value = None;
    fields.each(FieldId::Age, &mut |line| {
        let first = line.split(|b| *b == b',').next().unwrap_or_default().trim_ascii();
        value.get_or_insert(parse_delta(first));
    });
    u64::from(value.flatten().unwrap_or(0))
}

/// `None`: absent; `Some(None)`: there, but no date.
fn http_date<F: FieldSource + ?Sized>(fields: &F, id: FieldId) -> Option<Option<u64>> {
    let mut found: Option<Option<u64>> = None;
    fields.each(id, &mut |value| {
        let date = parse_date(value);
        found = match found {
            None => Some(date),
            Some(first) if first == date => Some(first),
            Some(_) => Some(None),
        };
    });
    found
}

/// An HTTP-date, seconds since 1970.
pub(super) fn parse_date(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let time = httpdate::parse_http_date(text.trim()).ok()?;
    time.duration_since(std::time::UNIX_EPOCH).ok().map(|d| d.as_secs())
}
