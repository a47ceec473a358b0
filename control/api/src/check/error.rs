//! Where a document is wrong.

use super::limits::ERRORS_MAX;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A field at fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldError {
    /// Name of the document, empty while it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub document: String,
    /// Path of the field, `vips[0].port`; empty: the document as a whole.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.document.is_empty() {
            write!(f, "document {}: ", self.document)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for FieldError {}

/// Collects errors up to [`ERRORS_MAX`].
pub(super) struct Errors {
    document: String,
    list: Vec<FieldError>,
    left_out: usize,
}

impl Errors {
    pub(super) fn new(document: &str) -> Self {
        // The name itself may be what is wrong: keep what is shown short.
        Self { document: document.chars().take(64).collect(), list: Vec::new(), left_out: 0 }
    }

    pub(super) fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        let document = self.document.clone();
        self.add_in(&document, path, message);
    }

    pub(super) fn add_in(&mut self, document: &str, path: impl Into<String>, message: impl Into<String>) {
        if self.list.len() >= ERRORS_MAX {
            self.left_out += 1;
            return;
        }
        self.list.push(FieldError {
            document: document.to_owned(),
            path: path.into(),
            message: message.into(),
        });
    }

    /// Records the error of a check, if it is one.
    pub(super) fn check(&mut self, path: impl FnOnce() -> String, result: Result<(), String>) {
        if let Err(message) = result {
            self.add(path(), message);
        }
    }

    /// Value of a check, or `None` with the error recorded.
    pub(super) fn take<T>(&mut self, path: impl FnOnce() -> String, result: Result<T, String>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(message) => {
                self.add(path(), message);
                None
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn into_list(mut self) -> Vec<FieldError> {
        if self.left_out > 0 {
            let message = format!("{} more errors are not shown", self.left_out);
            self.list.push(FieldError { document: self.document, path: String::new(), message });
        }
        self.list
    }
}
