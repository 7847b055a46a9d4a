//! Where resources come from. A [`Directory`] of Kubernetes YAML is watched, and every time its content changes a
//! complete [`Loaded`] is published: all objects, and everything there is to say about the files.
//!
//! Invariants: what is published is whole (never half a save, never some files of a `ConfigMap` before and some after
//! its update), and what cannot be read now stays in force as it was last read.
#![forbid(unsafe_code)]

pub use self::directory::{Directory, Loaded, SourceError};

mod directory;
mod file;
mod scan;
