//! Regular expressions as RE2 reads them, since that is what Istio's users write.
//!
//! Rust's engine keeps RE2's promise of linear time but reads some texts differently: its `\d` knows all scripts, it
//! has operations on classes, and flags of its own. The pattern is therefore rewritten where the two agree after
//! rewriting, and refused where they cannot agree.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use regex_syntax::ast::parse::ParserBuilder;

use super::super::tree::quote;
use super::{FromText, Refusal, text_value};

mod re2;

/// A regular expression of at most 1024 bytes whose syntax is RE2's. Compiled when it is first used: all that come out
/// of [`crate::resource::parse`] have been, and are known to fit [`Regex::SIZE`].
#[derive(Clone)]
pub struct Regex {
    source: Arc<str>,
    /// What Rust's engine is given.
    pattern: Arc<str>,
    groups: usize,
    weight: u64,
    compiled: Arc<OnceLock<Result<regex::bytes::Regex, String>>>,
}

impl Regex {
    /// Bytes of a pattern, as Istio has it.
    pub const LENGTH: usize = 1024;
    /// Bytes of a compiled program. A pattern that passes it repeats large classes thousands of times.
    pub const SIZE: usize = 512 << 10;

    /// Reads a pattern that a whole text must match.
    pub fn parse(pattern: &str) -> Result<Self, Refusal> {
        Self::with(pattern, |rewritten| format!("^(?:{rewritten})$"))
    }

    /// Reads a pattern that is searched for in a text.
    pub fn parse_search(pattern: &str) -> Result<Self, Refusal> {
        Self::with(pattern, |rewritten| rewritten)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// How many groups it captures.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Roughly how many instructions it compiles to, known before it is.
    pub(in crate::resource) fn weight(&self) -> u64 {
        self.weight
    }

    /// Whether `text` matches; nothing does where compiling fails.
    pub fn matches(&self, text: &[u8]) -> bool {
        self.compiled().is_ok_and(|regex| regex.is_match(text))
    }

    /// The compiled form. `Err` if it would be larger than [`Regex::SIZE`].
    pub fn compiled(&self) -> Result<&regex::bytes::Regex, &str> {
        let compile = || {
            regex::bytes::RegexBuilder::new(&self.pattern)
                .size_limit(Self::SIZE)
                .dfa_size_limit(Self::SIZE)
                .build()
                .map_err(|_| format!("compiles to more than {} KiB", Self::SIZE >> 10))
        };
        self.compiled.get_or_init(compile).as_ref().map_err(String::as_str)
    }

    fn with(pattern: &str, frame: impl FnOnce(String) -> String) -> Result<Self, Refusal> {
        if pattern.is_empty() {
            return Err(Refusal::new("a regular expression must not be empty"));
        }
        if pattern.len() > Self::LENGTH {
            let reason =
                format!("the regular expression has {} bytes, the limit is {}", pattern.len(), Self::LENGTH);
            return Err(Refusal::new(reason));
        }
        let ast = ParserBuilder::new().nest_limit(NESTING).build().parse(pattern).map_err(|error| {
            let reason = format!("{} is not a regular expression: {}", quote(pattern), error.kind());
            Refusal::with_hint(reason, "the syntax is that of RE2")
        })?;
        let re2::Rewritten { pattern: rewritten, groups, weight } = re2::rewrite(pattern, &ast)?;
        Ok(Self {
            source: Arc::from(pattern),
            pattern: frame(rewritten).into(),
            groups,
            weight,
            compiled: Arc::default(),
        })
    }
}

impl FromText for Regex {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        Self::parse(text)
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Regex").field(&self.pattern).finish()
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for Regex {}

impl Hash for Regex {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pattern.hash(state);
    }
}

text_value!(Regex, {"type": "string", "maxLength": 1024});

/// Groups within groups; RE2 takes 1000 of them, which no reader could follow.
const NESTING: u32 = 100;
