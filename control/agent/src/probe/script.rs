//! Programs as health checks: only files of one directory, unprivileged, ended at their timeout.
//!
//! Called as `DIR/NAME ADDRESS PORT` with an empty environment but `PATH`, in a process group of its own. Exit 0
//! is good; 75 (`EX_TEMPFAIL` of sysexits.h) says alive but no new flows; everything else is down. What a program
//! writes is thrown away.

use super::SCRIPTS_MAX;
use crate::health::Outcome;
use rustix::process::{Pid, Signal, kill_process_group};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::Semaphore;

/// User and group `nobody` and `nogroup` of Debian.
const NOBODY: u32 = 65_534;
/// `EX_TEMPFAIL`.
const EX_TEMPFAIL: i32 = 75;
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Where programs are, and how many run.
#[derive(Clone)]
pub struct Scripts {
    dir: Option<PathBuf>,
    places: Arc<Semaphore>,
}

/// Why a directory is no place for programs.
#[derive(Debug, thiserror::Error)]
pub enum ScriptsError {
    /// It cannot be looked at.
    #[error("directory of health scripts {path}: {source}")]
    Look {
        /// Directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others could put programs there.
    #[error(
        "directory of health scripts {0} must belong to root or the agent's user and be writable to nobody else"
    )]
    Open(PathBuf),
}

impl Scripts {
    /// Programs of a directory; none: every `script` check fails and the log says why.
    ///
    /// # Errors
    /// Others may write there.
    pub fn new(dir: Option<&Path>) -> Result<Self, ScriptsError> {
        if let Some(path) = dir {
            let look = |source| ScriptsError::Look { path: path.to_owned(), source };
            let meta = std::fs::metadata(path).map_err(look)?;
            let own = rustix::process::geteuid().as_raw();
            let owner = meta.uid() == 0 || meta.uid() == own;
            if !meta.is_dir() || !owner || meta.permissions().mode() & 0o022 != 0 {
                return Err(ScriptsError::Open(path.to_owned()));
            }
        }
        Ok(Scripts { dir: dir.map(Path::to_owned), places: Arc::new(Semaphore::new(SCRIPTS_MAX)) })
    }

    /// Runs a program; waiting for a place counts as part of its time.
    pub async fn run(&self, name: &str, address: SocketAddr, timeout: Duration) -> Outcome {
        let Some(dir) = &self.dir else {
            tracing::warn!(name, "a script check, and the agent was started without --health-scripts");
            return Outcome::Dead;
        };
        let end = tokio::time::Instant::now() + timeout;
        let Ok(Ok(_place)) = tokio::time::timeout_at(end, self.places.acquire()).await else {
            return Outcome::Dead;
        };
        let mut command = Command::new(dir.join(name));
        command.arg(address.ip().to_string()).arg(address.port().to_string());
        command.env_clear().env("PATH", PATH).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.process_group(0).kill_on_drop(true);
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                tracing::warn!(name, %error, "a health script cannot be started");
                return Outcome::Dead;
            }
        };
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let outcome = match tokio::time::timeout_at(end, child.wait()).await {
            Ok(Ok(status)) => match status.code() {
                Some(0) => Outcome::Good,
                Some(EX_TEMPFAIL) => Outcome::Refusing,
                _ => Outcome::Dead,
            },
            Ok(Err(_)) | Err(_) => Outcome::Dead,
        };
        // Out of time: it ends with all it started. Its leader is not reaped yet, so the number is still its own.
        if child.id().is_some() {
            if let Some(group) = group {
                // It may have ended meanwhile.
                let _ = kill_process_group(group, Signal::KILL);
            }
            drop(child.wait().await);
        }
        outcome
    }
}
