//! From a source to the shelf: changes are compiled as they come, those that have piled up together.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh_core::model::{CompileOptions, World};
use mesh_core::resource::{Finding, ObjectKey};
use mesh_source::{About, Change, Changes, Remarks};
use tokio::sync::mpsc;

use crate::catalog::Catalog;
use crate::hub::Hub;
use crate::keys::Keys;

/// What there is to say about the resources, and the resources themselves for whoever looks at them together.
#[derive(Debug, Default)]
pub struct Findings {
    lines: ArcSwap<BTreeSet<String>>,
    /// The resources.
    pub catalog: Catalog,
}

impl Findings {
    /// One line each, in order.
    pub fn lines(&self) -> Arc<BTreeSet<String>> {
        self.lines.load_full()
    }
}

/// Hears of what comes from a source, and of what was found in it.
pub trait Observe: Send {
    /// These changes are about to be compiled.
    fn saw(&mut self, batch: &[Change]);

    /// All that was seen together has been seen. What this one has to say about it, in place of what it said before.
    fn conclude(&mut self) -> Vec<Finding>;

    /// All that was seen is compiled, and this is everything there is to say about the resources.
    fn compiled(&mut self, findings: &mut dyn Iterator<Item = &Finding>);

    /// These Secrets are needed, whether they exist or not.
    fn needs(&mut self, secrets: BTreeSet<ObjectKey>);
}

/// Compiles what `changes` bring into `hub`, until the source ends. `registered` are machines that no source knows.
pub async fn run(
    mut changes: Changes,
    options: CompileOptions,
    (hub, findings): (Arc<Hub>, Arc<Findings>),
    (observer, mut registered): (Option<Box<dyn Observe>>, mpsc::Receiver<Change>),
) {
    let mut feed = Some(Feed { world: World::new(options), remarks: Remarks::default(), observer });
    let mut keys = Keys::follow(Arc::clone(&hub));
    loop {
        let batch = tokio::select! {
            batch = changes.next() => batch,
            Some(change) = registered.recv() => Some(vec![change]),
            found = keys.next() => {
                let Some(state) = &mut feed else { return };
                if let Some((site, found)) = found {
                    state.world.set_keys(&site, found);
                    hub.publish(state.world.commit());
                }
                settle(&keys, &hub);
                continue;
            }
        };
        let Some(mut batch) = batch else { return };
        while let Some(more) = changes.next_waiting().filter(|_| batch.len() < MAX_BATCH) {
            batch.extend(more);
        }
        let Some(mut state) = feed.take() else { return };
        let (shelf, findings) = (Arc::clone(&hub), Arc::clone(&findings));
        // Compiling a mesh for the first time takes a second; subscribers are served meanwhile.
        let compiled = tokio::task::spawn_blocking(move || {
            let synced = state.take(batch, &shelf, &findings);
            (state, synced)
        });
        match compiled.await {
            Ok((state, synced)) => {
                keys.want(state.world.wanted_keys());
                if synced {
                    keys.synced();
                }
                settle(&keys, &hub);
                feed = Some(state);
            }
            Err(error) => {
                // What was published stays in force, but nothing new would ever come: a new process starts clean.
                tracing::error!(%error, "Compiling failed.");
                std::process::exit(1);
            }
        }
    }
}

/// Subscribers are told everything as soon as everything is there.
fn settle(keys: &Keys, hub: &Hub) {
    if keys.are_settled() && !hub.is_ready() {
        hub.set_ready();
    }
}

struct Feed {
    world: World,
    remarks: Remarks,
    observer: Option<Box<dyn Observe>>,
}

impl Feed {
    /// Whether everything that exists has been seen with this.
    fn take(&mut self, batch: Vec<Change>, hub: &Hub, findings: &Findings) -> bool {
        let mut synced = false;
        if let Some(observer) = &mut self.observer {
            observer.saw(&batch);
            self.remarks.set(About::WrittenBack, observer.conclude());
        }
        let (events, mut kinds) = (&hub.counters.events, BTreeSet::new());
        for change in batch {
            match change {
                Change::Apply(object) => {
                    self.world.upsert(&object);
                    let kind = object.key().kind;
                    let known = findings.catalog.put(object);
                    events.saw(kind, if known { "update" } else { "add" });
                    kinds.insert(kind);
                }
                Change::Delete(key) => {
                    self.world.remove(&key);
                    events.saw(key.kind, "delete");
                    kinds.insert(key.kind);
                    findings.catalog.remove(&key);
                    self.remarks.set(About::Object(key), Vec::new());
                }
                Change::Findings(about, list) => self.remarks.set(about, list),
                Change::Synced => synced = true,
            }
        }
        let news = self.world.commit();
        if hub.publish_with(news, self.world.take_reaches()) {
            events.triggered(&kinds);
        }
        self.remarks.update(&self.world);
        if let Some(observer) = &mut self.observer {
            observer.compiled(&mut self.remarks.iter());
            observer.needs(self.world.wanted_secrets());
        }
        let before = findings.lines.swap(Arc::clone(self.remarks.lines()));
        if !Arc::ptr_eq(&before, self.remarks.lines()) {
            findings.catalog.say(self.remarks.iter().cloned().collect());
        }
        if synced {
            tracing::info!(
                sequence = hub.shelf().sequence(),
                "Everything that exists was read and compiled."
            );
        }
        synced
    }
}

/// Changes compiled at once: enough that a flood is no more work than its last state, few enough that subscribers hear
/// of the first within moments.
const MAX_BATCH: usize = 10_000;
