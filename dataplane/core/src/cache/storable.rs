//! May a response be stored by a shared cache (RFC 9111 section 3), and is it worth it.

use super::fresh::states_lifetime;
use super::{FieldSource, Freshness, FreshnessInput, RequestControl, ResponseControl, Vary, freshness};
use crate::http1::{FieldId, Method};

/// What the site says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SitePolicy {
    /// The route stores at all.
    pub cache: bool,
    /// Lifetime of responses that state none and whose status may be stored by default, ms; 0: none.
    pub default_ttl_ms: u64,
}

/// An exchange to judge.
#[derive(Clone, Copy)]
pub struct Exchange<'a, Q: ?Sized, R: ?Sized> {
    /// Method of the request.
    pub method: Method,
    /// The request carried content.
    pub request_has_body: bool,
    /// Fields of the request.
    pub request: &'a Q,
    /// Status of the response.
    pub status: u16,
    /// Fields of the response.
    pub response: &'a R,
    /// Times.
    pub request_mono_ms: u64,
    /// When the response head came in.
    pub received: super::Now,
    /// The route's policy.
    pub site: SitePolicy,
}

/// Why a response is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PassReason {
    /// The route does not store.
    SiteOff,
    /// Not GET, or GET with content.
    Method,
    /// A range was asked for.
    RangeRequest,
    /// 1xx, 206, 304: not a whole response.
    Status,
    /// `no-store` in the request.
    RequestNoStore,
    /// `no-store` in the response.
    NoStore,
    /// `private`.
    Private,
    /// Authorization without leave (section 3.5).
    Authorization,
    /// Set-Cookie without `public` or `s-maxage`.
    SetCookie,
    /// `Vary: *`, or more names than are kept.
    Vary,
    /// No lifetime stated, and no default for it.
    NoLifetime,
    /// Never fresh, and without a validator: it could answer nothing.
    Useless,
}

impl PassReason {
    /// Name in counters and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SiteOff => "site_off",
            Self::Method => "method",
            Self::RangeRequest => "range_request",
            Self::Status => "status",
            Self::RequestNoStore => "request_no_store",
            Self::NoStore => "no_store",
            Self::Private => "private",
            Self::Authorization => "authorization",
            Self::SetCookie => "set_cookie",
            Self::Vary => "vary",
            Self::NoLifetime => "no_lifetime",
            Self::Useless => "useless",
        }
    }

    /// True of the URL, likely of the next response too: worth remembering, so that requests for it do not wait
    /// for one another.
    pub const fn is_of_the_url(self) -> bool {
        !matches!(self, Self::SiteOff | Self::Method | Self::RangeRequest | Self::RequestNoStore)
    }
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storable {
    /// Store it.
    Store {
        /// When it is fresh.
        freshness: Freshness,
        /// What selects it.
        vary: Vary,
    },
    /// Hand it on and forget it.
    Pass(PassReason),
}

/// Status codes with a defined default (RFC 9110 section 15.1), 206 aside.
const HEURISTIC: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

/// Judges a response for a shared cache.
///
/// Stricter than RFC 9111 where that is safer: Set-Cookie keeps a response out unless the origin says `public` or
/// `s-maxage` (section 7.3 leaves it to the cache); a response that could never be reused is not kept.
pub fn storable<Q, R>(x: &Exchange<'_, Q, R>) -> Storable
where
    Q: FieldSource + ?Sized,
    R: FieldSource + ?Sized,
{
    let control = ResponseControl::parse(x.response);
    if let Some(reason) = request_refuses(x).or_else(|| response_refuses(x, &control)) {
        return Storable::Pass(reason);
    }
    let stated = states_lifetime(&control, x.response);
    let by_default = HEURISTIC.contains(&x.status);
    // Section 3, last point: public, a stated lifetime, or a status that may be stored by default.
    if !(stated || control.public || by_default) {
        return Storable::Pass(PassReason::NoLifetime);
    }
    let vary = Vary::parse(x.response);
    if vary == Vary::Any {
        return Storable::Pass(PassReason::Vary);
    }
    let default_ttl_ms = if by_default && !control.no_cache { x.site.default_ttl_ms } else { 0 };
    let input = FreshnessInput { request_mono_ms: x.request_mono_ms, response: x.received, default_ttl_ms };
    let freshness = freshness(&control, x.response, &input);
    let can_answer = freshness.is_shareable()
        || x.response.has(FieldId::Etag)
        || x.response.has(FieldId::LastModified)
        || freshness.stale_while_revalidate_s > 0
        || freshness.stale_if_error_s > 0;
    if !can_answer {
        return Storable::Pass(if stated || control.no_cache {
            PassReason::Useless
        } else {
            PassReason::NoLifetime
        });
    }
    Storable::Store { freshness, vary }
}

fn request_refuses<Q, R>(x: &Exchange<'_, Q, R>) -> Option<PassReason>
where
    Q: FieldSource + ?Sized,
    R: FieldSource + ?Sized,
{
    if !x.site.cache {
        return Some(PassReason::SiteOff);
    }
    if x.method != Method::Get || x.request_has_body {
        return Some(PassReason::Method);
    }
    if x.request.has(FieldId::Range) {
        return Some(PassReason::RangeRequest);
    }
    RequestControl::parse(x.request).no_store.then_some(PassReason::RequestNoStore)
}

fn response_refuses<Q, R>(x: &Exchange<'_, Q, R>, control: &ResponseControl) -> Option<PassReason>
where
    Q: FieldSource + ?Sized,
    R: FieldSource + ?Sized,
{
    if x.status < 200 || matches!(x.status, 206 | 304) {
        return Some(PassReason::Status);
    }
    // Section 5.2.2.3: with must-understand, no-store is for those who do not understand the status. The codes
    // understood here are those of the list.
    let understood = control.must_understand && HEURISTIC.contains(&x.status);
    if control.must_understand && !understood {
        return Some(PassReason::Status);
    }
    if control.no_store && !understood {
        return Some(PassReason::NoStore);
    }
    if control.private {
        return Some(PassReason::Private);
    }
    let shared = control.public || control.s_maxage_s.is_some();
    if x.request.has(FieldId::Authorization) && !(shared || control.must_revalidate) {
        return Some(PassReason::Authorization);
    }
    (x.response.has(FieldId::SetCookie) && !shared).then_some(PassReason::SetCookie)
}
