//! From a source to the shelf: changes are compiled as they come, those that have piled up together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::model::{CompileOptions, World};
use mesh_core::resource::Finding;
use mesh_source::{About, Change, Changes};

use crate::hub::Hub;

/// What there is to say about the resources.
#[derive(Debug, Default)]
pub struct Findings(Mutex<BTreeSet<String>>);

impl Findings {
    /// One line each, in order.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Says what is new, and what is mended.
    fn replace(&self, findings: BTreeSet<String>) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for finding in findings.difference(&now) {
            tracing::warn!(target: "config", "{finding}");
        }
        for finding in now.difference(&findings) {
            tracing::info!(target: "config", "Mended: {finding}");
        }
        *now = findings;
    }
}

/// Hears of what comes from a source, and of what was found in it.
pub trait Observe: Send {
    /// These changes are about to be compiled.
    fn saw(&mut self, batch: &[Change]);

    /// All that was seen is compiled, and this is everything there is to say about the resources.
    fn compiled(&mut self, findings: &mut dyn Iterator<Item = &Finding>);
}

/// Compiles what `changes` bring into `hub`, until the source ends.
pub async fn run(
    mut changes: Changes,
    options: CompileOptions,
    (hub, findings): (Arc<Hub>, Arc<Findings>),
    observer: Option<Box<dyn Observe>>,
) {
    let mut feed = Some(Feed { world: World::new(options), told: BTreeMap::new(), observer });
    while let Some(mut batch) = changes.next().await {
        while let Some(more) = changes.next_waiting().filter(|_| batch.len() < MAX_BATCH) {
            batch.extend(more);
        }
        let Some(mut state) = feed.take() else { return };
        let (hub, findings) = (Arc::clone(&hub), Arc::clone(&findings));
        // Compiling a mesh for the first time takes a second; subscribers are served meanwhile.
        let compiled = tokio::task::spawn_blocking(move || {
            state.take(batch, &hub, &findings);
            state
        });
        match compiled.await {
            Ok(state) => feed = Some(state),
            Err(error) => {
                // What was published stays in force, but nothing new would ever come: a new process starts clean.
                tracing::error!(%error, "Compiling failed.");
                std::process::exit(1);
            }
        }
    }
}

struct Feed {
    world: World,
    /// What the source has to say.
    told: BTreeMap<About, Vec<Finding>>,
    observer: Option<Box<dyn Observe>>,
}

impl Feed {
    fn take(&mut self, batch: Vec<Change>, hub: &Hub, findings: &Findings) {
        let mut synced = false;
        if let Some(observer) = &mut self.observer {
            observer.saw(&batch);
        }
        for change in batch {
            match change {
                Change::Apply(object) => self.world.upsert(&object),
                Change::Delete(key) => self.world.remove(&key),
                Change::Findings(about, list) if list.is_empty() => drop(self.told.remove(&about)),
                Change::Findings(about, list) => drop(self.told.insert(about, list)),
                Change::Synced => synced = true,
            }
        }
        let news = self.world.commit();
        hub.publish_with(news, self.world.take_reaches());
        let compiled = self.world.findings();
        let all = || self.told.values().flatten().chain(&compiled);
        if let Some(observer) = &mut self.observer {
            observer.compiled(&mut all());
        }
        findings.replace(all().map(ToString::to_string).collect());
        if synced {
            tracing::info!(
                sequence = hub.shelf().sequence(),
                "Everything that exists was read and compiled."
            );
            hub.set_ready();
        }
    }
}

/// Changes compiled at once: enough that a flood is no more work than its last state, few enough that subscribers hear
/// of the first within moments.
const MAX_BATCH: usize = 10_000;
