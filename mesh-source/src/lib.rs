//! Where resources come from: a [`Directory`] of Kubernetes YAML that is watched, or the API of a cluster
//! ([`kubernetes`], behind the feature of that name); and, behind the feature `keys`, what resources say is elsewhere.
//!
//! Both tell of what they hold by [`Changes`]: first everything that exists, then what becomes different. Whoever wants
//! a directory as a whole takes a [`Loaded`] instead, which is published every time its content changes.
//!
//! Invariants: what is published is whole (never half a save, never some files of a `ConfigMap` before and some after
//! its update), and what cannot be read now stays in force as it was last read.
#![forbid(unsafe_code)]

pub use self::changes::{About, Change, Changes};
pub use self::diff::DirectoryFeed;
pub use self::directory::{Directory, Loaded, SourceError};
pub use self::remarks::Remarks;

mod changes;
mod diff;
mod directory;
mod file;
#[cfg(feature = "keys")]
pub mod keys;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
mod remarks;
mod scan;
