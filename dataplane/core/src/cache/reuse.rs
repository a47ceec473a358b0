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
    let fresh = stored.lifetime_ms > age_ms && stored.lifetime_ms - age_ms >= wants_ms;
    // A request that accepts staleness accepts it beyond its own max-age too (section 5.2.1.2), not beyond its
    // min-fresh, which contradicts it.
    let stale_ok = !stored.never_stale
        && request.min_fresh_s.is_none()
        && request.max_stale_s.is_some_and(|max| {
            let limit_ms = request
                .max_age_s
                .map_or(stored.lifetime_ms, |s| (u64::from(s) * 1000).min(stored.lifetime_ms));
            max == u32::MAX || age_ms.saturating_sub(limit_ms) <= u64::from(max) * 1000
        });
    if fresh && !too_old {
        return Reuse::Fresh;
    }
    if stale_ok {
        return Reuse::StaleAllowed;
    }
    let background =
        !too_old && wants_ms == 0 && !stored.never_stale && within(stored.stale_while_revalidate_s);
    if background { Reuse::StaleWhileRevalidate } else { revalidate }
}
