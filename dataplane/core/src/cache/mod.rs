//! Cache keys, RFC 9111 freshness and storage decisions.
//!
//! Pure: header fields, clocks and site policy in, a decision out. Owns no stored response; the store keeps the
//! records made here ([`Freshness`], [`VarySpec`]) beside its objects and asks [`reuse`] at each lookup.
//!
//! ```text
//! request  -> RequestControl, CacheKey ---------------+
//!                                                     v
//! response -> storable() -> Pass(why)      stored: reuse() -> Fresh | StaleAllowed | StaleWhileRevalidate
//!                        -> Store { Freshness, Vary }         | Revalidate
//! ```
//!
//! What must stay true: a decision never depends on anything but its arguments; where RFC 9111 leaves room the
//! safer side is taken and said so at the function; keys are the same on every machine (golden vectors).

mod control;
mod fields;
mod fresh;
mod invalidate;
mod key;
mod reuse;
mod storable;
mod validate;
mod vary;

pub use control::{RequestControl, ResponseControl};
pub use fields::{FieldSource, Overlay};
pub use fresh::{Freshness, FreshnessInput, Now, freshness};
pub use invalidate::{invalidates, invalidation_targets};
pub use key::{CacheKey, KeySeed, MethodClass, Scheme, request_key};
pub use reuse::{Reuse, reuse};
pub use storable::{Exchange, PassReason, SitePolicy, Storable, storable};
pub use validate::{NotModified, not_modified_matches};
pub use vary::{Vary, VarySpec};

#[cfg(test)]
mod tests;
