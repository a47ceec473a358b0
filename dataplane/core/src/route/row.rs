//! A checked row: host, routes, and the state that outlives a replacement.

use super::matched::{OriginId, RowCounters, RowError};
use sluice_api::check::{limits, value};
use sluice_api::placement;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Bytes of a host kept in the row itself; longer ones are boxed. 38 make the row 80 bytes.
const INLINE: usize = 38;
/// What an allocator adds to an allocation.
pub(super) const MALLOC_BYTES: usize = 8;

enum Name {
    Inline(u8, [u8; INLINE]),
    Boxed(Box<[u8]>),
}

/// Where a prefix leads.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) default_ttl_ms: u64,
    pub(super) origin: OriginId,
    pub(super) cache: bool,
}

struct PrefixRoute {
    prefix: Box<[u8]>,
    target: Target,
    /// Its place in the row as written.
    index: u32,
}

enum Routes {
    /// All paths.
    One(Target),
    /// Boxed twice, for rows with more than one route are few.
    Many(Box<PrefixList>),
}

/// Longest prefix first.
struct PrefixList(Box<[PrefixRoute]>);

/// What stays when a row is replaced by a newer version of itself.
pub(super) struct RowState {
    pub(super) serial: u64,
    pub(super) generation: AtomicU64,
    pub(super) counters: OnceLock<Arc<RowCounters>>,
}

/// A host and its routes.
pub(super) struct Row {
    name: Name,
    routes: Routes,
    pub(super) state: Arc<RowState>,
}

impl Row {
    pub(super) fn new(checked: CheckedSite, state: Arc<RowState>) -> Self {
        let bytes = checked.host.as_bytes();
        let name = if bytes.len() <= INLINE {
            let mut inline = [0; INLINE];
            inline[..bytes.len()].copy_from_slice(bytes);
            Name::Inline(bytes.len() as u8, inline)
        } else {
            Name::Boxed(bytes.into())
        };
        Self { name, routes: checked.routes, state }
    }

    /// Host as written: `a.example`, `*.example`, `*`.
    #[inline]
    pub(super) fn name(&self) -> &[u8] {
        match &self.name {
            Name::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Name::Boxed(bytes) => bytes,
        }
    }

    /// The route of a path and its index.
    #[inline]
    pub(super) fn route(&self, path: &[u8]) -> Option<(u32, Target)> {
        match &self.routes {
            Routes::One(target) => Some((0, *target)),
            Routes::Many(list) => {
                list.0.iter().find(|r| path.starts_with(&r.prefix)).map(|r| (r.index, r.target))
            }
        }
    }

    /// The prefix of a route as written.
    pub(super) fn prefix(&self, index: u32) -> &[u8] {
        match &self.routes {
            Routes::One(_) => b"/",
            Routes::Many(list) => list.0.iter().find(|r| r.index == index).map_or(b"", |r| &r.prefix),
        }
    }

    /// Origins its routes name, repeats included.
    pub(super) fn origins(&self) -> impl Iterator<Item = OriginId> {
        let (one, many): (_, &[PrefixRoute]) = match &self.routes {
            Routes::One(target) => (Some(target.origin), &[]),
            Routes::Many(list) => (None, &list.0),
        };
        one.into_iter().chain(many.iter().map(|r| r.target.origin))
    }

    /// Routes beyond the first.
    pub(super) fn extra_routes(&self) -> u64 {
        match &self.routes {
            Routes::One(_) => 0,
            Routes::Many(list) => list.0.len().saturating_sub(1) as u64,
        }
    }

    /// Memory it holds, its state included, counters not.
    pub(super) fn bytes(&self) -> usize {
        const ARC: usize = 2 * size_of::<usize>();
        let name = if let Name::Boxed(bytes) = &self.name { bytes.len() + MALLOC_BYTES } else { 0 };
        let routes = match &self.routes {
            Routes::One(_) => 0,
            Routes::Many(list) => {
                let each: usize =
                    list.0.iter().map(|r| r.prefix.len() + MALLOC_BYTES + size_of::<PrefixRoute>()).sum();
                each + size_of::<PrefixList>() + 2 * MALLOC_BYTES
            }
        };
        size_of::<Self>() + size_of::<RowState>() + 2 * (ARC + MALLOC_BYTES) + name + routes
    }
}

