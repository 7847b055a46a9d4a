//! The process of one whole node, as far as discovery goes: decodes everything, keeps the model, takes a snapshot after
//! each change.
//!
//! Says `synced` on standard output when it has been told everything, and `told NAME` for every resource after that,
//! when it is part of the snapshot.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use anyhow::{Context as _, Result};
use mesh_core::model::{Mirror, RecordKey, Snapshot};
use mesh_proto::{decode::Decoder, discovery::DeltaDiscoveryResponse, names, names::ResourceType};

use super::{serve::say, subscriber::Subscriber};

/// Follows the control plane at `address` until it ends.
pub(super) fn run(address: SocketAddr, name: &str) -> Result<()> {
    // Nodes run on few threads; that this one has a single one changes nothing about its memory.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(follow(address, name))
}

async fn follow(address: SocketAddr, name: &str) -> Result<()> {
    let mut subscriber = Subscriber::open(address, name, Arc::new(AtomicU64::new(0))).await?;
    let mut node = Node::new(name);
    let mut synced = false;
    loop {
        // The control plane ends when the measurement does.
        let Ok(response) = subscriber.next().await else { return Ok(()) };
        let told = node.take(&response)?;
        if !subscriber.accept(&response).await? {
            continue;
        }
        node.publish();
        if synced {
            told.iter().try_for_each(|name| say(&format!("told {name}")))?;
        } else {
            say("synced")?;
        }
        synced = true;
    }
}

/// What a node keeps of what it is told.
pub(super) struct Node {
    decoder: Decoder,
    mirror: Mirror,
    known: HashMap<RecordKey, Arc<str>>,
    /// Connections are decided with it while the next one is made.
    snapshot: Snapshot,
}

impl Node {
    pub(super) fn new(name: &str) -> Self {
        Self {
            decoder: Decoder::new(name),
            mirror: Mirror::new(name),
            known: HashMap::new(),
            snapshot: Snapshot::default(),
        }
    }

    /// Applies a response and returns the names of what it has told.
    pub(super) fn take(&mut self, response: &DeltaDiscoveryResponse) -> Result<Vec<Arc<str>>> {
        let kind = ResourceType::of_url(&response.type_url).context("an unknown type")?;
        let mut told = Vec::with_capacity(response.resources.len());
        for bytes in &response.resources {
            let named = self.decoder.resource(kind, bytes.clone())?;
            let record = named.record?;
            self.known.insert(record.key(), named.version);
            self.mirror.apply(record);
            told.push(named.name);
        }
        for name in &response.removed_resources {
            if let Some(key) = names::key(kind, name).filter(|key| self.known.remove(key).is_some()) {
                self.mirror.remove(&key);
            }
        }
        Ok(told)
    }

    /// Takes the next snapshot.
    pub(super) fn publish(&mut self) {
        self.snapshot = self.mirror.snapshot();
    }
}
