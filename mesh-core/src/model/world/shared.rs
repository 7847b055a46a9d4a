//! What many resources say alike, kept once.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use crate::id::SpiffeId;

/// Values of which equal ones are the same allocation, as long as anybody else holds them.
#[derive(Debug)]
pub(super) struct Shared<T: ?Sized + Hash + Eq> {
    known: HashSet<Arc<T>>,
    /// How many there may be until those that nobody needs any more are looked for.
    limit: usize,
}

/// All kinds of values that are shared.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// Namespaces, nodes, service accounts, names of applications.
    pub(super) texts: Shared<str>,
    /// The labels of a pod.
    pub(super) labels: Shared<BTreeMap<String, String>>,
    /// The ports of a pod that have names.
    pub(super) ports: Shared<[(Box<str>, u16)]>,
    identities: HashSet<SpiffeId>,
}

impl<T: ?Sized + Hash + Eq> Default for Shared<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), limit: FEW }
    }
}

impl<T: ?Sized + Hash + Eq> Shared<T> {
    /// The value that is equal to `value`, which may become it.
    pub(super) fn share(&mut self, value: impl Borrow<T> + Into<Arc<T>>) -> Arc<T> {
        if let Some(known) = self.known.get(value.borrow()) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.limit {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            // Twice as many, so that looking costs little for each value that comes.
            self.limit = FEW.max(self.known.len() * 2);
        }
        let value = value.into();
        self.known.insert(Arc::clone(&value));
        value
    }
}

impl Values {
    /// The identity that is equal to `identity`.
    pub(super) fn identity(&mut self, identity: SpiffeId) -> SpiffeId {
        if let Some(known) = self.identities.get(&identity) {
            return known.clone();
        }
        // Who holds one cannot be seen; those in use come again.
        if self.identities.len() >= MAX_IDENTITIES {
            self.identities.clear();
        }
        self.identities.insert(identity.clone());
        identity
    }
}

/// Not worth looking for what nobody needs.
const FEW: usize = 1024;
/// More service accounts than clusters have.
const MAX_IDENTITIES: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one() {
        let mut texts = Shared::<str>::default();
        let (a, b) = (texts.share("a"), texts.share(Arc::<str>::from("a")));
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &texts.share("b")));
    }

    #[test]
    fn what_nobody_needs_is_forgotten() {
        let mut texts = Shared::<str>::default();
        let kept = texts.share("kept");
        for number in 0..10 * FEW {
            drop(texts.share(&*format!("{number}")));
        }
        assert!(texts.known.len() <= FEW, "{}", texts.known.len());
        assert!(Arc::ptr_eq(&kept, &texts.share("kept")));
    }
}
