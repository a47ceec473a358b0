//! Intake of documents: from files and the API to what is held.
//!
//! Rules:
//! * A file whose text is refused changes nothing; the version before stays in force and the status says why.
//! * A document is removed when its file is gone while others are there. An empty, vanished or unreadable
//!   directory removes nothing: the last document goes over the API, or by a newer one without items.
//! * After a source was empty or unreadable its files may come back one by one: nothing is removed until a
//!   complete list names some files and not those.
//! * A removal waits [`REMOVAL_SETTLE_MS`], since many editors move a file away before they write the new one.
//! * A version refused only because of other documents (a pool it names is in a file not read yet) is tried
//!   again whenever those change.

use super::Engine;
use crate::generation::{self, Verdict};
use crate::host::Host;
use crate::ledger::Kept;
use sluice_api::check::{CheckedDocument, Desired, FieldError, check_set, parse_document};
use sluice_api::status::ItemError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long a file must be gone before its document is removed, ms.
pub const REMOVAL_SETTLE_MS: u64 = 200;

/// Text of a file, or why it could not be read.
pub type FileText = Result<Vec<u8>, String>;

/// What a source saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// A file is there, with new text.
    File {
        /// Name within the source.
        file: String,
        /// Its text.
        text: FileText,
    },
    /// A file is gone.
    Gone {
        /// Name within the source.
        file: String,
    },
    /// The complete list of files now: the first look, and after events were lost.
    Listing {
        /// Names within the source.
        files: BTreeSet<String>,
    },
    /// The source cannot be read; nothing is concluded from that.
    Unreadable {
        /// Why.
        message: String,
    },
}

/// A version that waits for other documents.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    document: Arc<CheckedDocument>,
    text: Vec<u8>,
    seen_us: u64,
}

/// How much a file that is not among the files means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum View {
    /// Nothing: no list came since the start, or since the source could not be read.
    #[default]
    Unknown,
    /// Nothing: all files were gone, and no list came since that is not empty.
    Emptied,
    /// That it is gone: the files are those of a list, and of changes after it.
    Listed,
}

/// Documents held, waiting and refused.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    /// In force, by name.
    pub(crate) held: BTreeMap<String, Arc<CheckedDocument>>,
    /// Files of the source.
    files: BTreeSet<String>,
    /// What is known of the files that are not there.
    view: View,
    /// Good by themselves, not yet with the others; by file.
    waiting: BTreeMap<String, Candidate>,
    /// Why a file is refused; by file.
    pub(crate) refused: BTreeMap<String, Refusal>,
    /// Removals whose files are gone, with the time from which they hold.
    removals: BTreeMap<String, u64>,
    /// Why a removal is refused; by document.
    pub(crate) removal_refused: BTreeMap<String, Vec<ItemError>>,
}

/// A refused version.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// Document, if its name could be read or its file is known.
    pub(crate) document: Option<String>,
    /// Why.
    pub(crate) errors: Vec<ItemError>,
}

/// A set that passed its checks, not yet durable.
pub(crate) struct Accepted {
    pub(crate) held: BTreeMap<String, Arc<CheckedDocument>>,
    pub(crate) desired: Desired,
    pub(crate) replaced: BTreeMap<String, Kept>,
    pub(crate) removed: BTreeSet<String>,
}

pub(crate) fn item_errors(errors: &[FieldError]) -> Vec<ItemError> {
    let message = |e: &FieldError| match e.document.is_empty() {
        true => e.message.clone(),
        false => format!("{} (document {})", e.message, e.document),
    };
    errors.iter().map(|e| ItemError { item: e.path.clone(), message: message(e), retry: false }).collect()
}

