//! Values that several kinds share, parsed where they are read: a [`Duration`] is never too short, a [`Port`] never 0, a
//! [`Host`] always a name that can be compared. What a value means is decided where it is used.
//!
//! Parsing costs time in proportion to the text. Why a text was refused travels through serde as one string, the
//! hint behind [`HINT`]; the strict deserializer takes it apart again.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

pub use self::duration::{Duration, DurationOrZero, time};
pub use self::export::ExportTo;
pub use self::header::{HeaderKey, HeaderName, HeaderSegment, HeaderValue};
pub use self::host::Host;
pub use self::number::{HttpStatus, Percent, Port};
pub use self::protocol::Protocol;
pub use self::regex::Regex;
pub use self::scope::{EgressHost, GatewayName, NamespaceScope, ScopedHost};
pub(super) use self::socket::is_unix_path;
pub use self::socket::{Bind, Subnet};
pub use self::string_match::StringMatch;

mod duration;
mod export;
mod header;
mod host;
mod number;
mod protocol;
mod regex;
mod scope;
mod socket;
pub(super) mod string_match;

/// Why a text is no value of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong, in one line.
    pub reason: String,
    /// What to write instead.
    pub hint: Option<String>,
}

/// A value that is written as a string.
pub(super) trait FromText: Sized {
    fn from_text(text: &str) -> Result<Self, Refusal>;
}

impl Refusal {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None }
    }

    pub(super) fn with_hint(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: Some(hint.into()) }
    }

    /// As an error of serde.
    pub(super) fn into_error<E: de::Error>(self) -> E {
        match self.hint {
            Some(hint) => E::custom(format_args!("{}{HINT}{hint}", self.reason)),
            None => E::custom(self.reason),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Refusal {}

/// Reads a string as a `T`.
pub(super) fn deserialize<'de, D: Deserializer<'de>, T: FromText>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_str(TextVisitor(PhantomData))
}

/// Reads a string as a `T`; the empty string is none, as for every string field of Istio.
pub(super) fn unless_empty<'de, D: Deserializer<'de>, T: FromText>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_str(TextVisitor(PhantomData)).map(|OrEmpty(value)| value)
}

/// Reads a map whose keys may be spelled in more than one way: none of them may be there twice.
pub(super) fn unique<'de, D, K, V>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
{
    deserializer.deserialize_map(UniqueVisitor(PhantomData))
}

struct UniqueVisitor<K, V>(PhantomData<(K, V)>);

impl<'de, K, V> Visitor<'de> for UniqueVisitor<K, V>
where
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
{
    type Value = BTreeMap<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = entries.next_entry()? {
            if map.insert(key, value).is_some() {
                return Err(de::Error::custom("two of the names differ only in upper and lower case"));
            }
        }
        Ok(map)
    }
}

/// Empty, or a `T`.
struct OrEmpty<T>(Option<T>);

impl<T: FromText> FromText for OrEmpty<T> {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        if text.is_empty() { Ok(Self(None)) } else { T::from_text(text).map(|value| Self(Some(value))) }
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: FromText> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(Refusal::into_error)
    }
}

/// `Deserialize`, and with the feature `schema` a schema, for types that are written as strings.
macro_rules! text_value {
    ($type:ty, $schema:tt) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::resource::value::deserialize(deserializer)
            }
        }

        $crate::resource::value::inline_schema!($type, $schema);
    };
}

/// The schema of a type that is written where it is used.
macro_rules! inline_schema {
    ($type:ty, $schema:tt) => {
        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}

pub(super) use {inline_schema, text_value};

/// Stands between the reason and the hint of a refusal on its way through serde. No text of a user that comes with
/// a hint is shown unquoted, so none can forge one that matters.
pub(super) const HINT: char = '\u{1f}';

#[cfg(test)]
mod tests;
