//! The words of the Gateway API: names, hosts, ports and durations that cannot be wrong once they are read.
//!
//! Lengths and characters are those of the API's schemas. Nothing here is stricter than they are: an object that an
//! API server has taken must not be lost on its way to the mesh.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use serde::Deserialize;

use super::super::strict::Invalid;
use super::super::tree::quote;

/// Declares checked texts: name, least and greatest length in characters, the check, what it is, and how it looks.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident($min:literal..=$max:literal, $check:expr, $what:literal, $hint:expr);)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                let length = if text.len() > $max { text.chars().count() } else { text.len() };
                let check: fn(&str) -> bool = $check;
                if text.is_empty() && $min > 0 {
                    Err(Invalid::new("must not be empty"))
                } else if length > $max {
                    Err(Invalid::new(format!("has {length} characters, the limit is {}", $max)))
                } else if check(&text) {
                    Ok(Self(text.into()))
                } else {
                    Err(Invalid::new(format!("{} is not {}", quote(&text), $what)).hint($hint))
                }
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

texts! {
    /// The name of an object, of at most 253 characters. Which ones is left to the kind.
    ObjectName(1..=253, |_| true, "a name", "at most 253 characters");
    /// An API group: empty for Kubernetes' core, else a DNS name.
    GroupName(0..=253, |text| text.is_empty() || is_dns_name(text), "an API group", DNS_NAME_HINT);
    /// The kind of an object, as `kind:` spells it.
    KindName(1..=63, is_kind, "a kind", "letters, digits and -, beginning with a letter");
    /// A namespace.
    NamespaceName(1..=63, |text| is_label(text), "a namespace", "a-z, 0-9 and -, not - at either end");
    /// A part of an object that others can name: a listener, a rule, a port.
    SectionName(1..=253, is_dns_name, "a section name", DNS_NAME_HINT);
    /// A host without a wildcard, in lower case.
    PreciseHostname(1..=253, is_dns_name, "a host name", DNS_NAME_HINT);
    /// A host, or `*.` and the rest of one, in lower case.
    Hostname(
        1..=253,
        |text| is_dns_name(text.strip_prefix("*.").unwrap_or(text)),
        "a host name",
        "a-z, 0-9, - and ., no port; * only as the whole first label"
    );
    /// `DOMAIN/PATH`, the name of who takes care of a class.
    ControllerName(1..=253, is_domain_path, "a controller name", "write DOMAIN/PATH");
    /// The name of a query parameter or a cookie; case counts.
    TokenName(1..=256, is_token, "a valid name", TOKEN_HINT);
    /// The value of a header: visible ASCII, with single spaces or tabs inside.
    HeaderText(1..=4096, is_header_text, "a header value", "visible ASCII with single spaces inside");
    /// Any text of 1 to 4096 characters.
    Text4096(1..=4096, |_| true, "a text", "at most 4096 characters");
    /// Any text of 1 to 1024 characters.
    Text1024(1..=1024, |_| true, "a text", "at most 1024 characters");
    /// A path to replace (a part of) another with, at most 1024 characters.
    PathText(0..=1024, |_| true, "a path", "at most 1024 characters");
}

/// The name of a header. Dereferences to lower case, in which it is compared.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct HeaderName {
    lower: Arc<str>,
    written: Arc<str>,
}

/// The share of a backend among those of its rule, 0..=1000000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "i64")]
pub struct Weight(u32);

/// A span of time as GEP-2257 writes it: one to four numbers of at most five digits, each with `h`, `m`, `s` or `ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Duration(std::time::Duration);

/// A time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(from = "Duration")]
pub enum Timeout {
    /// There is none; written `0s`.
    Never,
    /// After this time, which is not zero.
    After(std::time::Duration),
}

impl GroupName {
    /// `gateway.networking.k8s.io`, what an absent group of a parent means.
    pub fn gateway_api() -> Self {
        Self(Arc::from("gateway.networking.k8s.io"))
    }

    /// Kubernetes' core group, what an absent group of a backend means.
    pub fn core() -> Self {
        Self(Arc::from(""))
    }
}

impl KindName {
    pub(super) fn gateway() -> Self {
        Self(Arc::from("Gateway"))
    }

    pub(super) fn service() -> Self {
        Self(Arc::from("Service"))
    }

    pub(super) fn secret() -> Self {
        Self(Arc::from("Secret"))
    }
}

impl Hostname {
    /// What follows `*`, beginning with a dot; `None` for a precise host.
    pub fn wildcard_suffix(&self) -> Option<&str> {
        self.0.strip_prefix('*')
    }

