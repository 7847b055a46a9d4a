//! The CORS filter.

use std::sync::Arc;

use serde::Deserialize;

use super::super::strict::Invalid;
use super::super::tree::quote;
use super::filter::Scheme;
use super::value::TokenName;

/// Lets browsers use a route from pages of other origins. Each list has at most 64 entries, methods 9, none twice.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cors {
    /// The origins that may; none at all means that no other origin may.
    #[serde(default)]
    pub allow_origins: AllowList<CorsOrigin>,
    /// Whether cookies and credentials may come along.
    #[serde(default)]
    pub allow_credentials: bool,
    /// The methods that may be used besides the simple ones.
    #[serde(default)]
    pub allow_methods: AllowList<CorsMethod>,
    /// The headers that may be sent besides the simple ones.
    #[serde(default)]
    pub allow_headers: AllowList<TokenName>,
    /// The response headers that pages may read; `*` among them means all, if no credentials come along.
    #[serde(default)]
    pub expose_headers: Vec<TokenName>,
    /// How long browsers may remember an answer, in seconds; at least 1, absent means 5.
    #[serde(default)]
    pub max_age: MaxAge,
}

/// `*`, or a list without it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>", bound(deserialize = "T: TryFrom<String, Error = Invalid>"))]
pub enum AllowList<T> {
    /// All there are.
    Any,
    /// One of these.
    Of(Vec<T>),
}

/// An HTTP method. Any of the nine that the API knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CorsMethod(&'static str);

/// Which origins are meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CorsOrigin {
    /// Must be equal.
    pub scheme: Scheme,
    /// Must match.
    pub host: CorsHost,
    /// Absent means that of the scheme.
    pub port: Option<u16>,
}

/// The host of an origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CorsHost {
    /// Every one.
    Any,
    /// This one; case does not count.
    Exact(Arc<str>),
    /// Those that end in this, which begins with a dot; case does not count.
    Suffix(Arc<str>),
}

/// Seconds, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "i32")]
pub struct MaxAge(u32);

impl<T> Default for AllowList<T> {
    fn default() -> Self {
        Self::Of(Vec::new())
    }
}

impl<T: TryFrom<String, Error = Invalid>> TryFrom<Vec<String>> for AllowList<T> {
    type Error = Invalid;

    fn try_from(texts: Vec<String>) -> Result<Self, Invalid> {
        if texts.iter().any(|text| text == "*") {
            let alone = texts.len() == 1;
            return if alone { Ok(Self::Any) } else { Err(Invalid::new("\"*\" must stand alone")) };
        }
        texts.into_iter().map(T::try_from).collect::<Result<_, _>>().map(Self::Of)
    }
}

impl<T> AllowList<T> {
    /// How many entries users wrote.
    pub fn len(&self) -> usize {
        match self {
            Self::Any => 1,
            Self::Of(entries) => entries.len(),
        }
    }

    /// Whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl CorsMethod {
    /// As it stands in a request.
    pub fn as_str(&self) -> &'static str {
        self.0
    }
}

impl TryFrom<String> for CorsMethod {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        METHODS.iter().find(|method| **method == text).map(|method| Self(method)).ok_or_else(|| {
            let hint = format!("one of {}, or \"*\"", METHODS.join(", "));
            Invalid::new(format!("unknown method {}", quote(&text))).hint(hint)
        })
    }
}

impl TryFrom<String> for CorsOrigin {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        parse_origin(&text).filter(|_| text.len() <= 253).ok_or_else(|| {
            let hint = "write http(s)://HOST[:PORT], where HOST may be * or begin with \"*.\"";
            Invalid::new(format!("{} is not an origin", quote(&text))).hint(hint)
        })
    }
}

impl MaxAge {
    /// The number of seconds.
    pub fn seconds(self) -> u32 {
        self.0
    }
}

impl Default for MaxAge {
    fn default() -> Self {
        Self(5)
    }
}

impl TryFrom<i32> for MaxAge {
    type Error = Invalid;

    fn try_from(seconds: i32) -> Result<Self, Invalid> {
        let valid = u32::try_from(seconds).ok().filter(|seconds| *seconds > 0);
        valid.map(Self).ok_or_else(|| Invalid::new(format!("{seconds} is less than 1 second")))
    }
}

fn parse_origin(text: &str) -> Option<CorsOrigin> {
    let (scheme, rest) = match text.strip_prefix("https://") {
        Some(rest) => (Scheme::Https, rest),
        None => (Scheme::Http, text.strip_prefix("http://")?),
    };
    let (host, port) = match rest.split_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            (host, Some(port.parse().ok()?))
        }
        Some(_) => return None,
        None => (rest, None),
    };
    let is_host = |host: &str| {
        let label =
            |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        host.split('.').all(label)
    };
    let host = match host.strip_prefix("*.") {
        _ if host == "*" => CorsHost::Any,
        Some(rest) if is_host(rest) => CorsHost::Suffix(Arc::from(host.get(1..)?.to_ascii_lowercase())),
        None if is_host(host) => CorsHost::Exact(Arc::from(host.to_ascii_lowercase())),
        _ => return None,
    };
    Some(CorsOrigin { scheme, host, port })
}

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
