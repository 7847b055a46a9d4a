//! From a [`Tree`] to a typed value, as strictly as an API server with strict field validation.
//!
//! It is a serde `Deserializer` of our own because only there all of this comes together: the path of every value, the
//! list of fields of every struct target (derived and `k8s-openapi` types alike hand it to `deserialize_struct`), and
//! the leniencies of `kubectl`'s YAML (null is absent, `yes` is a boolean, `0644` is octal). All problems of a
//! document are found, not only the first: a value of the wrong type is set aside and the rest is read again.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};

use self::error::Error;
use super::Level;
use super::tree::{MAX_PROBLEMS, Path, Problem, Tree, quote};

mod error;

pub use self::error::Invalid;
pub(super) use self::error::did_you_mean;

/// What came of reading a tree as `T`.
#[derive(Debug)]
pub(super) struct Decoded<T> {
    /// `None` if there is an error; after [`salvage`], only if there was nothing to be read.
    pub(super) value: Option<T>,
    /// Unknown fields and wrong types.
    pub(super) problems: Vec<Problem>,
    /// Fields whose value is null, which counts as absent.
    pub(super) null_fields: Vec<String>,
    /// Map values and list items whose value is null, which counts as the empty string.
    pub(super) null_strings: Vec<String>,
}

/// What becomes of fields that a type does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Unknown {
    /// They are errors: before a file stands nobody else who could tell its author.
    #[default]
    Refused,
    /// They are errors within `spec`; what else an object has is the API server's.
    RefusedInSpec,
    /// They are warnings within `spec`: the cluster's version of the kind is newer than ours.
    Noted,
    /// They are passed over.
    Ignored,
}

/// Reads `tree` as a `T`. Paths of findings begin with `prefix`.
pub(super) fn decode<'de, T: de::Deserialize<'de>>(tree: &'de Tree, prefix: &'de str) -> Decoded<T> {
    decode_with(tree, prefix, Unknown::Refused)
}

/// As [`decode`], with a say in what becomes of unknown fields.
pub(super) fn decode_with<'de, T: de::Deserialize<'de>>(
    tree: &'de Tree,
    prefix: &'de str,
    unknown: Unknown,
) -> Decoded<T> {
    let decoded = read(tree, prefix, unknown, |field| field);
    let failed = decoded.problems.iter().any(|problem| problem.level == Level::Error);
    Decoded { value: decoded.value.filter(|_| !failed), ..decoded }
}

/// As [`decode`], but a problem costs only the field, or the item of a list, that has it: the rest is read as if it
/// were not there. There is no value only if there is nothing to be read.
pub(super) fn salvage<'de, T: de::Deserialize<'de>>(tree: &'de Tree, prefix: &'de str) -> Decoded<T> {
    read(tree, prefix, Unknown::Refused, |field| list_item(field, prefix).unwrap_or(field))
}

/// Reads `tree` again and again, each time without the values that proved wrong. `blame` gives for the path of a
/// wrong value the path of what is passed over for it.
fn read<'de, T: de::Deserialize<'de>>(
    tree: &'de Tree,
    prefix: &'de str,
    unknown: Unknown,
    blame: impl Fn(&str) -> &str,
) -> Decoded<T> {
    let context = Context { unknown, ..Context::default() };
    let root = Path::Root(prefix);
    loop {
        context.notes.replace(Notes::default());
        let value = Value { tree, path: root, context: &context };
        let result = T::deserialize(value).map_err(|error| error.or_at(root));
        let Err(error) = result else {
            let notes = context.notes.take();
            let mut problems = context.wrong.take();
            problems.extend(notes.unknown);
            return Decoded {
                value: result.ok(),
                problems,
                null_fields: notes.null_fields,
                null_strings: notes.null_strings,
            };
        };
        let conclusion = error.is_conclusion();
        let problem = error.into_problem();
        let within = |aside: &String| {
            let rest = aside.strip_prefix(&problem.field);
            conclusion && rest.is_some_and(|rest| rest.starts_with(['.', '[']))
        };
        let consequence = context.aside.borrow().iter().any(within);
        let stuck = !context.aside.borrow_mut().insert(blame(&problem.field).to_owned());
        if !stuck && !consequence {
            context.wrong.borrow_mut().push(problem);
        }
        if stuck || context.wrong.borrow().len() >= MAX_WRONG {
            let mut problems = context.wrong.take();
            problems.extend(context.notes.take().unknown);
            return Decoded { value: None, problems, null_fields: Vec::new(), null_strings: Vec::new() };
        }
    }
}

/// The outermost item of a list, below `prefix`, that `field` is or is in. Half an item could mean what nobody wrote: a
/// selector without one of its expressions selects more, not less.
fn list_item<'f>(field: &'f str, prefix: &str) -> Option<&'f str> {
    let below = field.strip_prefix(prefix)?;
    let end = below.match_indices(']').map(|(end, _)| end).find(|end| {
        let head = below.get(..*end).unwrap_or_default();
        let without = head.trim_end_matches(|c: char| c.is_ascii_digit());
        without.len() < head.len() && without.ends_with('[')
    })?;
    field.get(..=prefix.len() + end)
}

