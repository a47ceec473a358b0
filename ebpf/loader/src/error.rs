//! What can go wrong, named after the operation that failed.

use std::io;
use std::path::PathBuf;

/// Error of the loader. Nothing here is worth retrying without a change outside, except [`Error::Busy`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pin directory could not be made or mounted.
    #[error("cannot prepare {path} as a bpffs: {source}")]
    PinDir {
        /// The directory.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Pinned maps were made by another version.
    #[error(
        "pinned maps in {path} are not ours to adopt: {why}; detach_and_unpin with the version that made them, or remove the directory's pins"
    )]
    Layout {
        /// The pin directory.
        path: PathBuf,
        /// What differs.
        why: String,
    },
    /// The kernel refused to load a program or to make its maps.
    #[error("cannot load {program}: {source}")]
    Load {
        /// Program or object.
        program: &'static str,
        /// Cause, with the verifier's log if it was the verifier.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No such interface here.
    #[error("no interface {0} in this network namespace")]
    NoInterface(String),
    /// The driver has no native XDP.
    #[error("the driver of {iface} cannot run XDP natively ({source}); generic mode must be asked for")]
    NativeUnsupported {
        /// Interface.
        iface: String,
        /// Cause.
        source: io::Error,
    },
    /// Another XDP program is attached.
    #[error("another XDP program is attached to {iface}: {source}")]
    Busy {
        /// Interface.
        iface: String,
        /// Cause.
        source: io::Error,
    },
    /// Attaching failed otherwise.
    #[error("cannot attach to {iface}: {source}")]
    Attach {
        /// Interface.
        iface: String,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Reading or writing a map failed.
    #[error("cannot {operation} map {map}: {source}")]
    Map {
        /// `open`, `read`, `write`, `map into memory`, ...
        operation: &'static str,
        /// Name of the map.
        map: &'static str,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A table is full.
    #[error("{what} table is full: {limit} at most")]
    Full {
        /// Which.
        what: &'static str,
        /// Its size.
        limit: u32,
    },
    /// A value the tables cannot hold.
    #[error("{what} is out of range: {value}")]
    OutOfRange {
        /// Which.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// No such VIP.
    #[error("no VIP {0}")]
    NoVip(crate::VipKey),
    /// The kernel answered about an interface with an error.
    #[error("cannot read {what} of interface {iface}: {source}")]
    Interface {
        /// What was asked.
        what: &'static str,
        /// Interface.
        iface: String,
        /// Cause.
        source: io::Error,
    },
    /// Removing pins or mounts failed.
    #[error("cannot remove {path}: {source}")]
    Unpin {
        /// Path.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

pub(crate) fn map_error<E>(operation: &'static str, map: &'static str) -> impl FnOnce(E) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| Error::Map { operation, map, source: Box::new(source) }
}
