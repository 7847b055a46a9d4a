//! Collects findings about objects.

use std::collections::HashMap;

use crate::resource::{Finding, Level, Object, Origin};

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

    /// The object, or the field, cannot be used at all.
    pub(crate) fn error(&mut self, object: &Object, field: impl Into<String>, reason: impl Into<String>) {
        self.0.push(finding(object, Level::Error, field, reason));
    }

    /// What parsing a text inside of an object has found.
    pub(crate) fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.0.extend(findings);
    }

    /// The findings in the order of `objects`, each once.
    pub(crate) fn into_findings(self, objects: &[Object]) -> Vec<Finding> {
        let mut position: HashMap<&Origin, usize> = HashMap::new();
        for (index, object) in objects.iter().enumerate() {
            position.entry(&object.origin).or_insert(index);
        }
        let mut findings = self.0;
        findings.sort_by(|a, b| {
            let key = |finding: &Finding| position.get(&finding.origin).copied();
            key(a).cmp(&key(b)).then_with(|| a.field.cmp(&b.field)).then_with(|| a.reason.cmp(&b.reason))
        });
        findings.dedup();
        findings
    }
}

fn finding(object: &Object, level: Level, field: impl Into<String>, reason: impl Into<String>) -> Finding {
    Finding { origin: object.origin.clone(), level, field: field.into(), reason: reason.into(), hint: None }
}
