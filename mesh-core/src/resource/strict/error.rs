//! What the strict deserializer says when a value does not fit, and the search for what was meant.

use std::fmt;

use serde::de;

use super::super::tree::{Path, Problem, quote};
use super::super::value;

/// A value that does not fit its type.
#[derive(Debug, Clone)]
pub(in crate::resource) struct Error {
    path: Option<String>,
    /// What is to blame below the path that is not known yet.
    field: Option<String>,
    reason: String,
    hint: Option<String>,
    conclusion: bool,
}

/// Why a value that has the right shape is still not one of its type: the error of `#[serde(try_from)]` types. All that
/// serde hands on is its text, so the parts of a finding travel in that, behind separators that the reason is cleaned of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    field: Option<&'static str>,
    reason: String,
    hint: Option<String>,
}

impl Invalid {
    pub(in crate::resource) fn new(reason: impl Into<String>) -> Self {
        Self { field: None, reason: reason.into(), hint: None }
    }

    /// Blames a field of the value, not the whole. It has to be there: a field that is missing cannot be set aside.
    pub(in crate::resource) fn field(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }

    pub(in crate::resource) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl From<value::Refusal> for Invalid {
    fn from(refusal: value::Refusal) -> Self {
        Self { field: None, reason: refusal.reason, hint: refusal.hint }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(field) = self.field {
            write!(f, "{field}{AFTER_FIELD}")?;
        }
        f.write_str(&self.reason.replace([AFTER_FIELD, value::HINT], " "))?;
        match &self.hint {
            Some(hint) => write!(f, "{}{hint}", value::HINT),
            None => Ok(()),
        }
    }
}

impl Error {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { path: None, field: None, reason: reason.into(), hint: None, conclusion: false }
    }

    /// Gives the error its place unless a deeper one has done so.
    pub(super) fn or_at(mut self, path: Path<'_>) -> Self {
        if self.path.is_none() {
            self.path = Some(match self.field.take() {
                Some(field) => Path::Key(&path, &field).to_string(),
                None => path.to_string(),
            });
        }
        self
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether it is about what is in the value, such as a field that is not there; which may be because it was set
    /// aside.
    pub(super) fn is_conclusion(&self) -> bool {
        self.conclusion
    }

    pub(super) fn into_problem(self) -> Problem {
        let problem = Problem::error(self.path.unwrap_or_default(), self.reason);
        match self.hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        let (field, message) = match message.split_once(AFTER_FIELD) {
            Some((field, message)) => (Some(field.to_owned()), message),
            None => (None, message.as_str()),
        };
        let (reason, hint) = match message.rsplit_once(value::HINT) {
            Some((reason, hint)) => (reason, Some(hint.to_owned())),
            None => (message, None),
        };
        Self { field, hint, conclusion: true, ..Self::new(reason) }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = expected.to_string();
        let expected = match expected.as_str() {
            "IntOrString" => "integer or string",
            other => other,
        };
        Self::new(format!("expected {expected}, found {found}"))
    }

    fn missing_field(field: &'static str) -> Self {
        Self { conclusion: true, ..Self::new(format!("the field {field} is required, but missing")) }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let error = Self::new(format!("unknown value {}", quote(variant)));
        match did_you_mean(variant, expected) {
            Some(hint) => error.with_hint(hint),
            None => error.with_hint(format!("one of {}", expected.join(", "))),
        }
    }
}

/// The finding of a field that its struct does not have.
pub(super) fn unknown_field(parent: Path<'_>, key: &str, fields: &[&str]) -> Problem {
    let problem = Problem::error(Path::Key(&parent, key), format!("unknown field {}", quote(key)));
    match did_you_mean(key, fields) {
        Some(hint) => problem.hint(hint),
        None if !fields.is_empty() && fields.len() <= LISTED => {
            problem.hint(format!("known here: {}", fields.join(", ")))
        }
        None => problem,
    }
}

/// `did you mean "X"?`, if one of `candidates` is near enough to `word`.
pub(in crate::resource) fn did_you_mean(word: &str, candidates: &[&str]) -> Option<String> {
    suggest(word, candidates).map(|candidate| format!("did you mean \"{candidate}\"?"))
}

/// The candidate nearest to `word`: the same but for case and separators, or within two edits (a third of a short
/// word). Long words are not searched for, which keeps the time bounded.
fn suggest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    if word.len() > LONGEST {
        return None;
    }
    let bare = |text: &str| text.replace(['-', '_', ' '], "").to_lowercase();
    let wanted = bare(word);
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &bare(candidate)), *candidate))
        .filter(|(edits, candidate)| *edits <= (word.len().min(candidate.len()) / 3).clamp(1, 2))
        .min_by(|(edits, left), (more_edits, right)| {
            let alike = |candidate: &str| strsim::jaro_winkler(word, candidate);
            edits.cmp(more_edits).then(alike(right).total_cmp(&alike(left)))
        })
        .map(|(_, candidate)| candidate)
}

/// Fields that are worth listing when none of them is near.
const LISTED: usize = 10;
/// Characters of a word that suggestions are searched for; no field of any kind is longer.
const LONGEST: usize = 64;
/// Separates the parts of an [`Invalid`] in its text.
const AFTER_FIELD: char = '\u{1e}';
