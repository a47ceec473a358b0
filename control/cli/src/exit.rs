//! How a command ends: the promised exit codes and the errors that lead to them.

use crate::client::ClientError;
use std::process::ExitCode;

/// Done.
pub const OK: u8 = 0;
/// Failed.
pub const FAILED: u8 = 1;
/// Wrong usage.
pub const USAGE: u8 = 2;
/// The document or the request was refused; nothing was changed.
pub const REFUSED: u8 = 3;
/// No agent behind the socket.
pub const UNREACHABLE: u8 = 4;
/// Not converged or not finished in the time given.
pub const NOT_CONVERGED: u8 = 5;

/// An error with its exit code.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The agent's side.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The document cannot even be read as one.
    #[error("{0}")]
    Invalid(String),
    /// Wrong usage that clap cannot see.
    #[error("{0}")]
    Usage(String),
    /// Waited in vain.
    #[error("{0}")]
    NotConverged(String),
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl CommandError {
    /// The exit code this error ends in.
    pub fn code(&self) -> u8 {
        match self {
            CommandError::Client(ClientError::Refused(p)) if p.status >= 500 => FAILED,
            CommandError::Client(ClientError::Refused(_)) | CommandError::Invalid(_) => REFUSED,
            CommandError::Client(ClientError::Shape { .. }) => FAILED,
            CommandError::Client(_) => UNREACHABLE,
            CommandError::Usage(_) => USAGE,
            CommandError::NotConverged(_) => NOT_CONVERGED,
            CommandError::Other(_) => FAILED,
        }
    }

    /// As a process ends.
    pub fn exit(&self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

/// What most commands end in.
pub type CommandResult = Result<u8, CommandError>;

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_api::rest::Problem;

    #[test]
    fn codes_are_as_promised_in_help() {
        let refused = |status| {
            CommandError::Client(ClientError::Refused(Problem { status, ..Problem::default() })).code()
        };
        assert_eq!(refused(422), REFUSED);
        assert_eq!(refused(409), REFUSED);
        assert_eq!(refused(503), FAILED);
        let gone = ClientError::Connect { path: "x".into(), source: std::io::ErrorKind::NotFound.into() };
        assert_eq!(CommandError::Client(gone).code(), UNREACHABLE);
        assert_eq!(CommandError::NotConverged(String::new()).code(), NOT_CONVERGED);
    }
}
