//! Work inside a named network namespace: a thread of its own enters it, so no other thread ever changes.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where `ip netns` keeps names.
pub const NETNS_DIR: &str = "/run/netns";

/// What can go wrong in or on the way to a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The namespace does not exist or may not be entered.
    #[error("cannot enter the network namespace {name}: {source}")]
    Enter {
        /// Its name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// `ip` could not be started.
    #[error("cannot run {program}: {source}")]
    Spawn {
        /// Program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// The command said no.
    #[error("`{command}` failed: {stderr}")]
    Command {
        /// What was run.
        command: String,
        /// What it wrote.
        stderr: String,
    },
    /// A kernel setting could not be written.
    #[error("cannot set {key} in {name}: {source}")]
    Sysctl {
        /// Namespace.
        name: String,
        /// Setting.
        key: String,
        /// Why.
        source: std::io::Error,
    },
    /// The closure's thread died.
    #[error("the thread in namespace {0} panicked")]
    Panicked(String),
}

/// Runs `work` on a thread that has entered the namespace `name`.
pub fn in_netns<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let path = PathBuf::from(NETNS_DIR).join(name);
    let enter = |source| NetnsError::Enter { name: name.to_owned(), source };
    let file = File::open(path).map_err(enter)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(file.as_fd(), kind).map_err(|e| enter(e.into()))?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|_| Err(NetnsError::Panicked(name.to_owned())))
    })
}

/// Names of the namespaces that start with `prefix`, sorted.
pub fn names_with_prefix(prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NETNS_DIR) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|n| n.starts_with(prefix))
        .collect();
    names.sort();
    names
}

/// Runs lines through one `ip -batch -`, inside `netns` if given. Any refused line fails the whole.
pub fn ip_batch(netns: Option<&str>, lines: &str) -> Result<(), NetnsError> {
    let mut command = Command::new("ip");
    if let Some(name) = netns {
        command.args(["-n", name]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let spawn = |source| NetnsError::Spawn { program: "ip (iproute2)".into(), source };
    let mut child = command.spawn().map_err(spawn)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes()).map_err(spawn)?;
    }
    let output = child.wait_with_output().map_err(spawn)?;
    finish(&format!("ip {}-batch", netns.map(|n| format!("-n {n} ")).unwrap_or_default()), &output)
}

/// Runs a command to its end, inside `netns` if given; its standard output.
pub fn run(netns: Option<&str>, program: &str, args: &[&str]) -> Result<String, NetnsError> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let spawn = |source| NetnsError::Spawn { program: program.to_owned(), source };
    let output = match netns {
        Some(name) => in_netns(name, || command.output())?.map_err(spawn)?,
        None => command.output().map_err(spawn)?,
    };
    finish(&format!("{program} {}", args.join(" ")), &output)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn finish(command: &str, output: &std::process::Output) -> Result<(), NetnsError> {
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(NetnsError::Command { command: command.to_owned(), stderr })
}

/// Path below `/proc/sys` of a setting's dotted name.
pub fn sysctl_path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key.replace('.', "/"))
}

/// Writes kernel settings inside `netns`.
pub fn set_sysctls(netns: &str, settings: &[(&str, &str)]) -> Result<(), NetnsError> {
    in_netns(netns, || {
        for (key, value) in settings {
            std::fs::write(sysctl_path(key), value).map_err(|source| NetnsError::Sysctl {
                name: netns.to_owned(),
                key: (*key).to_owned(),
                source,
            })?;
        }
        Ok(())
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_exist_is_an_error_not_the_own_namespace() {
        let error = in_netns("sluice-no-such-namespace", || 1).unwrap_err();
        assert!(matches!(error, NetnsError::Enter { .. }), "{error}");
    }
}
