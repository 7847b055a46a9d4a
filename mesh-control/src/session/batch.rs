//! One response in the making.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use mesh_proto::names::{self, ResourceType};

use super::View;
use crate::shelf::{Entry, Shelf};

/// What goes into one response.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) resources: Vec<Bytes>,
    /// Their names.
    pub(super) names: Vec<Arc<str>>,
    pub(super) bytes: usize,
    pub(super) removed: Vec<String>,
    /// More of the same follows.
    pub(super) partial: bool,
}

impl Batch {
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= MAX_BATCH
    }

    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.removed.is_empty()
    }

    pub(super) fn tell(&mut self, name: &Arc<str>, bytes: Bytes) {
        self.bytes += bytes.len();
        self.resources.push(bytes);
        self.names.push(Arc::clone(name));
    }

    /// Answers a request by name, or by address (`network/ip`), and returns its name in that case. That there is
    /// nothing is an answer as well.
    pub(super) fn answer(
        &mut self,
        name: &str,
        shelf: &Shelf,
        kind: ResourceType,
        view: &View,
    ) -> Option<Arc<str>> {
        let store = shelf.store(kind);
        // Whoever asks for something by name or address is told, whether it is in view or not.
        let visible = |entry: &&Entry| view.may_ask_for(&entry.record);
        if let Some(entry) = store.get(name).filter(visible) {
            self.tell(&entry.name, entry.bytes.clone());
            return None;
        }
        let address = name.split_once('/').and_then(|(_, text)| text.parse::<IpAddr>().ok());
        let key = address.filter(|_| kind == ResourceType::Address).and_then(|ip| shelf.at(ip));
        let other = key.map(names::name);
        let Some(entry) = other.as_ref().and_then(|other| store.get(other)).filter(visible) else {
            self.removed.push(name.to_owned());
            return None;
        };
        self.tell(&entry.name, mesh_proto::encode::with_alias(&entry.bytes, name));
        other
    }
}

/// Bytes of resources after which a response is sent. A response is in memory several times on its way to the wire, for
/// every subscriber that is told everything at the same time, which are all when a control plane starts.
pub(super) const MAX_BATCH: usize = 128 << 10;
