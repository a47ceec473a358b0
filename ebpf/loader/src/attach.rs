//! Links: one pinned link per interface, its program replaced in place.

use crate::error::{Error, Result};
use crate::kernel::ifaces;
use crate::types::AttachMode;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use std::fs;
use std::io;
use std::path::Path;

fn mode(mode: AttachMode) -> XdpMode {
    match mode {
        AttachMode::Native => XdpMode::Driver,
        AttachMode::Generic => XdpMode::Skb,
    }
}

/// Attaches `program` to `iface`, through the link pinned in `links` when that is of this interface. Returns
/// whether it was.
pub(crate) fn attach(program: &mut Xdp, links: &Path, iface: &str, how: AttachMode) -> Result<bool> {
    let known = ifaces::iface(iface)?;
    let pin = links.join(format!("{}-{iface}", known.ifindex));
    drop_stale(links, iface, &pin)?;
    let other =
        |e: Box<dyn std::error::Error + Send + Sync>| Error::Attach { iface: iface.to_string(), source: e };
    if pin.exists() {
        let pinned = PinnedLink::from_pin(&pin).map_err(|e| other(e.into()))?;
        let link = XdpLink::try_from(FdLink::from(pinned)).map_err(|e| other(e.into()))?;
        match program.attach_to_link(link) {
            Ok(id) => {
                // The pin keeps the link; dropping our handle to it leaves it attached.
                drop(program.take_link(id).map_err(|e| other(e.into()))?);
                return Ok(true);
            }
            // The device behind the link is gone (ENOLINK), another has its index: start over.
            Err(e) if errno(&e) == Some(libc::ENOLINK) => remove(&pin)?,
            Err(e) => return Err(other(e.into())),
        }
    }
    let id = program.attach_to_if_index(known.ifindex, mode(how)).map_err(|e| refused(e, iface, how))?;
    let link = program.take_link(id).map_err(|e| other(e.into()))?;
    let link = FdLink::try_from(link).map_err(|e| other(e.into()))?;
    link.pin(&pin).map_err(|e| other(e.into()))?;
    Ok(false)
}

/// Links of the same interface name with another index are of a device that is gone.
fn drop_stale(links: &Path, iface: &str, keep: &Path) -> Result<()> {
    let fail = |source: io::Error| Error::Unpin { path: links.to_path_buf(), source };
    for entry in fs::read_dir(links).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.split_once('-')).map(|(_, n)| n);
        if name == Some(iface) && path != keep {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(|source| Error::Unpin { path: path.to_path_buf(), source })
}

fn errno(e: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut at = Some(e);
    while let Some(e) = at {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        at = e.source();
    }
    None
}

fn refused(e: ProgramError, iface: &str, how: AttachMode) -> Error {
    let iface = iface.to_string();
    match errno(&e) {
        Some(n @ (libc::EBUSY | libc::EEXIST)) => {
            Error::Busy { iface, source: io::Error::from_raw_os_error(n) }
        }
        Some(n @ (libc::EOPNOTSUPP | libc::EINVAL)) if how == AttachMode::Native => {
            Error::NativeUnsupported { iface, source: io::Error::from_raw_os_error(n) }
        }
        _ => Error::Attach { iface, source: Box::new(e) },
    }
}
