//! Finds all prefixes of a path among many, in time that depends on the path alone.

/// A radix tree over bytes.
#[derive(Debug)]
pub(super) struct Trie<T> {
    nodes: Vec<Node<T>>,
    /// Keys are in lower case, and compared without regard to case.
    folds: bool,
}

/// Small: with ten thousand rules, what a request costs is the memory that it touches.
#[derive(Debug)]
struct Node<T> {
    /// What comes after the parent's key; empty only for the root.
    label: Label,
    value: Option<T>,
    /// By the first byte of their labels, ascending.
    children: Vec<(u8, u32)>,
}

/// A part of a key; short ones are kept in place.
#[derive(Debug)]
enum Label {
    Short(u8, [u8; SHORT]),
    Long(Box<[u8]>),
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { nodes: vec![Node { label: Label::of(b""), value: None, children: Vec::new() }], folds: false }
    }
}

impl<T> Trie<T> {
    /// One that compares without regard to case; keys must be in lower case.
    pub(super) fn folded() -> Self {
        Self { folds: true, ..Self::default() }
    }

    /// What is kept for `key`.
    pub(super) fn entry(&mut self, key: &[u8]) -> &mut T
    where
        T: Default,
    {
        let node = self.node(key);
        self.nodes.get_mut(node).expect("nodes are never taken out").value.get_or_insert_default()
    }

    /// The same keys with something else kept for each.
    pub(super) fn map<U>(self, mut make: impl FnMut(T) -> U) -> Trie<U> {
        let nodes = self.nodes.into_iter().map(|Node { label, value, mut children }| {
            children.shrink_to_fit();
            Node { label, value: value.map(&mut make), children }
        });
        Trie { nodes: nodes.collect(), folds: self.folds }
    }

    /// Everything that is kept, in no order that means anything.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.nodes.iter_mut().filter_map(|node| node.value.as_mut())
    }

    /// Visits what is kept for each key that `text` begins with, from the shortest on; and whether the key is all of it.
    pub(super) fn walk<'t>(&'t self, text: &[u8], mut visit: impl FnMut(&'t T, bool)) {
        let mut rest = text;
        let mut next = self.nodes.first();
        while let Some(node) = next {
            if let Some(value) = &node.value {
                visit(value, rest.is_empty());
            }
            next = self.child(node, rest).filter(|child| self.starts_with(rest, child.label.bytes()));
            rest = next.and_then(|child| rest.get(child.label.bytes().len()..)).unwrap_or_default();
        }
    }

    fn child(&self, node: &Node<T>, rest: &[u8]) -> Option<&Node<T>> {
        let first = *rest.first()?;
        let first = if self.folds { first.to_ascii_lowercase() } else { first };
        let found = node.children.binary_search_by_key(&first, |(byte, _)| *byte).ok()?;
        self.nodes.get(usize::try_from(node.children.get(found)?.1).ok()?)
    }

    fn starts_with(&self, text: &[u8], label: &[u8]) -> bool {
        match text.get(..label.len()) {
            Some(start) if self.folds => start.eq_ignore_ascii_case(label),
            start => start == Some(label),
        }
    }

    /// The node of `key`, made if there is none.
    fn node(&mut self, key: &[u8]) -> usize {
        let (mut at, mut rest) = (0, key);
        while let Some(first) = rest.first().copied() {
            let children = &self.nodes.get(at).expect("nodes are never taken out").children;
            let place = children.binary_search_by_key(&first, |(byte, _)| *byte);
            let child = place.ok().and_then(|place| children.get(place));
            let Some(child) = child.and_then(|(_, child)| usize::try_from(*child).ok()) else {
                return self.add(at, rest);
            };
            let label = self.nodes.get(child).expect("nodes are never taken out").label.bytes();
            let common = label.iter().zip(rest).take_while(|(a, b)| a == b).count();
            if common < label.len() {
                self.split(child, common);
            }
            at = child;
            rest = rest.get(common..).unwrap_or_default();
        }
        at
    }

    fn add(&mut self, parent: usize, label: &[u8]) -> usize {
        let child = self.nodes.len();
        self.nodes.push(Node { label: Label::of(label), value: None, children: Vec::new() });
        self.adopt(parent, child);
        child
    }

    /// Cuts the label of a node: it keeps the start, a new child gets the rest and all that was kept there.
    fn split(&mut self, node: usize, at: usize) {
        let child = self.nodes.len();
        let upper = self.nodes.get_mut(node).expect("nodes are never taken out");
        let (start, end) = upper.label.bytes().split_at(at);
        let (start, end) = (Label::of(start), Label::of(end));
        upper.label = start;
        let lower =
            Node { label: end, value: upper.value.take(), children: std::mem::take(&mut upper.children) };
        self.nodes.push(lower);
        self.adopt(node, child);
    }

    fn adopt(&mut self, parent: usize, child: usize) {
        let first = self.nodes.get(child).and_then(|node| node.label.bytes().first().copied());
        let (Some(first), Some(parent)) = (first, self.nodes.get_mut(parent)) else { return };
        let place = parent.children.partition_point(|(byte, _)| *byte < first);
        parent.children.insert(place, (first, u32::try_from(child).expect("nobody has 2^32 rules")));
    }
}

impl Label {
    fn of(bytes: &[u8]) -> Self {
        let mut room = [0; SHORT];
        match (room.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(start), Ok(length)) => {
                start.copy_from_slice(bytes);
                Self::Short(length, room)
            }
            _ => Self::Long(bytes.into()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(length, room) => room.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

/// Bytes of a label that is kept in place.
const SHORT: usize = 22;

#[cfg(test)]
mod tests;
