//! Changes of the table. All under the writer's lock; readers go on beside it.

use super::index::Index;
use super::matched::{Origin, OriginId, RowError, TableStats};
use super::row::{CheckedSite, MALLOC_BYTES, Row, RowState, check_origin, check_site};
use super::{DEPTH_MAX, NO_ROW, RouteTable};
use sluice_api::placement;
use sluice_api::proxy_admin::Apply;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

/// What only the writer knows.
#[derive(Default)]
pub(super) struct Writer {
    rows: u32,
    spare_rows: Vec<u32>,
    /// Words of the index in use, tombstones included.
    cells_used: usize,
    live: usize,
    serial: u64,
    row_bytes: u64,
    extra_routes: u64,
    origin_bytes: u64,
    origin_ids: HashMap<Box<str>, OriginId>,
    /// Routes that name each origin.
    origin_uses: Vec<u32>,
    spare_origins: Vec<u32>,
    /// Wildcards by labels of their suffix.
    wildcards: BTreeMap<usize, u32>,
}

impl Writer {
    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

fn error(field: impl Into<String>, message: impl Into<String>) -> RowError {
    RowError { field: field.into(), message: message.into() }
}

fn within(prefix: String) -> impl FnOnce(RowError) -> RowError {
    move |e| RowError { field: format!("{prefix}.{}", e.field), message: e.message }
}

/// The part of a host that is hashed.
fn key_of(host: &str) -> &[u8] {
    host.strip_prefix('*').unwrap_or(host).as_bytes()
}

/// Labels of a wildcard's suffix.
fn depth_of(host: &str) -> Option<usize> {
    host.strip_prefix("*.").map(|suffix| (suffix.split('.').count()).min(DEPTH_MAX))
}

fn origin_bytes(origin: &Origin) -> u64 {
    let addresses = size_of_val(&*origin.addresses);
    let texts = origin.name.len() * 2 + origin.host.as_ref().map_or(0, |h| h.len());
    // The origin, its three boxes, and its entry in the writer's map.
    (size_of::<Origin>() + 16 + addresses + texts + 5 * MALLOC_BYTES + 40) as u64
}

impl RouteTable {
    /// Adds or replaces one origin. A bad row changes nothing.
    pub fn upsert_origin(&self, row: &placement::Origin) -> Result<(), RowError> {
        let origin = check_origin(row)?;
        self.put_origin(&mut self.lock(), origin);
        Ok(())
    }

    /// Removes an origin that no site names; `false` if there is none.
    pub fn remove_origin(&self, name: &str) -> Result<bool, RowError> {
        let mut writer = self.lock();
        let Some(&id) = writer.origin_ids.get(name) else { return Ok(false) };
        if writer.origin_uses[id.0 as usize] > 0 {
            return Err(error("name", format!("origin {name:?} is named by a site")));
        }
        self.drop_origin(&mut writer, name);
        Ok(true)
    }

    /// Adds or replaces one site. A bad row changes nothing.
    pub fn upsert_site(&self, row: &placement::Site) -> Result<(), RowError> {
        let mut writer = self.lock();
        let checked = check_site(row, |name| writer.origin_ids.get(name).copied())?;
        self.put_site(&mut writer, checked);
        Ok(())
    }

    /// Removes a site; `false` if there is none. What was stored for it is forgotten.
    pub fn remove_site(&self, host: &str) -> bool {
        self.drop_site(&mut self.lock(), host)
    }

    /// Checks a change as a whole against the table and, if all is good, carries it out: origins, sites,
    /// `sites_removed`, `origins_removed`; with `full`, rows not named are removed too. Errors name fields as the
    /// admin protocol does (`sites[3].routes[0].path`). Readers see the rows change one after the other.
    pub fn apply(&self, change: &Apply) -> Result<(), RowError> {
        let mut writer = self.lock();
        let origins = check_change(&writer, self, change)?;
        for origin in origins {
            self.put_origin(&mut writer, origin);
        }
        for (i, site) in change.sites.iter().enumerate() {
            let checked = check_site(site, |name| writer.origin_ids.get(name).copied());
            self.put_site(&mut writer, checked.map_err(within(format!("sites[{i}]")))?);
        }
        for host in &change.sites_removed {
            self.drop_site(&mut writer, host);
        }
        if change.full {
            let keep: HashSet<&str> = change.sites.iter().map(|s| s.host.as_str()).collect();
            for host in self.hosts(&writer).into_iter().filter(|h| !keep.contains(h.as_str())) {
                self.drop_site(&mut writer, &host);
            }
            let keep: HashSet<&str> = change.origins.iter().map(|o| o.name.as_str()).collect();
            let names: Vec<_> = writer.origin_ids.keys().filter(|n| !keep.contains(&***n)).cloned().collect();
            names.iter().for_each(|name| self.drop_origin(&mut writer, name));
        }
        for name in &change.origins_removed {
            self.drop_origin(&mut writer, name);
        }
        Ok(())
    }

