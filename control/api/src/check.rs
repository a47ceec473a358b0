//! From raw documents to a checked desired state.
//!
//! [`parse_document`] looks at one document alone, [`check_set`] at all documents of a node together.
//! Both refuse as a whole and name every field at fault they can find; neither performs I/O or panics,
//! whatever the bytes. The types in [`types`] have private fields: one that exists has been checked.
//!
//! Rules that follow from no single field:
//! * A document file that is cut off is refused. JSON shows it by itself. YAML cut between two lines can be
//!   a valid shorter document, so a YAML document must end with a newline and sources read a file only
//!   after its writer closed or renamed it.
//! * Anchors and aliases are refused: a document says everything in full, so its size bounds its content.
//! * Every backend, member, parent and origin address lies in one of the networks of the set.
//! * A pool, a group and an origin have at least one entry. Taking the last one out is a drain, not an
//!   empty list: an empty answer is never read as "delete all".
//! * A node is a member of at most one group, and the parent relation of groups has no cycle.
//! * A node does not balance a VIP onto itself.

mod document;
mod error;
mod forward;
mod health;
pub mod limits;
mod names;
mod set;
mod text;
pub mod types;

pub use error::FieldError;
pub use set::check_set;
pub use types::{CheckedDocument, Desired};

/// Parses one document, YAML or JSON, and checks everything that can be seen in it alone.
///
/// A document whose first character is `{` is JSON, everything else is YAML.
///
/// # Errors
/// Every field at fault, at most [`limits::ERRORS_MAX`] of them.
pub fn parse_document(bytes: &[u8]) -> Result<CheckedDocument, Vec<FieldError>> {
    let raw = text::parse_raw(bytes).map_err(|error| vec![error])?;
    document::check(raw)
}

/// Checks an already parsed raw document, for programs that make documents themselves.
///
/// # Errors
/// As [`parse_document`].
pub fn check_document(raw: crate::placement::Document) -> Result<CheckedDocument, Vec<FieldError>> {
    document::check(raw)
}

/// Checks of single values, for programs that are handed single rows. Each error says what is wrong.
pub mod value {
    use super::names;
    use std::net::SocketAddr;

    /// Host of a site: lower-case name or address, `*.suffix`, or `*`.
    pub fn site_host(host: &str) -> Result<(), String> {
        names::site_host(host)
    }

    /// Host field sent to an origin.
    pub fn upstream_host(host: &str) -> Result<(), String> {
        names::upstream_host(host)
    }

    /// Prefix of a route.
    pub fn path(path: &str) -> Result<(), String> {
        names::path(path)
    }

    /// Name of an origin, member or other item.
    pub fn name(name: &str) -> Result<(), String> {
        names::name(name)
    }

    /// `address:port` of a host.
    pub fn endpoint(text: &str) -> Result<SocketAddr, String> {
        names::endpoint(text)
    }
}