    /// Whether `host` is meant. A wildcard stands for one label or more. `host` is in lower case, without a port.
    pub fn matches(&self, host: &str) -> bool {
        match self.wildcard_suffix() {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == &**self,
        }
    }

    /// The hosts that both mean: the narrower of the two, if they have any in common.
    pub fn intersection<'h>(&'h self, other: &'h Self) -> Option<&'h Self> {
        let within = |inner: &Self, outer: &Self| match (inner.wildcard_suffix(), outer.wildcard_suffix()) {
            (Some(inner), Some(outer)) => inner.ends_with(outer),
            (None, _) => outer.matches(inner),
            (Some(_), None) => false,
        };
        if within(self, other) { Some(self) } else { within(other, self).then_some(other) }
    }
}

impl TryFrom<String> for HeaderName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        let TokenName(written) = TokenName::try_from(text)?;
        let upper = written.bytes().any(|b| b.is_ascii_uppercase());
        let lower = if upper { Arc::from(written.to_ascii_lowercase()) } else { Arc::clone(&written) };
        Ok(Self { lower, written })
    }
}

impl HeaderName {
    /// As it was written.
    pub fn written(&self) -> &str {
        &self.written
    }
}

impl Deref for HeaderName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.lower
    }
}

impl PartialEq for HeaderName {
    fn eq(&self, other: &Self) -> bool {
        self.lower == other.lower
    }
}

impl Eq for HeaderName {}

impl Hash for HeaderName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.lower.hash(state);
    }
}

impl Weight {
    /// The number, at most 1000000.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<i64> for Weight {
    type Error = Invalid;

    fn try_from(number: i64) -> Result<Self, Invalid> {
        let weight = u32::try_from(number).ok().filter(|weight| *weight <= MAX_WEIGHT);
        weight
            .map(Self)
            .ok_or_else(|| Invalid::new(format!("weight {number} is not between 0 and {MAX_WEIGHT}")))
    }
}

impl Duration {
    /// The span, in whole milliseconds; may be zero.
    pub fn get(self) -> std::time::Duration {
        self.0
    }
}

impl TryFrom<String> for Duration {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        parse_duration(&text).map(Self).ok_or_else(|| {
            let hint = "one to four of a number of at most 5 digits and h, m, s or ms, as in 1m30s";
            Invalid::new(format!("{} is not a duration", quote(&text))).hint(hint)
        })
    }
}

impl From<Duration> for Timeout {
    fn from(Duration(span): Duration) -> Self {
        if span.is_zero() { Self::Never } else { Self::After(span) }
    }
}

/// See [`Duration`].
fn parse_duration(text: &str) -> Option<std::time::Duration> {
    let mut milliseconds = 0_u64;
    let mut rest = text;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let number: u64 = Some(number).filter(|number| number.len() <= 5)?.parse().ok()?;
        let (unit, after) = if let Some(after) = after.strip_prefix("ms") {
            (1, after)
        } else if let Some(after) = after.strip_prefix('s') {
            (1_000, after)
        } else if let Some(after) = after.strip_prefix('m') {
            (60_000, after)
        } else {
            (3_600_000, after.strip_prefix('h')?)
        };
        milliseconds += number * unit;
        rest = after;
        if rest.is_empty() {
            return Some(std::time::Duration::from_millis(milliseconds));
        }
    }
    None
}

/// Labels of any length joined by dots; the whole is bounded by its type.
pub(super) fn is_dns_name(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_kind(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !text.ends_with('-')
}

/// `DOMAIN/PATH`, as a controller's name and an address type of an implementation's own are spelled.
pub(super) fn is_domain_path(text: &str) -> bool {
    text.split_once('/').is_some_and(|(domain, path)| {
        let byte = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
        is_dns_name(domain) && !path.is_empty() && path.bytes().all(byte)
    })
}

fn is_token(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn is_header_text(text: &str) -> bool {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let bytes = text.as_bytes();
    bytes.iter().all(|b| b.is_ascii_graphic() || blank(b))
        && !bytes.first().is_some_and(blank)
        && !bytes.last().is_some_and(blank)
        && !bytes.windows(2).any(|pair| pair.iter().all(blank))
}

const MAX_WEIGHT: u32 = 1_000_000;
const DNS_NAME_HINT: &str = "a-z, 0-9, - and ., each part begins and ends with a-z or 0-9";
const TOKEN_HINT: &str = "letters, digits and !#$%&'*+-.^_`|~";
