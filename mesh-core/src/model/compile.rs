//! All resources at once → [`Snapshot`].

use std::collections::HashMap;

use super::world::World;
use super::{CompileOptions, Mirror, Snapshot};
use crate::resource::{Finding, Object, ObjectKey};

/// What [`compile`] returns.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The model.
    pub snapshot: Snapshot,
    /// What does not mean what its author may think, in the order of file names and documents.
    pub findings: Vec<Finding>,
}

/// Compiles all resources of the mesh. Deterministic: the order of `objects` only decides which of two definitions
/// of the same object is used (the later one, as with `kubectl apply`).
pub fn compile(objects: &[Object], options: &CompileOptions) -> Compiled {
    let mut world = World::new(options.clone());
    let mut last: HashMap<ObjectKey, &Object> = HashMap::with_capacity(objects.len());
    for object in objects {
        if let Some(earlier) = last.insert(object.key(), object) {
            world.report_redefinition(earlier, object);
        }
    }
    for object in last.into_values() {
        world.upsert(object);
    }
    let mut mirror = Mirror::new(&options.node);
    for (key, record) in world.commit() {
        match record {
            Some(record) => mirror.apply(record),
            None => mirror.remove(&key),
        }
    }
    Compiled { snapshot: mirror.snapshot(), findings: world.findings() }
}
