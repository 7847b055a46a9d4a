//! Why a test bed could not do what it was asked.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that can go wrong with a test bed. The text is meant for a person at a terminal.
#[derive(Debug, thiserror::Error)]
pub enum BedError {
    /// The machine lacks something that a bed needs.
    #[error("the test bed cannot run here: {0}")]
    Environment(String),
    /// A name that cannot be used for a bed.
    #[error("{name:?} cannot name a test bed: {reason}")]
    Name {
        /// As given.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// A bed of that name runs already.
    #[error("the test bed {name:?} is up already (process {pid}); end it with `testbed down --name {name}`")]
    Taken {
        /// The bed's name.
        name: String,
        /// Its supervisor.
        pid: u32,
    },
    /// No bed of that name runs.
    #[error("no test bed {0:?} is up; start one with `testbed up DIR`")]
    NotUp(String),
    /// A file could not be read, written or removed, or a system call failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was attempted, for example `read /run/x`.
        what: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A tool of the system failed.
    #[error("`{command}` failed: {output}")]
    Tool {
        /// The command with its arguments.
        command: String,
        /// What it said.
        output: String,
    },
    /// Something was named that does not exist, or a prefix fits several.
    #[error("{what} {name:?} {reason}")]
    Unknown {
        /// For example `pod`.
        what: &'static str,
        /// As given.
        name: String,
        /// Why it is not known.
        reason: String,
    },
    /// Something that should have happened did not happen in time.
    #[error("{what} did not happen within {within:?}: {state}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
        /// How things stood at the end.
        state: String,
    },
    /// A part of the bed failed for good.
    #[error("{what} failed: {reason} (log: {})", .log.display())]
    Failed {
        /// For example `mesh-node of node-1`.
        what: String,
        /// The last thing that is known.
        reason: String,
        /// Where to read more.
        log: PathBuf,
    },
}

/// Results of this library.
pub type Result<T, E = BedError> = std::result::Result<T, E>;

/// Adds to an I/O error what was being done.
pub(crate) trait Doing<T> {
    /// `what` completes the sentence "cannot …".
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;

    /// As [`Doing::doing`], for one path.
    fn at(self, verb: &str, path: &Path) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| BedError::Io { what: what(), source })
    }

    fn at(self, verb: &str, path: &Path) -> Result<T> {
        self.doing(|| format!("{verb} {}", path.display()))
    }
}
