//! Findings about objects: collected while one is compiled, kept until it is compiled again.

use std::collections::HashMap;

use crate::resource::{Finding, Level, Object, ObjectKey, Origin};

/// The findings of one compilation.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Finding>);

impl Report {
    /// The object applies, but not entirely as written.
    pub(crate) fn warning(&mut self, object: &Object, field: impl Into<String>, reason: impl Into<String>) {
        self.0.push(finding(object, Level::Warning, field, reason));
    }

    /// As [`Self::warning`], with advice.
    pub(crate) fn warning_with_hint(&mut self, object: &Object, field: &str, reason: &str, hint: &str) {
        self.0
            .push(Finding { hint: Some(hint.to_owned()), ..finding(object, Level::Warning, field, reason) });
    }

    /// What parsing a text inside of an object has found.
    pub(super) fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.0.extend(findings);
    }

    /// As [`Self::warning`], where the object itself is not at hand.
    pub(super) fn warning_at(&mut self, origin: &Origin, field: &str, reason: String) {
        let finding = Finding {
            origin: origin.clone(),
            level: Level::Warning,
            field: field.into(),
            reason,
            hint: None,
        };
        self.0.push(finding);
    }

    /// The object, or the field, cannot be used at all.
    pub(super) fn error_at(&mut self, origin: &Origin, field: &str, reason: String) {
        self.warning_at(origin, field, reason);
        self.0.iter_mut().rev().take(1).for_each(|finding| finding.level = Level::Error);
    }
}

/// What a finding is about; each topic of an object is looked at anew on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    /// What it says.
    Itself,
    /// What becomes of it among others.
    Outcome,
    /// That it is there twice.
    Redefinition,
}

/// All findings, by the object and topic they are about.
#[derive(Debug, Default)]
pub(super) struct Findings {
    by_topic: HashMap<(ObjectKey, Topic), Vec<Finding>>,
    version: u64,
}

impl Findings {
    /// Replaces what there was to say.
    pub(super) fn set(&mut self, key: &ObjectKey, topic: Topic, report: Report) {
        let place = (key.clone(), topic);
        let before = self.by_topic.get(&place).map(Vec::as_slice).unwrap_or_default();
        if before == report.0 {
            return;
        }
        self.version += 1;
        if report.0.is_empty() {
            self.by_topic.remove(&place);
        } else {
            self.by_topic.insert(place, report.0);
        }
    }

    /// Forgets an object.
    pub(super) fn drop(&mut self, key: &ObjectKey) {
        for topic in [Topic::Itself, Topic::Outcome, Topic::Redefinition] {
            self.set(key, topic, Report::default());
        }
    }

    /// Another number after every change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// All of them in the order of file names and documents, each once.
    pub(super) fn all(&self) -> Vec<Finding> {
        let mut findings: Vec<_> = self.by_topic.values().flatten().cloned().collect();
        findings.sort_by(|a, b| {
            let key = |finding: &Finding| (finding.origin.clone(), finding.field.clone());
            key(a).cmp(&key(b)).then_with(|| a.reason.cmp(&b.reason))
        });
        findings.dedup();
        findings
    }
}

fn finding(object: &Object, level: Level, field: impl Into<String>, reason: impl Into<String>) -> Finding {
    Finding { origin: object.origin.clone(), level, field: field.into(), reason: reason.into(), hint: None }
}
