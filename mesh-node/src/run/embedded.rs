//! The control plane inside the node: a directory is followed and compiled right here.

use std::time::Instant;

use mesh_core::{
    model::{CompileOptions, Mirror, World},
    resource::{Object, ObjectKey},
};
use mesh_source::{Change, Changes, Remarks, keys::KeyFeed};
use tracing::{error, info};

use super::{names::Names, publish::Publisher};

/// Sees the resources themselves, before what comes of them is published.
pub trait Observe: Send {
    /// A resource is new, or different.
    fn apply(&mut self, object: &Object);
    /// A resource is gone.
    fn remove(&mut self, key: &ObjectKey);
    /// What belongs together has been seen.
    fn settle(&mut self);
}

/// Turns changes into snapshots, for as long as there are any.
pub async fn follow(
    mut changes: Changes,
    options: CompileOptions,
    (publisher, mut names, mut keys): (Publisher, Names, KeyFeed),
    observer: Option<Box<dyn Observe>>,
) {
    let mut state = Some(Embedded {
        observer,
        mirror: Mirror::new(&options.node),
        world: World::new(options),
        remarks: Remarks::default(),
        objects: 0,
    });
    loop {
        let batch = tokio::select! {
            batch = changes.next() => batch,
            (name, addresses) = names.next() => {
                let Some(now) = &mut state else { return };
                if now.mirror.resolved(&name, addresses) && publisher.has_published() {
                    publisher.publish(now.mirror.snapshot()).await;
                }
                continue;
            }
            (site, found) = keys.next() => {
                let Some(now) = &mut state else { return };
                now.world.set_keys(&site, found);
                if now.commit() && publisher.has_published() {
                    publisher.publish(now.mirror.snapshot()).await;
                }
                continue;
            }
        };
        let Some(batch) = batch else { return };
        let started = Instant::now();
        let Some(mut now) = state.take() else { return };
        let compiled = tokio::task::spawn_blocking(move || {
            let changed = now.take(batch);
            (now, changed)
        });
        let (mut now, changed) = match compiled.await {
            Ok(compiled) => compiled,
            Err(error) => {
                // The last good snapshot stays in force, but nothing new would ever come: a new process starts clean.
                error!(%error, "Compiling the configuration failed.");
                std::process::exit(1);
            }
        };
        names.want(now.mirror.hostnames());
        keys.want(now.world.wanted_keys());
        publisher.findings.send_replace(now.remarks.lines().clone());
        // A directory that is empty at the start is one that is not filled yet; nothing is let go of on its word.
        if now.objects == 0 && !publisher.has_published() {
            info!("The configuration directory is empty; waiting for it to be filled.");
        } else if changed || !publisher.has_published() {
            publisher.publish(now.mirror.snapshot()).await;
            let took_ms = started.elapsed().as_millis();
            info!(objects = now.objects, took_ms, "Configuration applied.");
        }
        state = Some(now);
    }
}

struct Embedded {
    observer: Option<Box<dyn Observe>>,
    world: World,
    mirror: Mirror,
    remarks: Remarks,
    /// How many objects there are, more or less: an object that is applied again counts again.
    objects: usize,
}

impl Embedded {
    /// Whether anything came of it.
    fn take(&mut self, batch: Vec<Change>) -> bool {
        for change in batch {
            match change {
                Change::Apply(object) => {
                    self.objects += 1;
                    self.world.upsert(&object);
                    self.observe(|observer| observer.apply(&object));
                }
                Change::Delete(key) => {
                    self.world.remove(&key);
                    self.observe(|observer| observer.remove(&key));
                }
                Change::Findings(about, list) => self.remarks.set(about, list),
                Change::Synced => {}
            }
        }
        self.observe(|observer| observer.settle());
        self.commit()
    }

    /// Whether anything came of what has changed.
    fn commit(&mut self) -> bool {
        let news = self.world.commit();
        self.remarks.update(&self.world);
        let changed = !news.is_empty();
        for (key, record) in news {
            match record {
                Some(record) => self.mirror.apply(record),
                None => self.mirror.remove(&key),
            }
        }
        changed
    }

    fn observe(&mut self, tell: impl FnOnce(&mut dyn Observe)) {
        if let Some(observer) = self.observer.as_deref_mut() {
            tell(observer);
        }
    }
}
