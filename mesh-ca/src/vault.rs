//! Where a CA keeps what must survive: a handful of small named entries in one place.
//!
//! A vault is read as a whole and changed by a list of puts and removals. The list is applied in its order, and a crash
//! may leave any beginning of it applied; whoever makes such a list orders it so that each beginning makes sense. The
//! change is refused if the vault is no longer what its maker has seen, so that two of them never mix.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

mod file;

pub use file::FileVault;

/// What a vault answers with: some of them ask another machine.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, VaultError>> + Send + 'a>>;

/// A place that keeps entries.
pub trait Vault: Send + Sync {
    /// All entries as of one moment.
    fn read(&self) -> Pending<'_, Contents>;

    /// Applies `changes` to a vault that still is what `base` says, else fails with [`VaultError::Conflict`]. Everything
    /// is on stable storage when it returns.
    fn write<'a>(&'a self, base: &'a Contents, changes: &'a [Change]) -> Pending<'a, ()>;
}

/// The entries of a vault as of one moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    place: String,
    version: String,
    entries: BTreeMap<String, Vec<u8>>,
}

impl Contents {
    /// Entries kept at `place`, whose name with an entry's name behind it tells people where to look. `version` is for
    /// the vault alone: it finds its own note there when the contents come back as the base of a change.
    pub fn new(place: String, version: String, entries: BTreeMap<String, Vec<u8>>) -> Self {
        Self { place, version, entries }
    }

    /// What is kept under `name`.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.entries.get(name).map(Vec::as_slice)
    }

    /// All entries by name.
    pub fn entries(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.entries
    }

    /// Where the entry `name` is kept, for people.
    pub fn place_of(&self, name: &str) -> String {
        format!("{}{name}", self.place)
    }

    /// The vault's own note.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// These contents after `changes`.
    #[must_use]
    pub fn with(&self, changes: &[Change]) -> Self {
        let mut after = self.clone();
        for change in changes {
            match &change.data {
                Some(data) => after.entries.insert(change.name.clone(), data.clone()),
                None => after.entries.remove(&change.name),
            };
        }
        after
    }
}

impl fmt::Debug for Contents {
    /// Names alone: some entries are keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents")
            .field("place", &self.place)
            .field("entries", &self.entries.keys())
            .finish_non_exhaustive()
    }
}

/// One step of a change.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    name: String,
    data: Option<Vec<u8>>,
}

impl Change {
    /// Keeps `data` under `name`, in place of whatever was there.
    pub fn put(name: &str, data: impl Into<Vec<u8>>) -> Self {
        Self { name: name.to_owned(), data: Some(data.into()) }
    }

    /// Removes the entry `name`, if there is one.
    pub fn remove(name: &str) -> Self {
        Self { name: name.to_owned(), data: None }
    }

    /// Which entry changes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it becomes; `None` if it goes away.
    pub fn data(&self) -> Option<&[u8]> {
        self.data.as_deref()
    }
}

impl fmt::Debug for Change {
    /// Without the data, which may be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.data.is_some() { "put" } else { "remove" };
        write!(f, "{what} {}", self.name)
    }
}

/// Why a vault could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// A file cannot be read or written.
    #[error("{place}: {source}")]
    Io {
        /// The file or directory.
        place: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// An entry is larger than [`MAX_ENTRY`].
    #[error("{place}: it is larger than {MAX_ENTRY} bytes")]
    TooLarge {
        /// The entry.
        place: String,
    },
    /// Somebody else holds the vault's lock and does not let go of it.
    #[error("{place}: another process is changing it")]
    Busy {
        /// The vault.
        place: String,
    },
    /// Somebody else has changed the vault since it was read.
    #[error("{place}: it has been changed by somebody else in the meantime")]
    Conflict {
        /// The vault.
        place: String,
    },
    /// Whatever keeps a vault elsewhere has to say.
    #[error("{place}: {reason}")]
    Elsewhere {
        /// The vault.
        place: String,
        /// What went wrong.
        reason: String,
    },
}

impl VaultError {
    /// Stable token for metrics and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "ca_io",
            Self::TooLarge { .. } => "ca_file_malformed",
            Self::Busy { .. } => "ca_busy",
            Self::Conflict { .. } => "ca_conflict",
            Self::Elsewhere { .. } => "ca_vault_unavailable",
        }
    }
}

/// Bytes of one entry at most: a bundle of some hundred roots, a list of some ten thousand revocations, and as much as
/// a Kubernetes Secret takes.
pub const MAX_ENTRY: u64 = 1 << 20;

#[cfg(test)]
mod tests;
