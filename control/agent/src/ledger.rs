//! The ledger: what this node was told and must not forget.
//!
//! Owns one redb file. Everything is durable (fsync) before it is acted on, so a node that reboots while cut
//! off from everything brings its work back. Runs on the engine's thread.
//!
//! * documents in force: generation, file name in the source, text as written;
//! * drains the operator asked for;
//! * backend ids: one per pool, name and addresses; a retired id is not given again while a flow may name it;
//! * revision and digest of the rows last acknowledged by the proxy.
//!
//! After an error of the disk nobody knows what of the last commit is in the file, and the store refuses all
//! further work. The file is then closed; the next commit opens it again and writes everything that is in
//! memory anew, in the same transaction as its own change: what was refused does not come back.

use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use sluice_api::rest::{DrainKind, DrainRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const DOCUMENTS: TableDefinition<'_, &str, (u64, &str, &[u8])> = TableDefinition::new("documents");
const DRAINS: TableDefinition<'_, (&str, &str), ()> = TableDefinition::new("drains");
/// Wall clock, ms since 1970, from which a drained backend keeps no flow.
const DEADLINES: TableDefinition<'_, (&str, &str), u64> = TableDefinition::new("drain_deadlines");
const IDS: TableDefinition<'_, &str, (u16, u64)> = TableDefinition::new("backend_ids");

/// Raised with every change of a table's meaning.
const FORMAT: u64 = 1;
/// Operator drains kept: each names a node or backend, of which a set has at most this order.
pub const DRAINS_MAX: usize = 65_536;
/// Page cache of redb, bytes: the ledger is written often and read at start only.
const CACHE_BYTES: usize = 4 << 20;

/// Why the ledger could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be opened for a reason that may pass (permissions, lock of another agent).
    #[error("open ledger {path}: {source}")]
    Open {
        /// File.
        path: PathBuf,
        /// Cause.
        source: redb::Error,
    },
    /// The file was written by another format.
    #[error("ledger has format {found}, this program knows {FORMAT}")]
    Format {
        /// Number found.
        found: u64,
    },
    /// A damaged file could not be moved aside.
    #[error("move damaged ledger {path} aside: {source}")]
    Aside {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A read failed.
    #[error("read ledger: {0}")]
    Read(redb::Error),
    /// A commit failed: nothing of it is in force.
    #[error("commit ledger: {0}")]
    Commit(redb::Error),
    /// No id is free.
    #[error("all {max} backend ids are in use or retired")]
    NoId {
        /// Ids there are.
        max: u16,
    },
    /// Too many drains.
    #[error("{DRAINS_MAX} drains are in force already")]
    TooManyDrains,
}

/// A document as kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Generation.
    pub generation: u64,
    /// File name in the source directory; empty: came over the API only.
    pub file: String,
    /// Text as written.
    pub text: Vec<u8>,
}

/// Backend ids: in use, or retired until a wall-clock time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    by_key: BTreeMap<String, (u16, u64)>,
    last: u16,
}

/// A change of ids to be committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdChange {
    set: BTreeMap<String, (u16, u64)>,
    forget: BTreeSet<String>,
    last: u16,
}

impl Ids {
    /// Id of an active key.
    pub fn get(&self, key: &str) -> Option<u16> {
        self.by_key.get(key).filter(|(_, retired)| *retired == 0).map(|(id, _)| *id)
    }

    /// Key of an id, active or retired.
    pub fn key_of(&self, id: u16) -> Option<&str> {
        self.by_key.iter().find(|(_, (other, _))| *other == id).map(|(key, _)| key.as_str())
    }

    /// These keys have ids, and no other key does.
    pub fn are_exactly(&self, wanted: &BTreeSet<String>) -> bool {
        let active = self.by_key.iter().filter(|(_, (_, retired))| *retired == 0).map(|(key, _)| key);
        active.eq(wanted)
    }

    /// Ids, at most `max`, for exactly these keys. Keys no longer named are retired until `now_ms + idle_ms`; a key named
    /// again gets its old id back; ids in `busy` (the flow table still names them) are never given anew.
    ///
    /// # Errors
    /// [`LedgerError::NoId`] when none is free.
    pub fn change_to(
        &self,
        wanted: &BTreeSet<String>,
        busy: &BTreeSet<u16>,
        now_ms: u64,
        idle_ms: u64,
        max: u16,
    ) -> Result<Option<IdChange>, LedgerError> {
        let mut change = IdChange { last: self.last, ..IdChange::default() };
        let mut taken: BTreeSet<u16> = busy.clone();
        for (key, &(id, retired)) in &self.by_key {
            match (wanted.contains(key), retired) {
                (true, 0) => {}
                (true, _) => {
                    change.set.insert(key.clone(), (id, 0));
                }
                (false, 0) => {
                    change.set.insert(key.clone(), (id, now_ms.saturating_add(idle_ms).max(1)));
                }
                (false, until) if until <= now_ms && !busy.contains(&id) => {
                    change.forget.insert(key.clone());
                    continue;
                }
                (false, _) => {}
            }
            taken.insert(id);
        }
        for key in wanted.iter().filter(|key| !self.by_key.contains_key(*key)) {
            let id = next_free(&taken, change.last, max).ok_or(LedgerError::NoId { max })?;
            taken.insert(id);
            change.last = id;
            change.set.insert(key.clone(), (id, 0));
        }
        let nothing = change.set.is_empty() && change.forget.is_empty();
        Ok((!nothing).then_some(change))
    }

