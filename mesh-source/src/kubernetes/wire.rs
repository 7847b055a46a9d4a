//! What an API server sends, as far as it is not an object of the mesh.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

/// A page of a list. Items stay text: each is read, and may be wrong, on its own.
#[derive(Debug, Deserialize)]
pub(super) struct Page<'a> {
    #[serde(default)]
    pub(super) metadata: PageMeta,
    #[serde(borrow, default)]
    pub(super) items: Option<Vec<&'a RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMeta {
    /// Where a watch begins that misses nothing after this list.
    #[serde(default)]
    pub(super) resource_version: String,
    /// Asks for the next page; empty on the last.
    #[serde(default, rename = "continue")]
    pub(super) next: String,
}

/// A line of a watch.
#[derive(Debug, Deserialize)]
pub(super) struct Event<'a> {
    #[serde(rename = "type")]
    pub(super) sort: EventType,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// What can be said of an object before it is read.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub(super) metadata: HeaderMeta,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HeaderMeta {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: String,
    /// Differs between any two versions of an object. Nothing else may be read from it.
    #[serde(default)]
    pub(super) resource_version: String,
}

/// The versions that the cluster has of each group.
#[derive(Debug, Deserialize)]
pub(super) struct Groups {
    #[serde(default)]
    pub(super) groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Group {
    pub(super) name: String,
    #[serde(default)]
    pub(super) versions: Vec<GroupVersion>,
}

#[derive(Debug, Deserialize)]
pub(super) struct GroupVersion {
    pub(super) version: String,
}

/// The kinds of a version of a group.
#[derive(Debug, Deserialize)]
pub(super) struct Resources {
    #[serde(default)]
    pub(super) resources: Vec<Resource>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Resource {
    /// The plural, as it stands in paths; with a `/` for what is part of another resource.
    pub(super) name: String,
    pub(super) kind: String,
    #[serde(default)]
    pub(super) verbs: Vec<String>,
}

/// Kubernetes' answer in place of what was asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    #[serde(default)]
    pub(super) code: u16,
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) message: String,
    #[serde(default)]
    pub(super) details: Option<StatusDetails>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusDetails {
    #[serde(default)]
    pub(super) retry_after_seconds: u64,
}

/// Why something could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server says no.
    Refused { code: u16, reason: String, message: String, retry_after: Option<Duration> },
    /// There is no server, or the connection broke.
    Unreachable(String),
    /// Nothing came in time.
    Silent,
    /// What came is not what was asked for.
    Malformed(String),
}

impl Failure {
    pub(super) fn malformed(error: impl fmt::Display) -> Self {
        Self::Malformed(error.to_string())
    }

    /// Whether the place from which to watch, or to go on with a list, is no longer known to the server.
    pub(super) fn is_expired(&self) -> bool {
        matches!(self, Self::Refused { code: 410, .. })
    }

    /// Whether there is nothing of this name.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// How long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let seconds = status.details.unwrap_or_default().retry_after_seconds;
        Self::Refused {
            code: status.code,
            reason: status.reason,
            message: status.message,
            retry_after: (seconds > 0).then(|| Duration::from_secs(seconds)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, reason, message, .. } => write!(f, "{code} {reason}: {message}"),
            Self::Unreachable(why) => f.write_str(why),
            Self::Silent => f.write_str("no answer in time"),
            Self::Malformed(what) => write!(f, "an answer that makes no sense: {what}"),
        }
    }
}
