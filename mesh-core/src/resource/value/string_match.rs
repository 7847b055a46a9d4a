//! How a text is compared: exactly, by its start, or by a regular expression.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer};

use super::super::tree::quote;
use super::{Refusal, Regex};

/// `{exact}`, `{prefix}` or `{regex}`. Upper and lower case differ unless the field that has it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// `{}`: any value, but there must be one. In the place of a header's value, `{regex: "*"}` means the same.
    Present,
    /// The same text.
    Exact(String),
    /// A text that begins with it.
    Prefix(String),
    /// A text that matches as a whole.
    Regex(Regex),
}

impl StringMatch {
    /// Whether `text` is what it asks for.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(exact) => exact == text,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Self::Regex(regex) => regex.matches(text.as_bytes()),
        }
    }

    fn new<E: de::Error>(
        exact: Option<String>,
        prefix: Option<String>,
        regex: Option<Self>,
    ) -> Result<Self, E> {
        match (exact, prefix, regex) {
            (None, None, None) => Ok(Self::Present),
            (Some(exact), None, None) => Ok(Self::Exact(exact)),
            (None, Some(prefix), None) => Ok(Self::Prefix(prefix)),
            (None, None, Some(regex)) => Ok(regex),
            _ => Err(Refusal::new("only one of exact, prefix and regex may be given").into_error()),
        }
    }
}

impl<'de> Deserialize<'de> for StringMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Fields { exact, prefix, regex } = Fields::<Regex>::deserialize(deserializer)?;
        Self::new(exact, prefix, regex.map(Self::Regex))
    }
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("any value"),
            Self::Exact(exact) => write!(f, "{}", quote(exact)),
            Self::Prefix(prefix) => write!(f, "prefix {}", quote(prefix)),
            Self::Regex(regex) => write!(f, "regex {}", quote(regex.as_str())),
        }
    }
}

/// Reads the values of headers or parameters by name: here `{regex: "*"}` asks only for presence.
pub(in crate::resource) fn by_name<'de, D, K>(deserializer: D) -> Result<BTreeMap<K, StringMatch>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord,
{
    let values: BTreeMap<K, Named> = super::unique(deserializer)?;
    Ok(values.into_iter().map(|(key, Named(value))| (key, value)).collect())
}

struct Named(StringMatch);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Fields { exact, prefix, regex } = Fields::<StarOrRegex>::deserialize(deserializer)?;
        let regex = regex.map(|StarOrRegex(regex)| regex.map_or(StringMatch::Present, StringMatch::Regex));
        StringMatch::new(exact, prefix, regex).map(Self)
    }
}

#[derive(serde::Deserialize)]
struct Fields<R> {
    exact: Option<String>,
    prefix: Option<String>,
    regex: Option<R>,
}

/// `None` is `*`, which is no regular expression but means the obvious to Istio.
struct StarOrRegex(Option<Regex>);

impl super::FromText for StarOrRegex {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        if text == "*" { Ok(Self(None)) } else { Regex::parse(text).map(|regex| Self(Some(regex))) }
    }
}

impl<'de> Deserialize<'de> for StarOrRegex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::deserialize(deserializer)
    }
}

super::inline_schema!(StringMatch, {
    "type": "object",
    "properties": {
        "exact": {"type": "string"},
        "prefix": {"type": "string"},
        "regex": {"type": "string", "maxLength": 1024, "description": "RE2; the whole text must match."}
    },
    "oneOf": (crate::resource::schema::at_most_one(&["exact", "prefix", "regex"]))
});
