//! A set of one or two.

/// A sorted list that holds no more memory than its members take. There is one for every address of a cluster, most
/// have a single member, and a tree keeps room for eleven.
#[derive(Debug, Clone)]
pub(super) struct Few<T>(Vec<T>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Ord> Few<T> {
    /// Adds a member; nothing happens if it is one.
    pub(super) fn insert(&mut self, member: T) {
        if let Err(place) = self.0.binary_search(&member) {
            self.0.reserve_exact(1);
            self.0.insert(place, member);
        }
    }

    /// Takes a member out; nothing happens if it is none.
    pub(super) fn remove(&mut self, member: &T) {
        if let Ok(place) = self.0.binary_search(member) {
            self.0.remove(place);
        }
    }

    /// The smallest.
    pub(super) fn first(&self) -> Option<&T> {
        self.0.first()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_sorted_and_there_once() {
        let mut few = Few::default();
        for member in [3, 1, 2, 3, 1] {
            few.insert(member);
        }
        assert_eq!((few.iter().copied().collect::<Vec<_>>(), few.first()), (vec![1, 2, 3], Some(&1)));
        for member in [1, 3, 4] {
            few.remove(&member);
        }
        assert_eq!(few.first(), Some(&2));
        few.remove(&2);
        assert!(few.is_empty());
    }
}