/// What reading collects besides the value.
#[derive(Debug, Default)]
struct Context {
    unknown: Unknown,
    /// Wrong types, over all rounds.
    wrong: RefCell<Vec<Problem>>,
    /// Paths of values that proved wrong in an earlier round and are passed over since.
    aside: RefCell<BTreeSet<String>>,
    /// What the current round found.
    notes: RefCell<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    unknown: Vec<Problem>,
    null_fields: Vec<String>,
    null_strings: Vec<String>,
}

impl Context {
    fn is_aside(&self, path: Path<'_>) -> bool {
        let aside = self.aside.borrow();
        !aside.is_empty() && aside.contains(&path.to_string())
    }

    /// Says what an unknown field is worth saying.
    fn note_unknown(&self, parent: Path<'_>, key: &str, fields: &[&str]) {
        let in_spec = || Path::Key(&parent, key).top() == Some("spec");
        let level = match self.unknown {
            Unknown::Refused => Level::Error,
            Unknown::RefusedInSpec if in_spec() => Level::Error,
            Unknown::Noted if in_spec() => Level::Warning,
            Unknown::RefusedInSpec | Unknown::Noted | Unknown::Ignored => return,
        };
        let mut notes = self.notes.borrow_mut();
        if notes.unknown.len() < MAX_PROBLEMS {
            notes.unknown.push(Problem { level, ..error::unknown_field(parent, key, fields) });
        }
    }
}

/// A place in the tree, to be read as whatever serde asks for.
#[derive(Clone, Copy)]
struct Value<'de, 'p> {
    tree: &'de Tree,
    path: Path<'p>,
    context: &'p Context,
}

impl<'de> Value<'de, '_> {
    /// The error of a value that is not what was asked for.
    fn expected(&self, what: &str) -> Error {
        Error::new(format!("expected {what}, found {}", self.tree.describe())).or_at(self.path)
    }

    fn boolean(&self) -> Result<bool, Error> {
        match self.tree {
            Tree::Bool(value) => Ok(*value),
            // YAML 1.1, which kubectl reads, has more words for a boolean than the YAML 1.2 that we are handed.
            Tree::String(text) => match text.to_ascii_lowercase().as_str() {
                "yes" | "on" => Ok(true),
                "no" | "off" => Ok(false),
                _ => Err(self.expected("boolean")),
            },
            _ => Err(self.expected("boolean")),
        }
    }

    fn integer<T: TryFrom<i128>>(&self, range: (i128, i128)) -> Result<T, Error> {
        let wide = match self.tree {
            Tree::Unsigned(value) => i128::from(*value),
            Tree::Signed(value) => i128::from(*value),
            Tree::Float(value) if value.fract() == 0.0 && value.abs() < EXACT_FLOAT => {
                format!("{value:.0}").parse().map_err(|_| self.expected("integer"))?
            }
            // A leading zero means octal in the YAML 1.1 that kubectl reads (`defaultMode: 0644`).
            Tree::String(text) if text.starts_with('0') => {
                i128::from_str_radix(text, 8).map_err(|_| self.expected("integer"))?
            }
            Tree::String(text) if text.parse::<i64>().is_ok() => {
                return Err(self.expected("integer").with_hint(format!("write {text} without quotes")));
            }
            _ => return Err(self.expected("integer")),
        };
        T::try_from(wide).map_err(|_| {
            Error::new(format!("{wide} is out of range ({} to {})", range.0, range.1)).or_at(self.path)
        })
    }

    fn text(&self) -> Result<&'de str, Error> {
        match self.tree {
            Tree::String(text) => Ok(text),
            Tree::Null => {
                self.context.notes.borrow_mut().null_strings.push(self.path.to_string());
                Ok("")
            }
            Tree::Bool(value) => Err(self.expected("string").with_hint(format!("quote it: \"{value}\""))),
            Tree::Unsigned(value) => Err(self.expected("string").with_hint(format!("quote it: \"{value}\""))),
            Tree::Signed(value) => Err(self.expected("string").with_hint(format!("quote it: \"{value}\""))),
            Tree::Float(_) => Err(self.expected("string").with_hint("put it in quotes")),
            Tree::List(_) | Tree::Map(_) => Err(self.expected("string")),
        }
    }

    fn list<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.tree {
            Tree::List(items) => visitor.visit_seq(Items { rest: items, next: 0, list: self }),
            Tree::String(text) => Err(self.expected("list").with_hint(format!("write [{}]", quote(text)))),
            _ => Err(self.expected("list")),
        }
    }

    /// The entries of a map for `visitor`, those outside `fields` reported (`None`: all keys are the user's).
    fn map<V: Visitor<'de>>(self, fields: Option<&[&str]>, visitor: V) -> Result<V::Value, Error> {
        let Tree::Map(entries) = self.tree else { return Err(self.expected("object")) };
        if let Some(fields) = fields {
            for (key, _) in entries.iter().filter(|(key, _)| !fields.contains(&key.as_str())) {
                self.context.note_unknown(self.path, key, fields);
            }
        }
        visitor.visit_map(Entries { rest: entries, fields, value: None, map: self })
    }
}

