//! Changes to headers, in the order of Istio's proxies: what goes away first, then what is set, then what is added;
//! those of the rule before those of the destination.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::condition::header_name;
use crate::resource::gateway_api::{HeaderModifier, NamedValue};
use crate::resource::networking::virtual_service::{HeaderOperations, Headers};
use crate::resource::value::{self, HeaderSegment};

/// Changes to the headers of a request and of its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderOps {
    /// Of the request, before it is sent on. The host is not among them, see [`super::Weighted::host`].
    pub request: HeaderEdit,
    /// Of the answer.
    pub response: HeaderEdit,
}

/// Changes to headers; small where there are none, which is nearly everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdit(Option<Box<Edits>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Edits {
    remove: Vec<HeaderName>,
    puts: Vec<Put>,
    /// Whether a value has variables.
    computes: bool,
}

/// A header that is set or added.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Put {
    name: HeaderName,
    value: Template,
    /// Beside what is there, instead of in its place.
    appends: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Template {
    Fixed(HeaderValue),
    Computed(Vec<HeaderSegment>),
}

impl HeaderOps {
    pub(super) fn of(headers: &Headers) -> Self {
        Self { request: HeaderEdit::of(&headers.request), response: HeaderEdit::of(&headers.response) }
    }

    /// Those of filters of the Gateway API. The host is not among them, see [`host_of_modifier`].
    pub(super) fn of_modifiers(request: Option<&HeaderModifier>, response: Option<&HeaderModifier>) -> Self {
        let edit = |it: Option<&HeaderModifier>| it.map(HeaderEdit::of_modifier).unwrap_or_default();
        Self { request: edit(request), response: edit(response) }
    }

    /// These, and then `others`; whatever any of them removes goes away first.
    pub(super) fn then(&self, others: &Self) -> Self {
        Self { request: self.request.then(&others.request), response: self.response.then(&others.response) }
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }
}

impl HeaderEdit {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Changes `headers`. `variable` knows the values of variables such as `REQ(x-id)`, and is given the headers as they
    /// are before anything is set or added; a value that comes out empty or is none of a header changes nothing.
    pub fn apply(&self, headers: &mut HeaderMap, variable: impl Fn(&str, &HeaderMap) -> Option<String>) {
        let Some(edits) = &self.0 else { return };
        for name in &edits.remove {
            headers.remove(name);
        }
        if !edits.computes {
            for put in &edits.puts {
                if let Template::Fixed(value) = &put.value {
                    put.apply(headers, value.clone());
                }
            }
            return;
        }
        let values: Vec<_> = edits.puts.iter().map(|put| put.value.evaluate(headers, &variable)).collect();
        for (put, value) in edits.puts.iter().zip(values) {
            if let Some(value) = value {
                put.apply(headers, value);
            }
        }
    }

    fn of(operations: &HeaderOperations) -> Self {
        let put = |appends: bool| {
            move |(name, value): (&value::HeaderName, &value::HeaderValue)| {
                let name = header_name(name).filter(|_| !name.is_authority())?;
                Some(Put { name, value: Template::of(value)?, appends })
            }
        };
        let set = operations.set.iter().filter_map(put(false));
        let puts: Vec<Put> = set.chain(operations.add.iter().filter_map(put(true))).collect();
        let remove = operations.remove.iter().filter(|name| !name.is_authority()).filter_map(header_name);
        Self::new(remove.collect(), puts)
    }

    /// Values are taken literally.
    fn of_modifier(modifier: &HeaderModifier) -> Self {
        let put = |appends: bool| {
            move |NamedValue { name, value }: &NamedValue| {
                let name = HeaderName::from_bytes(name.as_bytes())
                    .ok()
                    .filter(|name| *name != http::header::HOST)?;
                Some(Put { name, value: Template::Fixed(HeaderValue::from_str(value).ok()?), appends })
            }
        };
        let set = modifier.set.iter().filter_map(put(false));
        let puts = set.chain(modifier.add.iter().filter_map(put(true))).collect();
        let remove = modifier.remove.iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        Self::new(remove.filter(|name| *name != http::header::HOST).collect(), puts)
    }

    fn new(remove: Vec<HeaderName>, puts: Vec<Put>) -> Self {
        let computes = puts.iter().any(|put| matches!(put.value, Template::Computed(_)));
        let some = !remove.is_empty() || !puts.is_empty();
        Self(some.then(|| Box::new(Edits { remove, puts, computes })))
    }

    fn then(&self, others: &Self) -> Self {
        let both = || self.0.iter().chain(&others.0);
        Self::new(
            both().flat_map(|it| &it.remove).cloned().collect(),
            both().flat_map(|it| &it.puts).cloned().collect(),
        )
    }
}

impl Put {
    fn apply(&self, headers: &mut HeaderMap, value: HeaderValue) {
        if self.appends {
            headers.append(&self.name, value);
        } else {
            headers.insert(&self.name, value);
        }
    }
}

impl Template {
    /// `None` for an empty value, which changes nothing.
    fn of(value: &value::HeaderValue) -> Option<Self> {
        match value.segments() {
            [] => None,
            [HeaderSegment::Text(text)] => HeaderValue::from_str(text).ok().map(Self::Fixed),
            segments => Some(Self::Computed(segments.to_vec())),
        }
    }

    fn evaluate(
        &self,
        headers: &HeaderMap,
        variable: impl Fn(&str, &HeaderMap) -> Option<String>,
    ) -> Option<HeaderValue> {
        let segments = match self {
            Self::Fixed(value) => return Some(value.clone()),
            Self::Computed(segments) => segments,
        };
        let text: String = segments
            .iter()
            .map(|segment| match segment {
                HeaderSegment::Text(text) => Cow::Borrowed(&**text),
                HeaderSegment::Variable(name) => Cow::Owned(variable(name, headers).unwrap_or_default()),
            })
            .collect();
        if text.is_empty() { None } else { HeaderValue::from_str(&text).ok() }
    }
}

/// The host that `operations` give a request. It is taken literally: variables are not replaced in it.
pub(super) fn host(operations: &HeaderOperations) -> Option<String> {
    let named = |(name, _): &(&value::HeaderName, _)| name.is_authority();
    let (_, value) = operations.set.iter().find(named).or_else(|| operations.add.iter().find(named))?;
    let text: String = value
        .segments()
        .iter()
        .map(|segment| match segment {
            HeaderSegment::Text(text) => Cow::Borrowed(&**text),
            HeaderSegment::Variable(name) => Cow::Owned(format!("%{name}%")),
        })
        .collect();
    Some(text).filter(|text| !text.is_empty())
}

/// The host that a filter of the Gateway API gives a request.
pub(super) fn host_of_modifier(modifier: &HeaderModifier) -> Option<std::sync::Arc<str>> {
    let mut puts = modifier.set.iter().chain(&modifier.add);
    puts.find(|it| *it.name == *"host").map(|it| std::sync::Arc::from(&*it.value))
}
