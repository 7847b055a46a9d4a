//! A document as a tree of plain values, before it has a type.
//!
//! Why not the YAML library's own value: it aborts at the first duplicate key, keeps non-string keys, and expands
//! aliases without a limit of ours. Here duplicates and bad keys are collected with their paths, keys become strings as
//! `kubectl` makes them, and depth, number of values and expanded size are bounded.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::Level;

/// Any value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    String(String),
    List(Vec<Tree>),
    /// In file order, keys unique.
    Map(Vec<(String, Tree)>),
}

/// What is wrong with one field, before it is tied to a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) level: Level,
    pub(super) field: String,
    pub(super) reason: String,
    pub(super) hint: Option<String>,
}

/// A field's place, as a chain of stack frames: costs nothing until it is displayed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'a> {
    Root(&'a str),
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

/// Reads one document from `deserializer`. `Err` is what the deserializer says, or which limit was exceeded.
pub(super) fn build<'de, D>(deserializer: D) -> Result<(Tree, Vec<Problem>), Failure<D::Error>>
where
    D: Deserializer<'de>,
{
    let mut builder = Builder { values: 0, bytes: 0, problems: Vec::new(), exceeded: None };
    let root = Path::Root("");
    match (Seed { builder: &mut builder, depth: 0, path: &root }).deserialize(deserializer) {
        Ok(tree) => Ok((tree, builder.problems)),
        Err(error) => Err(builder.exceeded.map_or(Failure::Syntax(error), Failure::Limit)),
    }
}

/// Why there is no tree.
#[derive(Debug)]
pub(super) enum Failure<E> {
    Syntax(E),
    Limit(String),
}

impl Tree {
    /// The value of `key`; `None` also where this is no map or the value is null.
    pub(super) fn get(&self, key: &str) -> Option<&Tree> {
        match self {
            Self::Map(entries) => {
                entries.iter().find(|(k, v)| k == key && !matches!(v, Self::Null)).map(|(_, v)| v)
            }
            _ => None,
        }
    }

    /// The value of `key`, to be changed; null included.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Tree> {
        match self {
            Self::Map(entries) => entries.iter_mut().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Differs, but for one case in 2⁶⁴, where trees differ, be it in the order of keys.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// The value in JSON.
    pub(super) fn to_json(&self) -> Arc<str> {
        serde_json::to_string(self).expect("a tree has string keys only").into()
    }

    /// The text of a string.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Says what this is, for `expected X, found {}`. Long strings are cut.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(value) => format!("boolean {value}"),
            Self::Unsigned(value) => format!("integer {value}"),
            Self::Signed(value) => format!("integer {value}"),
            Self::Float(value) => format!("number {value:?}"),
            Self::String(text) => format!("string {}", quote(text)),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "an object".into(),
        }
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::String(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Map(entries) => serializer.collect_map(entries.iter().map(|(key, value)| (key, value))),
        }
    }
}

impl Hash for Tree {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            Self::Null => {}
            Self::Bool(value) => value.hash(state),
            Self::Unsigned(value) => value.hash(state),
            Self::Signed(value) => value.hash(state),
            Self::Float(value) => value.to_bits().hash(state),
            Self::String(text) => text.hash(state),
            Self::List(items) => items.hash(state),
            Self::Map(entries) => entries.hash(state),
        }
    }
}

impl Path<'_> {
    /// The outermost key.
    pub(super) fn top(&self) -> Option<&str> {
        match self {
            Self::Root(_) => None,
            Self::Key(Path::Root(_), key) => Some(key),
            Self::Index(parent, _) | Self::Key(parent, _) => parent.top(),
        }
    }
}

impl Problem {
    pub(super) fn error(field: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self { level: Level::Error, field: field.to_string(), reason: reason.into(), hint: None }
    }

    pub(super) fn warning(field: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::error(field, reason) }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl<'a> Path<'a> {
    /// The place of `key` in this object.
    pub(super) fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }

    /// The place of an item of this list.
    pub(super) fn at(&'a self, index: usize) -> Self {
        Self::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(prefix) => f.write_str(prefix),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Key(parent, key) if !is_plain(key) => write!(f, "{parent}[{}]", quote(key)),
            Self::Key(Path::Root(""), key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
        }
    }
}

/// Text as it is shown in a finding: in quotes, cut after [`SHOWN`] characters.
pub(crate) fn quote(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => format!("\"{text}\""),
        Some((end, _)) => format!("\"{}…\"", text.get(..end).unwrap_or_default()),
    }
}