impl RowState {
    pub(super) fn new(serial: u64) -> Arc<Self> {
        // A purge generation is never used twice in a table, so a host that comes back finds nothing old.
        Arc::new(Self { serial, generation: AtomicU64::new(serial), counters: OnceLock::new() })
    }

    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }
}

/// A site row that passed its checks.
pub(super) struct CheckedSite {
    pub(super) host: String,
    routes: Routes,
}

fn at(field: impl Into<String>) -> impl FnOnce(String) -> RowError {
    let field = field.into();
    move |message| RowError { field, message }
}

/// Checks a site row; `resolve` knows the origins.
pub(super) fn check_site(
    row: &placement::Site,
    resolve: impl Fn(&str) -> Option<OriginId>,
) -> Result<CheckedSite, RowError> {
    let origin = |name: &str, field: String| {
        resolve(name).ok_or_else(|| RowError { field, message: format!("there is no origin {name:?}") })
    };
    value::site_host(&row.host).map_err(at("host"))?;
    let own = origin(&row.origin, "origin".into())?;
    if row.routes.is_empty() {
        let target = Target { default_ttl_ms: 0, origin: own, cache: true };
        return Ok(CheckedSite { host: row.host.clone(), routes: Routes::One(target) });
    }
    if row.routes.len() > limits::SITE_ROUTES_MAX {
        return Err(at("routes")(format!("more than {} routes", limits::SITE_ROUTES_MAX)));
    }
    let mut list: Vec<PrefixRoute> = Vec::with_capacity(row.routes.len());
    for (index, route) in row.routes.iter().enumerate() {
        let field = |name: &str| format!("routes[{index}].{name}");
        value::path(&route.path).map_err(at(field("path")))?;
        if list.iter().any(|r| *r.prefix == *route.path.as_bytes()) {
            return Err(at(field("path"))(format!("{:?} is there twice", route.path)));
        }
        if route.default_ttl_ms > limits::DEFAULT_TTL_MS_MAX {
            return Err(at(field("default_ttl_ms"))(format!("above {}", limits::DEFAULT_TTL_MS_MAX)));
        }
        let id = route.origin.as_deref().map_or(Ok(own), |name| origin(name, field("origin")))?;
        let target = Target { default_ttl_ms: route.default_ttl_ms, origin: id, cache: route.cache };
        list.push(PrefixRoute { prefix: route.path.as_bytes().into(), target, index: index as u32 });
    }
    list.sort_by_key(|r| std::cmp::Reverse(r.prefix.len()));
    let routes = match &list[..] {
        [only] if *only.prefix == *b"/" => Routes::One(only.target),
        _ => Routes::Many(Box::new(PrefixList(list.into()))),
    };
    Ok(CheckedSite { host: row.host.clone(), routes })
}

/// Checks an origin row.
pub(super) fn check_origin(row: &placement::Origin) -> Result<super::Origin, RowError> {
    value::name(&row.name).map_err(at("name"))?;
    if row.addresses.is_empty() || row.addresses.len() > limits::ORIGIN_ADDRESSES_MAX {
        return Err(at("addresses")(format!("1 to {} are needed", limits::ORIGIN_ADDRESSES_MAX)));
    }
    let addresses = row.addresses.iter().enumerate();
    let addresses = addresses
        .map(|(i, text)| value::endpoint(text).map_err(at(format!("addresses[{i}]"))))
        .collect::<Result<_, _>>()?;
    if let Some(host) = &row.host {
        value::upstream_host(host).map_err(at("host"))?;
    }
    Ok(super::Origin { name: row.name.as_str().into(), addresses, host: row.host.as_deref().map(Into::into) })
}
