//! HTTPRoute: requests by path, header, query and method.

use std::num::NonZeroU32;

use serde::Deserialize;

use super::super::strict::Invalid;
use super::super::tree::quote;
use super::super::value::Regex;
use super::filter::HttpFilter;
use super::reference::{DefaultGateways, FilteredBackend, ParentRef};
use super::value::{Duration, HeaderName, HeaderText, Hostname, SectionName, Text1024, Timeout, TokenName};

/// `HTTPRoute.spec`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// At most 32.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Experimental.
    pub use_default_gateways: Option<DefaultGateways>,
    /// The hosts it is for, at most 16; none means all of its parents.
    #[serde(default)]
    pub hostnames: Vec<Hostname>,
    /// 1 to 16, with at most 128 matches together. Absent means one that matches every request.
    #[serde(default = "HttpRule::only")]
    pub rules: Vec<HttpRule>,
}

/// What to do with the requests that match.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRule {
    /// Unique within the route.
    pub name: Option<SectionName>,
    /// One of them must match; 1 to 64. Absent means every request.
    #[serde(default = "HttpMatch::every", deserialize_with = "matches")]
    pub matches: Vec<HttpMatch>,
    /// Applied to what matches, at most 16.
    #[serde(default)]
    pub filters: Vec<HttpFilter>,
    /// Where it goes, at most 16. None, and no redirect: status 500.
    #[serde(default)]
    pub backend_refs: Vec<FilteredBackend<HttpFilter>>,
    /// How long it may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Whether it is tried again. Experimental.
    pub retry: Option<Retry>,
    /// How later requests find the same endpoint. Experimental.
    pub session_persistence: Option<SessionPersistence>,
}

/// Matches if all of its parts do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpMatch {
    /// Absent means every path.
    #[serde(default)]
    pub path: PathMatch,
    /// All of them must match; at most 16, no name twice.
    #[serde(default)]
    pub headers: Vec<HeaderMatch>,
    /// All of them must match; at most 16, no name twice.
    #[serde(default)]
    pub query_params: Vec<QueryParamMatch>,
    /// Absent means every method.
    pub method: Option<Method>,
}

/// Which paths match. The query is no part of the path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawPathMatch")]
pub enum PathMatch {
    /// This path, which begins with `/`; case counts.
    Exact(String),
    /// This path and those below it, by whole segments: `/v2` is not the prefix of `/v2x`. `/` is of every path.
    Prefix(String),
    /// Paths that the whole expression matches.
    Regex(Regex),
    /// See [`Unread`].
    Unread(Unread),
}

/// Why an expression is none that can be used. The API's schema lets all texts through, and a rule that has such a one
/// is left out, not the whole route: that is what the condition `PartiallyInvalid` is for.
pub type Unread = std::sync::Arc<str>;

/// Which values of a header or a query parameter match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    /// Exactly this one.
    Exact(String),
    /// Those that the whole expression matches.
    Regex(Regex),
    /// See [`Unread`].
    Unread(Unread),
}

/// Which headers match.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "RawMatch<HeaderName, HeaderText>")]
pub struct HeaderMatch {
    /// The header.
    pub name: HeaderName,
    /// Its value.
    pub value: ValueMatch,
}

/// Which query parameters match.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "RawMatch<TokenName, Text1024>")]
pub struct QueryParamMatch {
    /// The parameter; case counts.
    pub name: TokenName,
    /// Its value; of a parameter that is there more than once, the first.
    pub value: ValueMatch,
}

/// An HTTP method that routes can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "they are the methods of RFC 9110 and RFC 5789")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

/// How long a request may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    /// Until the whole response is sent, all tries included; absent leaves it to the implementation.
    pub request: Option<Timeout>,
    /// Of one try; absent leaves it to the implementation. Not longer than [`Self::request`].
    pub backend_request: Option<Timeout>,
}

/// When a request is tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// Status codes that are tried again, besides connections that fail; 400..=599, none twice.
    pub codes: Vec<u16>,
    /// How often at most.
    pub attempts: Option<NonZeroU32>,
    /// How long to wait at least before the next.
    pub backoff: Option<Duration>,
}