/// Whether a key can stand in a path without quotes.
fn is_plain(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= SHOWN
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

struct Builder {
    values: usize,
    bytes: usize,
    problems: Vec<Problem>,
    exceeded: Option<String>,
}

impl Builder {
    /// Counts a value in; `Err` once the document has become too much.
    fn admit<E: serde::de::Error>(&mut self, bytes: usize, depth: usize) -> Result<(), E> {
        self.values += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if depth > MAX_DEPTH {
            self.exceeded = Some(format!("nested deeper than {MAX_DEPTH} levels"));
        } else if self.values > MAX_VALUES || self.bytes > MAX_BYTES {
            let mib = MAX_BYTES >> 20;
            self.exceeded = Some(format!(
                "expands to more than {MAX_VALUES} values or {mib} MiB, which only aliases can do"
            ));
        } else {
            return Ok(());
        }
        Err(E::custom("limit exceeded"))
    }

    /// Collects a problem; more than a reader would want are dropped.
    fn report(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

struct Seed<'a> {
    builder: &'a mut Builder,
    depth: usize,
    path: &'a Path<'a>,
}

impl Seed<'_> {
    fn scalar<E: serde::de::Error>(self, bytes: usize, tree: Tree) -> Result<Tree, E> {
        self.builder.admit(bytes, self.depth)?;
        Ok(tree)
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Tree;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a YAML tag")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Tree, E> {
        self.scalar(0, Tree::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Tree, E> {
        self.scalar(0, Tree::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Tree, E> {
        self.scalar(0, Tree::Bool(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Tree, E> {
        self.scalar(0, Tree::Unsigned(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Tree, E> {
        self.scalar(0, u64::try_from(value).map_or(Tree::Signed(value), Tree::Unsigned))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Tree, E> {
        self.scalar(0, Tree::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Tree, E> {
        self.builder.admit(text.len(), self.depth)?;
        Ok(Tree::String(text.to_owned()))
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Tree, E> {
        self.scalar(text.len(), Tree::String(text))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        self.builder.admit(0, self.depth)?;
        let mut list = Vec::new();
        loop {
            let path = Path::Index(self.path, list.len());
            let seed = Seed { builder: &mut *self.builder, depth: self.depth + 1, path: &path };
            match items.next_element_seed(seed)? {
                Some(item) => list.push(item),
                None => return Ok(Tree::List(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        self.builder.admit(0, self.depth)?;
        let mut map: Vec<(String, Tree)> = Vec::new();
        let mut known = HashSet::new();
        let mut merges = Vec::new();
        while let Some(key) = entries.next_key_seed(KeySeed)? {
            let Some(key) = key else {
                self.builder.report(Problem::error(self.path, "a key must be a string"));
                entries.next_value::<IgnoredAny>()?;
                continue;
            };
            self.builder.admit(key.len(), self.depth)?;
            let path = Path::Key(self.path, &key);
            let seed = Seed { builder: &mut *self.builder, depth: self.depth + 1, path: &path };
            let value = entries.next_value_seed(seed)?;
            if !known.insert(key.clone()) {
                let reason = format!("key {} is given twice", quote(&key));
                self.builder.report(Problem::error(path, reason));
            } else if key == "<<" {
                merges.push(value);
            } else {
                map.push((key, value));
            }
        }
        for merge in merges {
            merge_into(&mut map, &mut known, merge)
                .map_err(|()| A::Error::custom("\"<<\" takes an alias of a mapping, or a list of them"))?;
        }
        Ok(Tree::Map(map))
    }
}

/// YAML's merge key: entries of `source` that `map` does not have yet.
fn merge_into(map: &mut Vec<(String, Tree)>, seen: &mut HashSet<String>, source: Tree) -> Result<(), ()> {
    match source {
        Tree::Map(entries) => {
            for (key, value) in entries {
                if seen.insert(key.clone()) {
                    map.push((key, value));
                }
            }
            Ok(())
        }
        Tree::List(sources) => {
            for source in sources {
                let Tree::Map(_) = source else { return Err(()) };
                merge_into(map, seen, source)?;
            }
            Ok(())
        }
        _ => Err(()),
    }
}

/// A key: strings as they are, numbers and booleans as their text, anything else `None`.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string key")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Some(text))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// Levels of nesting; Kubernetes' deepest real objects stay below 30, and each level costs stack.
pub(super) const MAX_DEPTH: usize = 64;
/// Values in one document after aliases are expanded: more than 1 MiB of text can spell out itself.
const MAX_VALUES: usize = 1_000_000;
/// Bytes of strings in one document after aliases are expanded.
const MAX_BYTES: usize = 8 << 20;
/// Problems kept per document.
pub(super) const MAX_PROBLEMS: usize = 50;
/// Characters of a user's text shown in a finding.
const SHOWN: usize = 80;
