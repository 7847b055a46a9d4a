//! Names and values of HTTP headers.

use std::fmt;
use std::sync::Arc;

use super::super::tree::quote;
use super::{FromText, Refusal, text_value};

/// The name of a header, in lower case: a token of RFC 9110, or `:authority` and its like.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderName(Arc<str>);

/// What a rule looks at under `headers` and `withoutHeaders`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HeaderKey {
    /// A header.
    Name(HeaderName),
    /// A claim of the request's verified JWT, the path to it from the outside in: `@request.auth.claims.a.b` or
    /// `@request.auth.claims[a][b]`. Never empty.
    Claim(Vec<Arc<str>>),
}

/// The value to give a header: text, and variables in per cent signs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderValue(Arc<[HeaderSegment]>);

/// A part of a [`HeaderValue`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HeaderSegment {
    /// Text as it is; `%%` has become `%`.
    Text(Arc<str>),
    /// A variable without its per cent signs, for example `DOWNSTREAM_REMOTE_ADDRESS` or `REQ(x-id)`. Whether there is
    /// such a variable is not known here.
    Variable(Arc<str>),
}

impl HeaderName {
    /// Reads `name` in any case.
    pub fn parse(name: &str) -> Result<Self, Refusal> {
        let token = name.strip_prefix(':').unwrap_or(name);
        if token.is_empty() || !token.bytes().all(is_token) {
            let reason = format!("{} is not the name of a header", quote(name));
            return Err(Refusal::with_hint(reason, "write letters, digits and -"));
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    /// In lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one of HTTP/2's pseudo headers.
    pub fn is_pseudo(&self) -> bool {
        self.0.starts_with(':')
    }

    /// Whether it names the host that is asked for.
    pub fn is_authority(&self) -> bool {
        matches!(&*self.0, ":authority" | "host")
    }
}

impl HeaderValue {
    /// Reads `text`: no control characters, every `%` either doubled or one of a pair around a variable.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
            return Err(Refusal::new(format!("{} has control characters", quote(text))));
        }
        let mut segments = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            let Some((variable, after)) = split_variable(after) else {
                let reason = format!("a % of {} begins no variable", quote(text));
                return Err(Refusal::with_hint(
                    reason,
                    "write %% for a per cent sign, %NAME% for a variable",
                ));
            };
            if !literal.is_empty() {
                segments.push(HeaderSegment::Text(std::mem::take(&mut literal).into()));
            }
            segments.push(HeaderSegment::Variable(Arc::from(variable)));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            segments.push(HeaderSegment::Text(literal.into()));
        }
        Ok(Self(segments.into()))
    }

    /// Its parts in order; none for an empty value.
    pub fn segments(&self) -> &[HeaderSegment] {
        &self.0
    }
}

impl FromText for HeaderName {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        Self::parse(text)
    }
}

impl FromText for HeaderKey {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        let claim = text.get(..CLAIM.len()).filter(|start| start.eq_ignore_ascii_case(CLAIM));
        let Some(path) = claim.and_then(|_| text.get(CLAIM.len()..)) else {
            return HeaderName::parse(text).map(Self::Name);
        };
        let dotted = path.strip_prefix('.').map(|path| path.split('.').collect::<Vec<_>>());
        let bracketed = path.strip_prefix('[').and_then(|path| path.strip_suffix(']'));
        let parts = dotted.or_else(|| bracketed.map(|path| path.split("][").collect()));
        match parts {
            Some(parts) if parts.iter().all(|part| !part.is_empty()) => {
                Ok(Self::Claim(parts.into_iter().map(Arc::from).collect()))
            }
            _ => {
                let reason = format!("{} names no claim", quote(text));
                Err(Refusal::with_hint(reason, format!("write {CLAIM}.NAME or {CLAIM}[NAME]")))
            }
        }
    }
}

impl FromText for HeaderValue {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        Self::parse(text)
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(HeaderName, {"type": "string"});
text_value!(HeaderKey, {"type": "string"});
text_value!(HeaderValue, {"type": "string"});

/// A variable, and what follows the `%` that ends it. Per cent signs in its parentheses belong to it.
fn split_variable(text: &str) -> Option<(&str, &str)> {
    let stop = text.find(['%', '('])?;
    let rest = text.get(stop..)?;
    let end = if rest.starts_with('%') { stop } else { stop + rest.find(")%")? + 1 };
    let name = text.get(..end)?;
    let after = text.get(end + 1..)?;
    (name.starts_with(|c: char| c.is_ascii_uppercase())).then_some((name, after))
}

/// A character of a token, RFC 9110 section 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What the name of a claim begins with where a header could stand.
const CLAIM: &str = "@request.auth.claims";
