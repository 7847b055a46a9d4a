//! What a rule for HTTP does with a request.

use serde::{Deserialize, Deserializer};

#[cfg(feature = "schema")]
use crate::resource::schema::at_most_one;

use super::fault::Percentage;
use super::{Destination, HttpDestination};
use crate::resource::value::{self, HttpStatus, Percent, Port, Refusal, Regex};

/// What is done with a request that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpAction<'a> {
    /// It is sent to one of these; never empty.
    Route(&'a [HttpDestination]),
    /// It is answered with another address.
    Redirect(&'a Redirect),
    /// It is answered here.
    Respond(&'a DirectResponse),
    /// Another VirtualService decides.
    Delegate(&'a Delegate),
}

/// Answers with another address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("oneOf" = at_most_one(&["port", "derivePort"]))))]
#[serde(rename_all = "camelCase", default)]
pub struct Redirect {
    /// Replaces the whole path; empty keeps it.
    pub uri: String,
    /// Replaces the prefix that matched; excludes [`Redirect::uri`], empty keeps it.
    pub prefix_rewrite: String,
    /// Replaces the host; empty keeps it.
    pub authority: String,
    /// Replaces the scheme.
    pub scheme: Option<RedirectScheme>,
    /// Replaces the port.
    pub port: Option<Port>,
    /// Where the port comes from if there is no [`Redirect::port`].
    pub derive_port: Option<DerivePort>,
    /// 300..=399, of which proxies know 301, 302, 303, 307 and 308; absent means 301.
    #[cfg_attr(feature = "schema", schemars(range(min = 300, max = 399)))]
    pub redirect_code: Option<u32>,
}

/// The scheme of a [`Redirect`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum RedirectScheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

/// Where the port of a [`Redirect`] comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DerivePort {
    /// 80 for http, 443 for https.
    #[default]
    FromProtocolDefault,
    /// As it was.
    FromRequestPort,
}

/// Answers without asking anybody.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DirectResponse {
    /// The status.
    pub status: HttpStatus,
    /// The body; absent means an empty one.
    #[serde(default)]
    pub body: Option<Body>,
}

/// The body of a [`DirectResponse`], at most 1 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// `string`.
    Text(String),
    /// `bytes`, written in base64.
    Bytes(Vec<u8>),
}

/// Another VirtualService, which has no hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Delegate {
    /// Its name.
    pub name: String,
    /// Its namespace; empty means that of this one.
    pub namespace: String,
}

/// Changes to the request line and the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Rewrite {
    /// Replaces the prefix that matched, or a path that matched otherwise; empty keeps it. See [`Rewrite::path`].
    pub uri: String,
    /// Replaces all that an expression finds in the path; excludes [`Rewrite::uri`].
    pub uri_regex_rewrite: Option<RegexRewrite>,
    /// Replaces the host; empty keeps it.
    pub authority: String,
}

/// What happens to the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathRewrite<'a> {
    /// The prefix that matched is replaced, or the whole path where none did.
    Matched(&'a str),
    /// All that is found is replaced.
    Regex(&'a RegexRewrite),
}

/// Replaces what an expression finds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RegexRewrite {
    /// What is looked for.
    #[serde(rename = "match", deserialize_with = "search")]
    pub pattern: Regex,
    /// What replaces it; `\1` to `\9` are groups, `\0` is all of it, `\\` is a backslash.
    pub rewrite: String,
}

/// Also sends a copy of requests somewhere; the answers are dropped.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Where to.
    pub destination: Destination,
    /// Which share; absent means all.
    #[serde(default)]
    pub percentage: Option<Percentage>,
}

impl Redirect {
    /// Status codes that the answer can have.
    pub const CODES: [u32; 5] = [301, 302, 303, 307, 308];
}

impl Rewrite {
    /// What happens to the path, if anything.
    pub fn path(&self) -> Option<PathRewrite<'_>> {
        match &self.uri_regex_rewrite {
            Some(regex) => Some(PathRewrite::Regex(regex)),
            None => Some(self.uri.as_str()).filter(|uri| !uri.is_empty()).map(PathRewrite::Matched),
        }
    }
}

impl Mirror {
    /// The share of requests that are copied.
    pub fn share(&self) -> Percent {
        self.percentage.map_or(Percent::ALL, |percentage| percentage.value)
    }
}

impl Body {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            string: Option<String>,
            bytes: Option<Base64>,
        }
        let refused = |reason: &str| Refusal::new(reason).into_error();
        match Fields::deserialize(deserializer)? {
            Fields { string: Some(text), bytes: None } => Ok(Self::Text(text)),
            Fields { string: None, bytes: Some(Base64(bytes)) } => Ok(Self::Bytes(bytes)),
            Fields { string: None, bytes: None } => Err(serde::de::Error::missing_field("string or bytes")),
            _ => Err(refused("only one of string and bytes may be given")),
        }
    }
}

struct Base64(Vec<u8>);

impl value::FromText for Base64 {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        use base64::Engine as _;
        let decoded = base64::engine::general_purpose::STANDARD.decode(text);
        decoded.map(Self).map_err(|error| Refusal::new(format!("not base64: {error}")))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        value::deserialize(deserializer)
    }
}

value::inline_schema!(Body, {
    "type": "object",
    "properties": {
        "string": {"type": "string"},
        "bytes": {"type": "string", "format": "byte"}
    },
    "oneOf": (crate::resource::schema::exactly_one(&["string", "bytes"]))
});

fn search<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Regex, D::Error> {
    value::deserialize(deserializer).map(|Search(regex)| regex)
}

/// An expression that is looked for, not compared with the whole.
struct Search(Regex);

impl value::FromText for Search {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        Regex::parse_search(text).map(Self)
    }
}
