//! How the metrics of a request differ from the usual, because a Telemetry says so.

use std::sync::Arc;

use mesh_core::telemetry::{Families, Group, Tag};
use mesh_core::trace::cut;

use super::attributes::View;
use super::{RequestFacts, Told};

/// Some metrics of a request, and the values of labels that are not the usual ones.
pub(super) struct Shape<'a> {
    told: &'a Arc<Told>,
    group: usize,
    /// In the order of the group's labels; `None` where there is no value.
    pub(super) values: Vec<Option<String>>,
}

impl<'a> Shape<'a> {
    /// Each group of metrics that a Telemetry leaves.
    pub(super) fn all(told: &'a Arc<Told>, facts: &RequestFacts<'_>) -> impl Iterator<Item = Self> {
        let groups = told.effective.metrics.iter().enumerate();
        groups.map(move |(index, group)| {
            let view = View(facts);
            let set = group.tags.values().filter_map(|tag| match tag {
                Tag::Set(expression) => Some(expression),
                Tag::Remove => None,
            });
            let values =
                set.map(|it| it.text(&view).map(|value| cut(&value, MAX_VALUE).to_owned())).collect();
            Self { told, group: index, values }
        })
    }

    /// What the group has in common.
    pub(super) fn group(&self) -> Option<&'a Group> {
        self.told.effective.metrics.get(self.group)
    }

    /// The metrics that are counted.
    pub(super) fn families(&self) -> Families {
        self.group().map(|group| group.metrics).unwrap_or_default()
    }

    /// What tells it from others; its address is good as long as it is held.
    pub(super) fn key(&self) -> (&'a Arc<Told>, usize) {
        (self.told, self.group)
    }

    /// Labels that are added, with their values.
    pub(super) fn added(&self) -> impl Iterator<Item = (&str, &str)> {
        let tags = self.group().into_iter().flat_map(|group| &group.tags);
        let set = tags.filter(|(_, tag)| matches!(tag, Tag::Set(_))).map(|(name, _)| name.as_str());
        set.zip(&self.values).map(|(name, value)| (name, value.as_deref().unwrap_or_default()))
    }

    /// Whether a label is not the usual one.
    pub(super) fn changes(&self, name: &str) -> bool {
        self.group().is_some_and(|group| group.tags.contains_key(name))
    }
}

/// Bytes of a label's value.
pub(in crate::report) const MAX_VALUE: usize = 128;