    /// Takes a change over, once it is committed.
    pub fn take(&mut self, change: &IdChange) {
        for key in &change.forget {
            self.by_key.remove(key);
        }
        for (key, value) in &change.set {
            self.by_key.insert(key.clone(), *value);
        }
        self.last = change.last;
    }
}

/// The next id after the last one given, so that a freed id rests as long as possible.
fn next_free(taken: &BTreeSet<u16>, last: u16, max: u16) -> Option<u16> {
    (last.saturating_add(1)..=max).chain(1..=last.min(max)).find(|id| *id != 0 && !taken.contains(id))
}

/// Opens the store, at start and again after an error of the disk.
type Opener = Box<dyn Fn() -> Result<Database, LedgerError> + Send>;

/// A store that outlives the database on it: closing the database does not close it, dropping it does.
#[derive(Debug)]
struct Lent<B>(Arc<B>);

impl<B: StorageBackend> StorageBackend for Lent<B> {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
}

/// The open ledger with its content in memory.
pub struct Ledger {
    /// None after an error: what is in memory holds, what is in the file is not known.
    db: Option<Database>,
    open: Opener,
    documents: BTreeMap<String, Kept>,
    drains: BTreeSet<DrainRequest>,
    deadlines: BTreeMap<DrainRequest, u64>,
    ids: Ids,
    proxy_revision: u64,
    proxy_digest: u64,
}

/// How opening went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Where a damaged file was moved to, if one was.
    pub damaged: Option<PathBuf>,
}

impl Ledger {
    /// Opens or makes the file. A file that cannot be read as a ledger is moved aside and a new one begun:
    /// the documents are in their source, the ids in the pinned tables, and a node that serves must go on.
    ///
    /// # Errors
    /// Another agent holds the file, it is of another format, or the disk refuses.
    pub fn open(path: &Path) -> Result<(Self, Opened), LedgerError> {
        match Self::open_file(path) {
            Ok(ledger) => Ok((ledger, Opened::default())),
            Err(error) if is_damage(&error) => {
                let aside = aside_name(path);
                std::fs::rename(path, &aside)
                    .map_err(|source| LedgerError::Aside { path: path.to_owned(), source })?;
                Ok((Self::open_file(path)?, Opened { damaged: Some(aside) }))
            }
            Err(error) => Err(error),
        }
    }

    fn open_file(path: &Path) -> Result<Self, LedgerError> {
        let path = path.to_owned();
        Self::from_opener(Box::new(move || {
            Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create(&path)
                .map_err(|source| LedgerError::Open { path: path.clone(), source: source.into() })
        }))
    }

    /// A ledger on any storage: memory in simulations, failing disks in tests.
    ///
    /// # Errors
    /// As [`Ledger::open`], but damage is an error.
    pub fn on(backend: impl StorageBackend) -> Result<Self, LedgerError> {
        let backend = Arc::new(backend);
        Self::from_opener(Box::new(move || {
            Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(Lent(Arc::clone(&backend)))
                .map_err(|source| LedgerError::Open { path: PathBuf::new(), source: source.into() })
        }))
    }

    fn from_opener(open: Opener) -> Result<Self, LedgerError> {
        let db = open()?;
        Self::make_tables(&db).map_err(LedgerError::Commit)?;
        let mut ledger = Ledger {
            db: None,
            open,
            documents: BTreeMap::new(),
            drains: BTreeSet::new(),
            deadlines: BTreeMap::new(),
            ids: Ids::default(),
            proxy_revision: 0,
            proxy_digest: 0,
        };
        let found = ledger.load(&db).map_err(LedgerError::Read)?;
        if found != FORMAT {
            return Err(LedgerError::Format { found });
        }
        ledger.db = Some(db);
        Ok(ledger)
    }

