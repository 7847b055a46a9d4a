//! What a subscriber says of what it cannot use, for as long as it has not accepted something else in its place.

use std::collections::BTreeSet;
use std::sync::Arc;

/// What was said last, and about which resources. Nothing at first.
#[derive(Debug, Default)]
pub(super) struct Complaint {
    text: Option<Arc<str>>,
    /// Those that were rejected and have not been replaced.
    about: BTreeSet<Arc<str>>,
}

impl Complaint {
    /// A response with these resources was rejected with these words: for the sake of those that are named in them or,
    /// where none is, of any.
    pub(super) fn take(&mut self, message: &str, told: &[Arc<str>]) {
        self.text = Some(message.chars().take(MAX_TEXT).collect::<String>().into());
        // Whatever else was in it was accepted.
        let named: BTreeSet<_> = told.iter().filter(|name| message.contains(&***name)).cloned().collect();
        if named.is_empty() {
            self.about.extend(told.iter().cloned());
        } else {
            self.about.retain(|name| !told.contains(name));
            self.about.extend(named);
        }
        while self.about.len() > MAX_NAMES {
            self.about.pop_last();
        }
    }

    /// A response with these resources, told or taken back, was accepted.
    pub(super) fn settle(&mut self, told: &[Arc<str>]) {
        if self.text.is_none() {
            return;
        }
        for name in told {
            self.about.remove(name);
        }
        if self.about.is_empty() {
            self.text = None;
        }
    }

    /// What was said, unless it is settled.
    pub(super) fn text(&self) -> Option<&Arc<str>> {
        self.text.as_ref()
    }
}

/// Characters kept of what a subscriber says.
const MAX_TEXT: usize = 2000;
/// Resources that one subscriber is known to have rejected, of a type.
const MAX_NAMES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn it_lasts_until_what_it_is_about_is_accepted() {
        let mut complaint = Complaint::default();
        complaint.take("ns/b: no good", &names(&["ns/a", "ns/b", "ns/c"]));
        complaint.settle(&names(&["ns/a", "ns/d"]));
        assert_eq!(complaint.text().map(|text| &**text), Some("ns/b: no good"));
        complaint.take("ns/d: nor this", &names(&["ns/d"]));
        complaint.settle(&names(&["ns/b"]));
        assert_eq!(complaint.text().map(|text| &**text), Some("ns/d: nor this"));
        complaint.settle(&names(&["ns/d"]));
        assert_eq!(complaint.text(), None);
    }

    #[test]
    fn words_without_names_are_about_all_of_it() {
        let mut complaint = Complaint::default();
        complaint.take("no", &names(&["a", "b"]));
        complaint.settle(&names(&["a"]));
        assert!(complaint.text().is_some());
        complaint.settle(&names(&["b"]));
        assert!(complaint.text().is_none());
        // About something that has no name it cannot be seen when it is settled; the next good word is good enough.
        complaint.take(&"x".repeat(9_000), &[]);
        assert_eq!(complaint.text().map(|text| text.len()), Some(MAX_TEXT));
        complaint.settle(&[]);
        assert!(complaint.text().is_none());
    }
}
