//! ListenerSet: listeners that others than the owner of a Gateway add to it.

use serde::Deserialize;

use super::gateway::Listener;
use super::reference::ListenerParent;

/// `ListenerSet.spec`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerSetSpec {
    /// The Gateway.
    pub parent_ref: ListenerParent,
    /// 1 to 64, no name twice, no port, protocol and host twice.
    pub listeners: Vec<Listener>,
}
