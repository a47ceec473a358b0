//! May a stored response answer this request (RFC 9111 section 4, RFC 5861).

use super::{Freshness, Now, RequestControl};

/// What may be done with a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Serve it.
    Fresh,
    /// Stale, but the request accepts that (`max-stale`): serve it.
    StaleAllowed,
    /// Stale: serve it, and revalidate behind the client's back (RFC 5861 section 3).
    StaleWhileRevalidate,
    /// Validate first.
    Revalidate {
        /// If that fails with an error or a 500, 502, 503 or 504, the stored response may be served
        /// (RFC 5861 section 4).
        stale_if_error: bool,
    },
}

/// Decides; `only-if-cached` is for the caller, who answers 504 to anything but the first two (section 5.2.1.7).
#[inline]
pub fn reuse(stored: &Freshness, request: &RequestControl, now: Now) -> Reuse {
    if *request == RequestControl::default() && stored.is_fresh(now) {
        return Reuse::Fresh;
    }
    decide(stored, request, now)
}

fn decide(stored: &Freshness, request: &RequestControl, now: Now) -> Reuse {
    let staleness_ms = stored.staleness_ms(now);
    let within = |window_s: u32| window_s > 0 && staleness_ms <= u64::from(window_s) * 1000;
    let revalidate =
        Reuse::Revalidate { stale_if_error: !stored.never_stale && within(stored.stale_if_error_s) };
    if request.no_cache || stored.always_validate {
        return revalidate;
    }
    let age_ms = stored.age_ms(now);
    let too_old = request.max_age_s.is_some_and(|max| age_ms > u64::from(max) * 1000);
    let wants_ms = u64::from(request.min_fresh_s.unwrap_or(0)) * 1000;
    if too_old {
        // Section 5.2.1.1: not even with max-stale, which speaks of the lifetime the response states.
        return revalidate;
    }
    if stored.lifetime_ms > age_ms && stored.lifetime_ms - age_ms >= wants_ms {
        return Reuse::Fresh;
    }
    if wants_ms > 0 || stored.never_stale {
        return revalidate;
    }
    if request.max_stale_s.is_some_and(|max| max == u32::MAX || staleness_ms <= u64::from(max) * 1000) {
        return Reuse::StaleAllowed;
    }
    if within(stored.stale_while_revalidate_s) { Reuse::StaleWhileRevalidate } else { revalidate }
}