    /// Gives a host a new purge generation; `false` if there is no such row (`host` as in the row: `*.x` too).
    pub fn purge_host(&self, host: &str) -> bool {
        let mut writer = self.lock();
        let Some(number) = self.number_of(host) else { return false };
        let generation = writer.next_serial();
        let guard = self.rows.load(number);
        guard.as_ref().inspect(|row| row.state.generation.store(generation, Ordering::Relaxed)).is_some()
    }

    /// The `n` rows with the most requests, most first (by name where equal): host and counters. Walks all
    /// rows.
    pub fn busiest(&self, n: usize) -> Vec<(String, Arc<super::RowCounters>)> {
        let rows = self.lock().rows;
        let counted = |number| {
            let row = self.rows.load(number);
            let row = row.as_ref()?;
            let counters = row.state.counters.get()?.clone();
            let requests = counters.requests.load(Ordering::Relaxed);
            Some((std::cmp::Reverse(requests), row.name().to_vec(), counters))
        };
        let mut all: Vec<_> = (0..rows).filter_map(counted).collect();
        all.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        all.truncate(n);
        all.into_iter().map(|(_, name, c)| (String::from_utf8_lossy(&name).into_owned(), c)).collect()
    }

    /// Rows, origins, bytes.
    pub fn stats(&self) -> TableStats {
        let writer = self.lock();
        let spare = writer.spare_rows.capacity() * 4 + writer.origin_uses.capacity() * 4;
        let shared = self.index.load().bytes() + self.rows.bytes() + self.origins.bytes() + spare;
        TableStats {
            sites: writer.live as u64,
            origins: writer.origin_ids.len() as u64,
            extra_routes: writer.extra_routes,
            bytes: writer.row_bytes + writer.origin_bytes + shared as u64,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // A writer that panicked broke an invariant of its own; what it published was whole rows.
        self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn number_of(&self, host: &str) -> Option<u32> {
        let index = self.index.load();
        let mut numbers = index.candidates(self.hash(key_of(host)));
        numbers.find(|&n| self.rows.load(n).as_ref().is_some_and(|r| r.name() == host.as_bytes()))
    }

    fn hosts(&self, writer: &Writer) -> Vec<String> {
        let name = |n| self.rows.load(n).as_ref().map(|r| String::from_utf8_lossy(r.name()).into_owned());
        (0..writer.rows).filter_map(name).collect()
    }

    fn put_site(&self, writer: &mut Writer, checked: CheckedSite) {
        let host = checked.host.clone();
        let old = self.number_of(&host);
        let state = match old.and_then(|n| self.rows.load(n).as_ref().map(|r| r.state.clone())) {
            Some(state) => state,
            None => RowState::new(writer.next_serial()),
        };
        let row = Arc::new(Row::new(checked, state));
        for id in row.origins() {
            writer.origin_uses[id.0 as usize] += 1;
        }
        writer.row_bytes += row.bytes() as u64;
        writer.extra_routes += row.extra_routes();
        if let Some(number) = old {
            self.forget(writer, number);
            self.rows.store(number, Some(row));
            return;
        }
        let number = writer.spare_rows.pop().unwrap_or(writer.rows);
        writer.rows = writer.rows.max(number + 1);
        self.rows.store(number, Some(row));
        if self.index.load().is_due(writer.cells_used + 1) {
            let larger: Index = self.index.load().rebuilt(writer.live + 1);
            self.index.store(Arc::new(larger));
            writer.cells_used = writer.live;
        }
        let reused = self.index.load().insert(self.hash(key_of(&host)), number);
        writer.cells_used += usize::from(!reused);
        writer.live += 1;
        if host == "*" {
            self.default_row.store(number, Ordering::Release);
        }
        if let Some(depth) = depth_of(&host) {
            *writer.wildcards.entry(depth).or_default() += 1;
            self.wildcard_depths.fetch_or(1 << depth, Ordering::Release);
        }
    }

    fn drop_site(&self, writer: &mut Writer, host: &str) -> bool {
        let Some(number) = self.number_of(host) else { return false };
        if host == "*" {
            self.default_row.store(NO_ROW, Ordering::Release);
        }
        self.index.load().remove(self.hash(key_of(host)), number);
        self.forget(writer, number);
        self.rows.store(number, None);
        writer.spare_rows.push(number);
        writer.live -= 1;
        if let Some(depth) = depth_of(host) {
            let left = writer.wildcards.entry(depth).or_default();
            *left -= 1;
            if *left == 0 {
                self.wildcard_depths.fetch_and(!(1 << depth), Ordering::Release);
            }
        }
        true
    }

    /// Takes the row in a place out of the sums.
    fn forget(&self, writer: &mut Writer, number: u32) {
        if let Some(row) = self.rows.load(number).as_ref() {
            for id in row.origins() {
                writer.origin_uses[id.0 as usize] -= 1;
            }
            writer.row_bytes -= row.bytes() as u64;
            writer.extra_routes -= row.extra_routes();
        }
    }

    fn put_origin(&self, writer: &mut Writer, origin: Origin) {
        let known = writer.origin_ids.get(&origin.name).copied();
        let id = known.unwrap_or_else(|| {
            let id = writer.spare_origins.pop().unwrap_or_else(|| {
                writer.origin_uses.push(0);
                (writer.origin_uses.len() - 1) as u32
            });
            writer.origin_ids.insert(origin.name.clone(), OriginId(id));
            OriginId(id)
        });
        if let Some(old) = self.origins.load(id.0).as_ref() {
            writer.origin_bytes -= origin_bytes(old);
        }
        writer.origin_bytes += origin_bytes(&origin);
        self.origins.store(id.0, Some(Arc::new(origin)));
    }

    fn drop_origin(&self, writer: &mut Writer, name: &str) {
        let Some(id) = writer.origin_ids.remove(name) else { return };
        debug_assert_eq!(writer.origin_uses[id.0 as usize], 0, "checked before");
        if let Some(old) = self.origins.load(id.0).as_ref() {
            writer.origin_bytes -= origin_bytes(old);
        }
        self.origins.store(id.0, None);
        writer.spare_origins.push(id.0);
    }
}

/// Checks everything that could be refused; returns the checked origins.
fn check_change(writer: &Writer, table: &RouteTable, change: &Apply) -> Result<Vec<Origin>, RowError> {
    let mut origins = Vec::with_capacity(change.origins.len());
    let mut named: HashSet<&str> = HashSet::with_capacity(change.origins.len());
    for (i, row) in change.origins.iter().enumerate() {
        origins.push(check_origin(row).map_err(within(format!("origins[{i}]")))?);
        if !named.insert(&row.name) {
            return Err(error(format!("origins[{i}].name"), format!("{:?} is there twice", row.name)));
        }
    }
    let gone: HashSet<&str> = change.origins_removed.iter().map(String::as_str).collect();
    let there = |name: &str| {
        (named.contains(name) || (!change.full && writer.origin_ids.contains_key(name)))
            && !gone.contains(name)
    };
    let mut hosts: HashSet<&str> = HashSet::with_capacity(change.sites.len());
    for (i, row) in change.sites.iter().enumerate() {
        check_site(row, |name| there(name).then_some(OriginId(0))).map_err(within(format!("sites[{i}]")))?;
        if !hosts.insert(&row.host) {
            return Err(error(format!("sites[{i}].host"), format!("{:?} is there twice", row.host)));
        }
    }
    for (i, host) in change.sites_removed.iter().enumerate() {
        if hosts.contains(host.as_str()) {
            return Err(error(format!("sites_removed[{i}]"), format!("{host:?} is among the sites too")));
        }
    }
    for (i, name) in change.origins_removed.iter().enumerate() {
        if named.contains(name.as_str()) {
            return Err(error(format!("origins_removed[{i}]"), format!("{name:?} is among the origins too")));
        }
        if let Some(id) = writer.origin_ids.get(name.as_str())
            && let Some(host) = still_named_by(table, writer, change, &hosts, *id)
        {
            return Err(error(
                format!("origins_removed[{i}]"),
                format!("origin {name:?} is named by site {host:?}"),
            ));
        }
    }
    Ok(origins)
}

/// A site that names an origin and is neither replaced nor removed by the change. Walks the rows only if there
/// are more uses than the change takes away.
fn still_named_by(
    table: &RouteTable,
    writer: &Writer,
    change: &Apply,
    replaced: &HashSet<&str>,
    id: OriginId,
) -> Option<String> {
    if change.full {
        return None;
    }
    let leaving = replaced.iter().copied().chain(change.sites_removed.iter().map(String::as_str));
    let leaving: HashSet<u32> = leaving.filter_map(|host| table.number_of(host)).collect();
    let uses = |number: u32| {
        table.rows.load(number).as_ref().map_or(0, |row| row.origins().filter(|o| *o == id).count() as u32)
    };
    let left = writer.origin_uses[id.0 as usize] - leaving.iter().map(|n| uses(*n)).sum::<u32>();
    if left == 0 {
        return None;
    }
    let stays = (0..writer.rows).find(|n| !leaving.contains(n) && uses(*n) > 0)?;
    table.rows.load(stays).as_ref().map(|row| String::from_utf8_lossy(row.name()).into_owned())
}
