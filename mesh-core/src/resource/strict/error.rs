//! What the strict deserializer says when a value does not fit, and the search for what was meant.

use std::fmt;

use serde::de;

use super::super::tree::{Path, Problem, quote};
use super::super::value;

/// A value that does not fit its type.
#[derive(Debug, Clone)]
pub(in crate::resource) struct Error {
    path: Option<String>,
    reason: String,
    hint: Option<String>,
    missing: bool,
}

impl Error {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { path: None, reason: reason.into(), hint: None, missing: false }
    }

    /// Gives the error its place unless a deeper one has done so.
    pub(super) fn or_at(mut self, path: Path<'_>) -> Self {
        self.path.get_or_insert_with(|| path.to_string());
        self
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether a required field is not there; which may be because it was set aside.
    pub(super) fn is_missing(&self) -> bool {
        self.missing
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
        match message.rsplit_once(value::HINT) {
            Some((reason, hint)) => Self::new(reason).with_hint(hint),
            None => Self::new(message),
        }
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
        Self { missing: true, ..Self::new(format!("the field {field} is required, but missing")) }
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