/// `deserialize_i32` and its like.
macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.integer::<$type>((i128::from(<$type>::MIN), i128::from(<$type>::MAX)))?)
        })*
    };
}

impl<'de> Deserializer<'de> for Value<'de, '_> {
    type Error = Error;

    integers! {
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.tree {
            Tree::Null => visitor.visit_unit(),
            Tree::Bool(value) => visitor.visit_bool(*value),
            Tree::Unsigned(value) => visitor.visit_u64(*value),
            Tree::Signed(value) => visitor.visit_i64(*value),
            Tree::Float(value) => visitor.visit_f64(*value),
            Tree::String(text) => visitor.visit_borrowed_str(text),
            Tree::List(_) => self.list(visitor),
            Tree::Map(_) => self.map(None, visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.boolean()?)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.tree {
            Tree::Unsigned(_) | Tree::Signed(_) | Tree::Float(_) => self.deserialize_any(visitor),
            _ => Err(self.expected("number")),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_bytes(self.text()?.as_bytes())
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if matches!(self.tree, Tree::Null) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if matches!(self.tree, Tree::Null) { visitor.visit_unit() } else { Err(self.expected("null")) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        // `cpu: 1` is a quantity as good as `cpu: "1"`, but the type only takes strings.
        let number = match self.tree {
            Tree::Unsigned(value) => value.to_string(),
            Tree::Signed(value) => value.to_string(),
            Tree::Float(value) => value.to_string(),
            _ => return visitor.visit_newtype_struct(self),
        };
        if name == "Quantity" {
            visitor.visit_newtype_struct(number.into_deserializer())
        } else {
            visitor.visit_newtype_struct(self)
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.list(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Error> {
        self.list(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.list(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.map(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.map(Some(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(Variant(self))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

/// The items of a list.
struct Items<'de, 'p> {
    rest: &'de [Tree],
    next: usize,
    list: Value<'de, 'p>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        while let Some(tree) = self.rest.get(self.next) {
            let path = Path::Index(&self.list.path, self.next);
            self.next += 1;
            if self.list.context.is_aside(path) {
                continue;
            }
            let value = Value { tree, path, context: self.list.context };
            return seed.deserialize(value).map(Some).map_err(|error| error.or_at(path));
        }
        Ok(None)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len().saturating_sub(self.next))
    }
}

/// The entries of a map or a struct.
struct Entries<'de, 'p, 'f> {
    rest: &'de [(String, Tree)],
    fields: Option<&'f [&'f str]>,
    value: Option<&'de (String, Tree)>,
    map: Value<'de, 'p>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        while let Some((entry, rest)) = self.rest.split_first() {
            self.rest = rest;
            let (key, value) = entry;
            let path = Path::Key(&self.map.path, key);
            if self.fields.is_some_and(|fields| !fields.contains(&key.as_str()))
                || self.map.context.is_aside(path)
            {
                continue;
            }
            if self.fields.is_some() && matches!(value, Tree::Null) {
                self.map.context.notes.borrow_mut().null_fields.push(path.to_string());
                continue;
            }
            self.value = Some(entry);
            return seed.deserialize(Key(key)).map(Some).map_err(|error| error.or_at(path));
        }
        Ok(None)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let (key, tree) = self.value.take().expect("serde asks for a value after its key");
        let path = Path::Key(&self.map.path, key);
        let value = Value { tree, path, context: self.map.context };
        seed.deserialize(value).map_err(|error| error.or_at(path))
    }
}

/// A key of a map: a string, or a number spelled as one.
struct Key<'de>(&'de str);

macro_rules! number_keys {
    ($($method:ident $visit:ident $type:ty),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0.parse::<$type>() {
                Ok(number) => visitor.$visit(number),
                Err(_) => {
                    let (low, high) = (<$type>::MIN, <$type>::MAX);
                    Err(Error::new(format!("the key must be a number from {low} to {high}")))
                }
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Error;

    number_keys! {
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.0)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 u8 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

/// An enum without data: its name as a string.
struct Variant<'de, 'p>(Value<'de, 'p>);

impl<'de> EnumAccess<'de> for Variant<'de, '_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Error> {
        let Tree::String(name) = self.0.tree else { return Err(self.0.expected("string")) };
        let name = de::value::BorrowedStrDeserializer::<Error>::new(name);
        seed.deserialize(name).map(|variant| (variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, Error> {
        Err(self.0.expected("object"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _length: usize, _visitor: V) -> Result<V::Value, Error> {
        Err(self.0.expected("list"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        Err(self.0.expected("object"))
    }
}

/// Rounds of reading: so many wrong types of one document are found at once.
const MAX_WRONG: usize = 20;
/// Below it every integral float is the integer that was written.
const EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests;
