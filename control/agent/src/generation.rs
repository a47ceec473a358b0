//! The generation rule: which version of a document wins.

use sluice_api::check::CheckedDocument;

/// What to do with a version that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not held before.
    Create,
    /// Newer: validate with the others, make durable, publish.
    Replace,
    /// Same generation, same content: nothing to do.
    Same,
}

/// Why a version is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Older than the one held.
    #[error("generation {arrived} is older than {held}, which is in force")]
    Older {
        /// Generation in force.
        held: u64,
        /// Generation that arrived.
        arrived: u64,
    },
    /// Same number, other content.
    #[error("generation {held} is in force with other content; a change needs a newer generation")]
    OtherContent {
        /// Generation in force.
        held: u64,
    },
}

/// Judges a version against the one held.
///
/// # Errors
/// Why it is refused.
pub fn judge(held: Option<&CheckedDocument>, arrived: &CheckedDocument) -> Result<Verdict, Refused> {
    let Some(held) = held else { return Ok(Verdict::Create) };
    let (old, new) = (held.generation(), arrived.generation());
    if new < old {
        return Err(Refused::Older { held: old, arrived: new });
    }
    if new > old {
        return Ok(Verdict::Replace);
    }
    if held.same_content(arrived) { Ok(Verdict::Same) } else { Err(Refused::OtherContent { held: old }) }
}
