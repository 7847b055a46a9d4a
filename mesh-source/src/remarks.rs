//! What there is to say about resources, one line each: what a source says, and what compiling shows.
//!
//! Lines cost what the findings of a whole mesh cost, so they are made anew only when one of the two has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::model::World;
use mesh_core::resource::Finding;

use crate::changes::About;

/// Everything there is to say, kept from commit to commit.
#[derive(Debug, Default)]
pub struct Remarks {
    told: BTreeMap<About, Vec<Finding>>,
    compiled: Vec<Finding>,
    /// Of the world's findings, when `compiled` was read.
    version: u64,
    /// Whether `lines` is out of date.
    stale: bool,
    lines: Arc<BTreeSet<String>>,
}

impl Remarks {
    /// What a source has to say from now on about one thing.
    pub fn set(&mut self, about: About, findings: Vec<Finding>) {
        let before = self.told.get(&about).map(Vec::as_slice).unwrap_or_default();
        if before == findings {
            return;
        }
        self.stale = true;
        if findings.is_empty() {
            self.told.remove(&about);
        } else {
            self.told.insert(about, findings);
        }
    }

    /// Takes over what compiling shows now, and logs what is new and what is mended.
    pub fn update(&mut self, world: &World) {
        if self.version != world.findings_version() {
            self.version = world.findings_version();
            self.compiled = world.findings();
            self.stale = true;
        }
        if std::mem::take(&mut self.stale) {
            let now = Arc::new(self.iter().map(ToString::to_string).collect());
            log(&self.lines, &now);
            self.lines = now;
        }
    }

    /// Everything, as of the last update.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.told.values().flatten().chain(&self.compiled)
    }

    /// One line for each, in order, as of the last update. The same `Arc` as long as nothing has changed.
    pub fn lines(&self) -> &Arc<BTreeSet<String>> {
        &self.lines
    }
}

fn log(before: &BTreeSet<String>, now: &BTreeSet<String>) {
    for line in now.difference(before) {
        tracing::warn!(target: "config", "{line}");
    }
    for line in before.difference(now) {
        tracing::info!(target: "config", "Mended: {line}");
    }
}

#[cfg(test)]
mod tests;