/// Sends the requests of one session to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawSessionPersistence")]
pub struct SessionPersistence {
    /// Where the session is written down.
    pub carrier: SessionCarrier,
    /// How long a session lasts; always there for a permanent cookie.
    pub absolute_timeout: Option<Duration>,
}

/// Where a session is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionCarrier {
    /// In a cookie.
    Cookie {
        /// Absent leaves it to the implementation.
        name: Option<TokenName>,
        /// The cookie's `Path`; absent means `/`. At most 1024 characters.
        path: String,
        /// Absent means [`CookieLifetime::Session`].
        lifetime: CookieLifetime,
    },
    /// In a header.
    Header {
        /// Its name.
        name: HeaderName,
    },
}

/// How long a browser keeps a cookie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum CookieLifetime {
    /// As long as the session's timeout says.
    Permanent,
    /// Until it is closed.
    #[default]
    Session,
}

impl HttpRule {
    /// What absent rules mean.
    fn only() -> Vec<Self> {
        vec![Self {
            name: None,
            matches: HttpMatch::every(),
            filters: Vec::new(),
            backend_refs: Vec::new(),
            timeouts: Timeouts::default(),
            retry: None,
            session_persistence: None,
        }]
    }
}

impl HttpRule {
    /// Why the rule is left out, if it is.
    pub fn fault(&self) -> Option<&str> {
        self.matches.iter().find_map(|it| {
            let path = match &it.path {
                PathMatch::Unread(why) => Some(&**why),
                _ => None,
            };
            let headers = it.headers.iter().map(|it| &it.value);
            let mut values = headers.chain(it.query_params.iter().map(|it| &it.value));
            path.or_else(|| values.find_map(ValueMatch::fault))
        })
    }
}

impl ValueMatch {
    /// Why it is none, if it is.
    pub(super) fn fault(&self) -> Option<&str> {
        match self {
            Self::Unread(why) => Some(why),
            Self::Exact(_) | Self::Regex(_) => None,
        }
    }
}

impl HttpMatch {
    /// What absent matches mean.
    fn every() -> Vec<Self> {
        vec![Self { path: PathMatch::default(), headers: Vec::new(), query_params: Vec::new(), method: None }]
    }
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".to_owned())
    }
}

impl Method {
    /// As it stands in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
        }
    }
}

/// The schema takes an empty list, to which it gives the meaning of an absent one.
fn matches<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<HttpMatch>, D::Error> {
    let matches = Vec::deserialize(deserializer)?;
    Ok(if matches.is_empty() { HttpMatch::every() } else { matches })
}

#[derive(Deserialize)]
struct RawPathMatch {
    #[serde(default)]
    r#type: PathMatchType,
    value: Option<String>,
}

#[derive(Default, Deserialize)]
enum PathMatchType {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

impl TryFrom<RawPathMatch> for PathMatch {
    type Error = Invalid;