impl<H: Host> Engine<H> {
    /// Takes what a source saw, all at once; `seen_us` is when, on the engine's monotonic clock.
    pub fn on_source(&mut self, events: Vec<SourceEvent>, seen_us: u64) {
        for event in events {
            match event {
                SourceEvent::File { file, text } => {
                    self.other_errors.remove("source");
                    self.documents.files.insert(file.clone());
                    self.on_file(file, text, seen_us);
                }
                SourceEvent::Gone { file } => self.file_gone(&file),
                SourceEvent::Listing { files } => {
                    self.other_errors.remove("source");
                    let gone: Vec<String> = self.documents.files.difference(&files).cloned().collect();
                    gone.iter().for_each(|file| self.file_gone(file));
                    self.documents.view = if files.is_empty() { View::Emptied } else { View::Listed };
                    self.documents.files = files;
                }
                SourceEvent::Unreadable { message } => self.source_unreadable(message),
            }
        }
        self.note_removals();
        self.try_waiting();
    }

    fn source_unreadable(&mut self, message: String) {
        let now = self.clock.now();
        self.counts.add("source_unreadable");
        self.documents.view = View::Unknown;
        let error = ItemError { item: "source".to_owned(), message: message.clone(), retry: true };
        if self.other_errors.insert("source".to_owned(), error).is_none() {
            self.events.add(now, "source_unreadable", "source", message);
        }
    }

    fn file_gone(&mut self, file: &str) {
        self.documents.files.remove(file);
        if self.documents.files.is_empty() && self.documents.view == View::Listed {
            self.documents.view = View::Emptied;
        }
        self.documents.refused.remove(file);
        self.documents.waiting.remove(file);
    }

    fn on_file(&mut self, file: String, text: FileText, seen_us: u64) {
        self.documents.waiting.remove(&file);
        let known = self.document_of(&file);
        let text = match text {
            Ok(text) => text,
            Err(message) => return self.refuse(file, known, vec![whole(message)]),
        };
        let document = match parse_document(&text) {
            Ok(document) => Arc::new(document),
            Err(errors) => {
                let named = errors.iter().map(|e| &e.document).find(|d| self.documents.held.contains_key(*d));
                let known = known.or_else(|| named.cloned());
                return self.refuse(file, known, item_errors(&errors));
            }
        };
        let name = document.name().to_owned();
        if let Some(other) = self.other_file_of(&name, &file) {
            let message = format!("document {name} is in file {other} already");
            return self.refuse(file, Some(name), vec![whole(message)]);
        }
        match generation::judge(self.documents.held.get(&name).map(Arc::as_ref), &document) {
            Err(refused) => {
                let error =
                    ItemError { item: "generation".to_owned(), message: refused.to_string(), retry: false };
                self.refuse(file, Some(name), vec![error]);
            }
            Ok(Verdict::Same) => {
                self.documents.refused.remove(&file);
                if !self.note_file(&name, &file) {
                    // Its former file may be gone: until the ledger knows the new one it is no removal.
                    self.documents.waiting.insert(file, Candidate { document, text, seen_us });
                }
            }
            Ok(Verdict::Create | Verdict::Replace) => {
                self.documents.waiting.insert(file, Candidate { document, text, seen_us });
            }
        }
    }

    /// Document whose text in force came from this file.
    fn document_of(&self, file: &str) -> Option<String> {
        self.ledger.documents().iter().find(|(_, kept)| kept.file == file).map(|(name, _)| name.clone())
    }

    /// Another file, still there, that holds the document.
    fn other_file_of(&self, name: &str, file: &str) -> Option<String> {
        let in_force = self.ledger.documents().get(name).map(|kept| &kept.file);
        let waiting = self.documents.waiting.iter().find(|(_, c)| c.document.name() == name).map(|(f, _)| f);
        [in_force, waiting]
            .into_iter()
            .flatten()
            .find(|other| *other != file && self.documents.files.contains(*other))
            .cloned()
    }

    /// The same document moved to another file name; `false` if the ledger refused.
    fn note_file(&mut self, name: &str, file: &str) -> bool {
        let Some(kept) = self.ledger.documents().get(name).filter(|kept| kept.file != file) else {
            return true;
        };
        let moved = BTreeMap::from([(name.to_owned(), Kept { file: file.to_owned(), ..kept.clone() })]);
        let noted = self.ledger.commit_documents(&moved, &BTreeSet::new());
        noted.map_err(|error| self.ledger_failed(&error.to_string())).is_ok()
    }

