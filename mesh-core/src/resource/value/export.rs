//! Who sees an object.

use std::sync::Arc;

use super::super::tree::quote;
use super::super::validate::is_dns_label;
use super::{FromText, Refusal, text_value};

/// An entry of `exportTo`. No entry at all means what `MeshConfig` has as its default, everybody if nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExportTo {
    /// `*`.
    All,
    /// `.`: the namespace of the object.
    Own,
    /// `~`: nobody but the workloads that are it. Only for a ServiceEntry.
    Nobody,
    /// One namespace.
    Namespace(Arc<str>),
}

impl FromText for ExportTo {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        match text {
            "*" => Ok(Self::All),
            "." => Ok(Self::Own),
            "~" => Ok(Self::Nobody),
            name if is_dns_label(name) => Ok(Self::Namespace(Arc::from(name))),
            other => {
                let reason = format!("{} is not a namespace", quote(other));
                Err(Refusal::with_hint(reason, "write a namespace, . for this one, or * for all"))
            }
        }
    }
}

text_value!(ExportTo, {"type": "string"});
