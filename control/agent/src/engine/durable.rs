//! What the engine does while its ledger refuses: says so, and tries again.
//!
//! A failed commit changes nothing in memory or on the node. Whatever wanted it stays wanted: documents wait,
//! removals stay due, ids are asked for by the next plan. One timer, later with each failure, opens the ledger
//! again and takes all of them along.

use super::Engine;
use super::reconcile::rows_digest;
use crate::host::Host;
use sluice_api::status::ItemError;

impl<H: Host> Engine<H> {
    /// A commit failed.
    pub(crate) fn ledger_failed(&mut self, message: &str) {
        let now = self.clock.now();
        self.counts.add("ledger_errors");
        self.timers.after_ledger_failed(now);
        let error = ItemError { item: "ledger".to_owned(), message: message.to_owned(), retry: true };
        if self.other_errors.insert("ledger".to_owned(), error).is_none() {
            self.events.add(now, "ledger_failed", "ledger", message.to_owned());
        }
    }

    /// A commit succeeded.
    pub(crate) fn ledger_works(&mut self) {
        self.timers.after_ledger_works();
        if self.other_errors.remove("ledger").is_some() {
            let message = "the ledger takes commits again".to_owned();
            self.events.add(self.clock.now(), "ledger_works", "ledger", message);
        }
    }

    /// Opens the ledger again and commits what waits for it.
    pub(crate) fn retry_ledger(&mut self) {
        self.timers.ledger_retried();
        self.counts.add("ledger_retries");
        if let Err(error) = self.ledger.mend() {
            return self.ledger_failed(&error.to_string());
        }
        self.try_waiting();
        self.reconcile();
        self.note_proxy_rows();
        if !self.timers.ledger_fails() {
            self.ledger_works();
        }
    }

    /// Notes the rows the proxy has, so that the next agent need not send them again.
    pub(crate) fn note_proxy_rows(&mut self) {
        let Some(proxy) = &self.observed.proxy else { return };
        let Some(rows) = &proxy.rows else { return };
        let (revision, digest) = (proxy.revision, rows_digest(rows));
        if self.ledger.proxy_rows() == (revision, digest) {
            return;
        }
        if let Err(error) = self.ledger.commit_proxy_rows(revision, digest) {
            self.ledger_failed(&error.to_string());
        }
    }
}