    fn refuse(&mut self, file: String, document: Option<String>, errors: Vec<ItemError>) {
        let same = self.documents.refused.get(&file).is_some_and(|r| r.errors == errors);
        if !same {
            self.counts.add("documents_refused");
            let first = errors.first().map_or(String::new(), |e| format!("{}: {}", e.item, e.message));
            let more = errors.len().saturating_sub(1);
            let message = if more > 0 { format!("{first} (and {more} more)") } else { first };
            let item = document.clone().unwrap_or_else(|| file.clone());
            self.events.add(self.clock.now(), "document_refused", item, message);
        }
        self.documents.refused.insert(file, Refusal { document, errors });
    }

    /// Removals to come: documents whose file is gone while the source has others.
    fn note_removals(&mut self) {
        let now = self.clock.now().mono_ms();
        let files = &self.documents.files;
        let gone: BTreeSet<&String> = self
            .ledger
            .documents()
            .iter()
            .filter(|(_, kept)| !kept.file.is_empty() && !files.contains(&kept.file))
            .map(|(name, _)| name)
            .collect();
        if self.documents.view != View::Listed {
            if files.is_empty() && self.documents.view == View::Emptied && !gone.is_empty() {
                let message = "the source is empty: this is not read as removing all documents".to_owned();
                let error = ItemError { item: "source".to_owned(), message, retry: false };
                self.other_errors.insert("source".to_owned(), error);
            }
            self.documents.removals.clear();
            self.documents.removal_refused.clear();
            return;
        }
        let rewritten: BTreeSet<&str> = self.documents.waiting.values().map(|c| c.document.name()).collect();
        let mut removals = BTreeMap::new();
        for name in gone.into_iter().filter(|name| !rewritten.contains(name.as_str())) {
            let due = self.documents.removals.get(name).copied().unwrap_or(now + REMOVAL_SETTLE_MS);
            removals.insert(name.clone(), due);
        }
        self.documents.removals = removals;
        self.documents.removal_refused.retain(|name, _| self.documents.removals.contains_key(name));
    }

    /// Time the next removal is due, ms; none while the ledger refuses: its next try takes them along.
    pub(crate) fn next_removal_ms(&self) -> Option<u64> {
        if self.timers.ledger_fails() {
            return None;
        }
        let open = |name: &String| !self.documents.removal_refused.contains_key(name);
        self.documents.removals.iter().filter(|(name, _)| open(name)).map(|(_, due)| *due).min()
    }

    /// Puts as much in force as passes the checks: all that waits, or all but what the errors name.
    pub(crate) fn try_waiting(&mut self) {
        let now = self.clock.now().mono_ms();
        let removals: BTreeSet<String> = self
            .documents
            .removals
            .iter()
            .filter(|(_, due)| **due <= now)
            .map(|(name, _)| name.clone())
            .collect();
        if removals.is_empty() && self.documents.waiting.is_empty() {
            return;
        }
        let mut candidates: BTreeSet<String> = self.documents.waiting.keys().cloned().collect();
        let mut removed = removals;
        let mut refusals: Vec<(String, Vec<ItemError>)> = Vec::new();
        while !candidates.is_empty() || !removed.is_empty() {
            match self.check_with(&candidates, &removed) {
                Ok(accepted) => {
                    self.accept(accepted, &candidates);
                    break;
                }
                Err(errors) => {
                    let blamed = self.blame(&errors, &candidates);
                    let items = item_errors(&errors);
                    if blamed.is_empty() && !removed.is_empty() {
                        for name in std::mem::take(&mut removed) {
                            self.refuse_removal(&name, items.clone());
                        }
                        continue;
                    }
                    // Nobody is named: what waits broke something held. The last one goes first.
                    let out = if blamed.is_empty() {
                        candidates.iter().next_back().cloned().into_iter().collect()
                    } else {
                        blamed
                    };
                    for file in out {
                        candidates.remove(&file);
                        refusals.push((file, items.clone()));
                    }
                }
            }
        }
        for (file, errors) in refusals {
            let name = self.documents.waiting.get(&file).map(|c| c.document.name().to_owned());
            self.refuse(file, name, errors);
        }
    }

