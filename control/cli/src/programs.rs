//! Programs beside this one that a subcommand turns into.

use crate::exit::{CommandError, CommandResult};
use crate::lab::process::sibling;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;

/// Becomes `name`, found beside this program. Returns only if that fails.
pub fn become_sibling(name: &str, args: &[OsString]) -> CommandResult {
    let path = sibling(name)?;
    let error = std::process::Command::new(&path).args(args).exec();
    Err(CommandError::Other(anyhow::Error::new(error).context(format!("start {}", path.display()))))
}