    fn make_tables(db: &Database) -> Result<(), redb::Error> {
        let write = db.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            if meta.get("format")?.is_none() {
                meta.insert("format", FORMAT)?;
            }
            write.open_table(DOCUMENTS)?;
            write.open_table(DRAINS)?;
            write.open_table(DEADLINES)?;
            write.open_table(IDS)?;
        }
        write.commit()?;
        Ok(())
    }

    fn load(&mut self, db: &Database) -> Result<u64, redb::Error> {
        let read = db.begin_read()?;
        let meta = read.open_table(META)?;
        let number = |key: &str| -> Result<u64, redb::Error> { Ok(meta.get(key)?.map_or(0, |v| v.value())) };
        for row in read.open_table(DOCUMENTS)?.iter()? {
            let (name, value) = row?;
            let (generation, file, text) = value.value();
            let kept = Kept { generation, file: file.to_owned(), text: text.to_vec() };
            self.documents.insert(name.value().to_owned(), kept);
        }
        for row in read.open_table(DRAINS)?.iter()? {
            let (key, _) = row?;
            let (kind, name) = key.value();
            if let Some(kind) = kind_from(kind) {
                self.drains.insert(DrainRequest { kind, name: name.to_owned() });
            }
        }
        for row in read.open_table(DEADLINES)?.iter()? {
            let (key, at_ms) = row?;
            let (kind, name) = key.value();
            if let Some(kind) = kind_from(kind) {
                self.deadlines.insert(DrainRequest { kind, name: name.to_owned() }, at_ms.value());
            }
        }
        for row in read.open_table(IDS)?.iter()? {
            let (key, value) = row?;
            self.ids.by_key.insert(key.value().to_owned(), value.value());
        }
        self.ids.last = u16::try_from(number("last_id")?).unwrap_or(0);
        self.proxy_revision = number("proxy_revision")?;
        self.proxy_digest = number("proxy_digest")?;
        number("format")
    }

    /// Documents in force.
    pub const fn documents(&self) -> &BTreeMap<String, Kept> {
        &self.documents
    }

    /// Drains in force.
    pub const fn drains(&self) -> &BTreeSet<DrainRequest> {
        &self.drains
    }

    /// Deadlines of drains, wall clock in ms.
    pub const fn drain_deadlines(&self) -> &BTreeMap<DrainRequest, u64> {
        &self.deadlines
    }

    /// Backend ids.
    pub const fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Revision and digest of the rows the proxy acknowledged last.
    pub const fn proxy_rows(&self) -> (u64, u64) {
        (self.proxy_revision, self.proxy_digest)
    }

    /// Commits documents that replace, and names that go, as one.
    ///
    /// # Errors
    /// [`LedgerError::Commit`]; the old state stays, in memory too.
    pub fn commit_documents(
        &mut self,
        replaced: &BTreeMap<String, Kept>,
        removed: &BTreeSet<String>,
    ) -> Result<(), LedgerError> {
        self.commit(|write| {
            let mut table = write.open_table(DOCUMENTS)?;
            for name in removed {
                table.remove(name.as_str())?;
            }
            for (name, kept) in replaced {
                table.insert(name.as_str(), (kept.generation, kept.file.as_str(), kept.text.as_slice()))?;
            }
            Ok(())
        })?;
        self.documents.retain(|name, _| !removed.contains(name));
        self.documents.extend(replaced.iter().map(|(name, kept)| (name.clone(), kept.clone())));
        Ok(())
    }

    /// Adds or takes back a drain; `false` if it was so already.
    ///
    /// # Errors
    /// As [`Ledger::commit_documents`], or too many.
    pub fn set_drain(&mut self, drain: &DrainRequest, on: bool) -> Result<bool, LedgerError> {
        self.set_drain_until(drain, on, None)
    }

    /// The same with a deadline (wall clock, ms), which replaces the one before.
    ///
    /// # Errors
    /// As [`Ledger::set_drain`].
    pub fn set_drain_until(
        &mut self,
        drain: &DrainRequest,
        on: bool,
        deadline_ms: Option<u64>,
    ) -> Result<bool, LedgerError> {
        let deadline_ms = deadline_ms.filter(|_| on);
        let there = self.drains.contains(drain);
        if there == on && self.deadlines.get(drain).copied() == deadline_ms {
            return Ok(false);
        }
        if on && !there && self.drains.len() >= DRAINS_MAX {
            return Err(LedgerError::TooManyDrains);
        }
        self.commit(|write| {
            let key = (kind_name(drain.kind), drain.name.as_str());
            let mut drains = write.open_table(DRAINS)?;
            let mut deadlines = write.open_table(DEADLINES)?;
            if on {
                drains.insert(key, ())?;
            } else {
                drains.remove(key)?;
            }
            match deadline_ms {
                Some(at_ms) => drop(deadlines.insert(key, at_ms)?),
                None => drop(deadlines.remove(key)?),
            }
            Ok(())
        })?;
        if on {
            self.drains.insert(drain.clone());
        } else {
            self.drains.remove(drain);
        }
        self.deadlines.remove(drain);
        self.deadlines.extend(deadline_ms.map(|at_ms| (drain.clone(), at_ms)));
        Ok(true)
    }

    /// Commits a change of ids.
    ///
    /// # Errors
    /// As [`Ledger::commit_documents`].
    pub fn commit_ids(&mut self, change: &IdChange) -> Result<(), LedgerError> {
        self.commit(|write| {
            let mut table = write.open_table(IDS)?;
            for key in &change.forget {
                table.remove(key.as_str())?;
            }
            for (key, value) in &change.set {
                table.insert(key.as_str(), *value)?;
            }
            write.open_table(META)?.insert("last_id", u64::from(change.last))?;
            Ok(())
        })?;
        self.ids.take(change);
        Ok(())
    }

    /// Notes what the proxy acknowledged.
    ///
    /// # Errors
    /// As [`Ledger::commit_documents`].
    pub fn commit_proxy_rows(&mut self, revision: u64, digest: u64) -> Result<(), LedgerError> {
        self.commit(|write| {
            let mut meta = write.open_table(META)?;
            meta.insert("proxy_revision", revision)?;
            meta.insert("proxy_digest", digest)?;
            Ok(())
        })?;
        (self.proxy_revision, self.proxy_digest) = (revision, digest);
        Ok(())
    }

    /// Opens the file again and writes it anew if the last commit failed; otherwise does nothing.
    ///
    /// # Errors
    /// As [`Ledger::commit_documents`], or it cannot be opened.
    pub fn mend(&mut self) -> Result<(), LedgerError> {
        if self.db.is_some() { Ok(()) } else { self.commit(|_| Ok(())) }
    }

    fn commit(
        &mut self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), LedgerError> {
        // Out of the ledger while it is at work: an error on any way out leaves it closed.
        let (db, anew) = match self.db.take() {
            Some(db) => (db, false),
            None => ((self.open)()?, true),
        };
        let commit = || -> Result<(), redb::Error> {
            let write = db.begin_write()?;
            if anew {
                self.write_anew(&write)?;
            }
            change(&write)?;
            write.commit()?;
            Ok(())
        };
        commit().map_err(LedgerError::Commit)?;
        self.db = Some(db);
        Ok(())
    }

    /// Replaces whatever the file has by what is in memory.
    fn write_anew(&self, write: &redb::WriteTransaction) -> Result<(), redb::Error> {
        write.delete_table(META)?;
        write.delete_table(DOCUMENTS)?;
        write.delete_table(DRAINS)?;
        write.delete_table(DEADLINES)?;
        write.delete_table(IDS)?;
        let mut meta = write.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("last_id", u64::from(self.ids.last))?;
        meta.insert("proxy_revision", self.proxy_revision)?;
        meta.insert("proxy_digest", self.proxy_digest)?;
        let mut documents = write.open_table(DOCUMENTS)?;
        for (name, kept) in &self.documents {
            documents.insert(name.as_str(), (kept.generation, kept.file.as_str(), kept.text.as_slice()))?;
        }
        let mut drains = write.open_table(DRAINS)?;
        for drain in &self.drains {
            drains.insert((kind_name(drain.kind), drain.name.as_str()), ())?;
        }
        let mut deadlines = write.open_table(DEADLINES)?;
        for (drain, at_ms) in &self.deadlines {
            deadlines.insert((kind_name(drain.kind), drain.name.as_str()), *at_ms)?;
        }
        let mut ids = write.open_table(IDS)?;
        for (key, value) in &self.ids.by_key {
            ids.insert(key.as_str(), *value)?;
        }
        Ok(())
    }
}

fn is_damage(error: &LedgerError) -> bool {
    match error {
        LedgerError::Open { source, .. } | LedgerError::Read(source) | LedgerError::Commit(source) => {
            match source {
                redb::Error::Corrupted(_) | redb::Error::RepairAborted | redb::Error::UpgradeRequired(_) => {
                    true
                }
                redb::Error::TableTypeMismatch { .. } | redb::Error::TableDoesNotExist(_) => true,
                redb::Error::Io(io) => {
                    matches!(io.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
                }
                _ => false,
            }
        }
        _ => false,
    }
}

fn aside_name(path: &Path) -> PathBuf {
    (1u32..)
        .map(|n| path.with_extension(format!("damaged-{n}")))
        .find(|candidate| !candidate.exists())
        .unwrap_or_else(|| path.with_extension("damaged"))
}

const fn kind_name(kind: DrainKind) -> &'static str {
    match kind {
        DrainKind::Backend => "backend",
        DrainKind::Member => "member",
        DrainKind::Node => "node",
    }
}

fn kind_from(name: &str) -> Option<DrainKind> {
    [DrainKind::Backend, DrainKind::Member, DrainKind::Node].into_iter().find(|kind| kind_name(*kind) == name)
}