    fn refuse_removal(&mut self, name: &str, errors: Vec<ItemError>) {
        if !self.documents.removal_refused.contains_key(name) {
            self.counts.add("removals_refused");
            let message = "its file is gone, but other documents need it: it stays in force".to_owned();
            self.events.add(self.clock.now(), "removal_refused", name.to_owned(), message);
        }
        self.documents.removal_refused.insert(name.to_owned(), errors);
    }

    fn blame(&self, errors: &[FieldError], candidates: &BTreeSet<String>) -> BTreeSet<String> {
        let named = |file: &&String| {
            let name = self.documents.waiting.get(*file).map(|c| c.document.name());
            errors.iter().any(|e| Some(e.document.as_str()) == name)
        };
        candidates.iter().filter(named).cloned().collect()
    }

    fn check_with(
        &self,
        files: &BTreeSet<String>,
        removed: &BTreeSet<String>,
    ) -> Result<Accepted, Vec<FieldError>> {
        let mut held = self.documents.held.clone();
        let mut replaced = BTreeMap::new();
        held.retain(|name, _| !removed.contains(name));
        for (file, candidate) in self.documents.waiting.iter().filter(|(file, _)| files.contains(*file)) {
            let document = &candidate.document;
            held.insert(document.name().to_owned(), Arc::clone(document));
            let kept =
                Kept { generation: document.generation(), file: file.clone(), text: candidate.text.clone() };
            replaced.insert(document.name().to_owned(), kept);
        }
        let desired = check_set(held.values().map(Arc::as_ref))?;
        Ok(Accepted { held, desired, replaced, removed: removed.clone() })
    }

    /// Durable, then in force, then carried out.
    fn accept(&mut self, accepted: Accepted, files: &BTreeSet<String>) {
        let seen_us = files.iter().filter_map(|f| self.documents.waiting.get(f)).map(|c| c.seen_us).min();
        if !self.make_durable(accepted, seen_us) {
            return;
        }
        for file in files {
            self.documents.waiting.remove(file);
            self.documents.refused.remove(file);
        }
    }

    /// Commits, takes over and carries out an accepted set; `false` if the ledger refused.
    pub(crate) fn make_durable(&mut self, accepted: Accepted, seen_us: Option<u64>) -> bool {
        let started = self.clock.now();
        let seen_us = seen_us.unwrap_or(started.mono_us);
        if let Err(error) = self.ledger.commit_documents(&accepted.replaced, &accepted.removed) {
            self.ledger_failed(&error.to_string());
            return false;
        }
        self.ledger_works();
        let durable = self.clock.now();
        self.documents.held = accepted.held;
        self.desired = accepted.desired;
        self.rows.documents_changed();
        for name in &accepted.removed {
            self.documents.removals.remove(name);
            self.observed_generations.remove(name);
        }
        let steps = self.reconcile();
        let applied = self.clock.now();
        for (name, kept) in &accepted.replaced {
            self.counts.add("documents_applied");
            let values = [
                ("generation", kept.generation),
                ("steps", u64::try_from(steps).unwrap_or(u64::MAX)),
                ("seen_to_durable_us", durable.mono_us.saturating_sub(seen_us)),
                ("seen_to_applied_us", applied.mono_us.saturating_sub(seen_us)),
                ("applied_at_us", applied.wall_us),
            ];
            let message = format!("generation {} is in force", kept.generation);
            self.events.add_with(applied, "document_applied", name.clone(), message, &values);
        }
        for name in &accepted.removed {
            self.counts.add("documents_removed");
            self.events.add(applied, "document_removed", name.clone(), "removed".to_owned());
        }
        true
    }

    /// Forgets what a source said of a document that came or went over the API.
    pub(crate) fn forget_file(&mut self, file: &str, there: bool) {
        self.file_gone(file);
        if there {
            self.documents.files.insert(file.to_owned());
        }
    }
}

fn whole(message: String) -> ItemError {
    ItemError { item: String::new(), message, retry: false }
}
