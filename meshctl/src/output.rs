//! How commands print what they found.

use clap::ValueEnum;

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs, as the control plane or the cluster says it where it is they who were asked.
    Json,
}