    fn try_from(RawPathMatch { r#type, value }: RawPathMatch) -> Result<Self, Invalid> {
        let value = value.unwrap_or_else(|| "/".to_owned());
        match r#type {
            PathMatchType::RegularExpression => Ok(regex(&value).map_or_else(Self::Unread, Self::Regex)),
            PathMatchType::Exact => check_path(&value).map(|()| Self::Exact(value)),
            PathMatchType::PathPrefix => check_path(&value).map(|()| Self::Prefix(value)),
        }
    }
}

/// A path is absolute and already normal: no proxy on the way would make another one of it.
fn check_path(path: &str) -> Result<(), Invalid> {
    let wrong = |reason: String| Err(Invalid::new(reason).field("value"));
    if path.chars().count() > 1024 {
        return wrong("has more than 1024 characters".to_owned());
    }
    if !path.starts_with('/') {
        return wrong(format!("{} does not begin with /", quote(path)));
    }
    let inside = ["//", "/./", "/../", "%2f", "%2F", "#"].into_iter().find(|part| path.contains(part));
    if let Some(part) = inside {
        return wrong(format!("must not contain {part}"));
    }
    if let Some(end) = ["/..", "/."].into_iter().find(|end| path.ends_with(end)) {
        return wrong(format!("must not end in {end}"));
    }
    if !is_url_path(path) {
        return wrong(format!("{} has characters that must be percent-encoded", quote(path)));
    }
    Ok(())
}

/// Whether these are characters of a URL's path, and every `%` begins an encoded byte.
pub(super) fn is_url_path(path: &str) -> bool {
    let mut rest = path.as_bytes();
    loop {
        rest = match rest {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            [b, rest @ ..] if b.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(b) => rest,
            _ => return false,
        };
    }
}

/// Reads a regular expression.
pub(super) fn regex(text: &str) -> Result<Regex, Unread> {
    Regex::parse(text).map_err(|refusal| refusal.to_string().into())
}

/// A name, and what its value must be.
#[derive(Deserialize)]
pub(super) struct RawMatch<N, V> {
    #[serde(default)]
    r#type: ValueMatchType,
    name: N,
    value: V,
}

#[derive(Default, Deserialize)]
pub(super) enum ValueMatchType {
    #[default]
    Exact,
    RegularExpression,
}

impl<N, V: AsRef<str>> RawMatch<N, V> {
    pub(super) fn compile(self) -> (N, ValueMatch) {
        let text = self.value.as_ref().to_owned();
        let value = match self.r#type {
            ValueMatchType::Exact => ValueMatch::Exact(text),
            ValueMatchType::RegularExpression => {
                regex(&text).map_or_else(ValueMatch::Unread, ValueMatch::Regex)
            }
        };
        (self.name, value)
    }
}

impl From<RawMatch<HeaderName, HeaderText>> for HeaderMatch {
    fn from(raw: RawMatch<HeaderName, HeaderText>) -> Self {
        let (name, value) = raw.compile();
        Self { name, value }
    }
}

impl From<RawMatch<TokenName, Text1024>> for QueryParamMatch {
    fn from(raw: RawMatch<TokenName, Text1024>) -> Self {
        let (name, value) = raw.compile();
        Self { name, value }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSessionPersistence {
    absolute_timeout: Option<Duration>,
    #[serde(default)]
    r#type: SessionType,
    cookie: Option<RawCookie>,
    header: Option<RawHeader>,
}

#[derive(Default, Deserialize)]
enum SessionType {
    #[default]
    Cookie,
    Header,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCookie {
    name: Option<TokenName>,
    path: Option<String>,
    #[serde(default)]
    lifetime_type: CookieLifetime,
}

#[derive(Deserialize)]
struct RawHeader {
    name: HeaderName,
}

impl TryFrom<RawSessionPersistence> for SessionPersistence {
    type Error = Invalid;

    fn try_from(raw: RawSessionPersistence) -> Result<Self, Invalid> {
        let absolute_timeout = raw.absolute_timeout;
        let carrier = match (raw.r#type, raw.cookie, raw.header) {
            (SessionType::Cookie, Some(cookie), None) => {
                if cookie.lifetime_type == CookieLifetime::Permanent && absolute_timeout.is_none() {
                    return Err(Invalid::new("absoluteTimeout is required for a permanent cookie"));
                }
                let path = cookie.path.unwrap_or_else(|| "/".to_owned());
                if path.chars().count() > 1024 {
                    return Err(Invalid::new("cookie.path has more than 1024 characters"));
                }
                if !path.starts_with('/') || !path.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b';') {
                    let reason =
                        "cookie.path must begin with / and have neither ; nor anything but visible ASCII";
                    return Err(Invalid::new(reason));
                }
                SessionCarrier::Cookie { name: cookie.name, path, lifetime: cookie.lifetime_type }
            }
            (SessionType::Header, None, Some(header)) => SessionCarrier::Header { name: header.name },
            (SessionType::Cookie, None, _) => {
                return Err(Invalid::new("cookie is required for type Cookie, which is the default"));
            }
            (SessionType::Header, _, None) => return Err(Invalid::new("header is required for type Header")),
            (SessionType::Cookie, ..) => return Err(Invalid::new("is not for type Cookie").field("header")),
            (SessionType::Header, ..) => return Err(Invalid::new("is not for type Header").field("cookie")),
        };
        Ok(Self { carrier, absolute_timeout })
    }
}
