//! GRPCRoute: calls by service, method and header.

use serde::Deserialize;

use super::super::strict::Invalid;
use super::super::tree::quote;
use super::super::value::Regex;
use super::filter::GrpcFilter;
use super::http_route::{RawMatch, SessionPersistence, Unread, ValueMatch, regex};
use super::reference::{DefaultGateways, FilteredBackend, ParentRef};
use super::value::{HeaderName, Hostname, SectionName, Text4096};

/// `GRPCRoute.spec`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRouteSpec {
    /// At most 32.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Experimental.
    pub use_default_gateways: Option<DefaultGateways>,
    /// The hosts it is for, at most 16; none means all of its parents.
    #[serde(default)]
    pub hostnames: Vec<Hostname>,
    /// At most 16, with at most 128 matches together.
    #[serde(default)]
    pub rules: Vec<GrpcRule>,
}

/// What to do with the calls that match.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRule {
    /// Unique within the route.
    pub name: Option<SectionName>,
    /// One of them must match; at most 64. None means every call.
    #[serde(default)]
    pub matches: Vec<GrpcMatch>,
    /// Applied to what matches, at most 16.
    #[serde(default)]
    pub filters: Vec<GrpcFilter>,
    /// Where it goes, at most 16. None: status UNAVAILABLE.
    #[serde(default)]
    pub backend_refs: Vec<FilteredBackend<GrpcFilter>>,
    /// How later calls find the same endpoint. Experimental.
    pub session_persistence: Option<SessionPersistence>,
}

/// Matches if all of its parts do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GrpcMatch {
    /// Absent means every method.
    pub method: Option<GrpcMethodMatch>,
    /// All of them must match; at most 16, no name twice.
    #[serde(default)]
    pub headers: Vec<GrpcHeaderMatch>,
}

/// Which methods match; at least one of the two is there, an absent one matches all.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawMethodMatch")]
pub enum GrpcMethodMatch {
    /// Exactly these; case counts.
    Exact {
        /// For example `grpc.health.v1.Health`.
        service: Option<String>,
        /// For example `Check`.
        method: Option<String>,
    },
    /// Those that the whole expressions match.
    Regex {
        /// Of services.
        service: Option<Regex>,
        /// Of methods.
        method: Option<Regex>,
    },
    /// See [`Unread`].
    Unread(Unread),
}

/// Which headers match.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "RawMatch<HeaderName, Text4096>")]
pub struct GrpcHeaderMatch {
    /// The header.
    pub name: HeaderName,
    /// Its value.
    pub value: ValueMatch,
}

impl From<RawMatch<HeaderName, Text4096>> for GrpcHeaderMatch {
    fn from(raw: RawMatch<HeaderName, Text4096>) -> Self {
        let (name, value) = raw.compile();
        Self { name, value }
    }
}

impl GrpcRule {
    /// Why the rule is left out, if it is.
    pub fn fault(&self) -> Option<&str> {
        self.matches.iter().find_map(|it| match &it.method {
            Some(GrpcMethodMatch::Unread(why)) => Some(&**why),
            _ => it.headers.iter().find_map(|it| it.value.fault()),
        })
    }
}

#[derive(Deserialize)]
struct RawMethodMatch {
    #[serde(default)]
    r#type: MethodMatchType,
    service: Option<String>,
    method: Option<String>,
}

#[derive(Default, Deserialize)]
enum MethodMatchType {
    #[default]
    Exact,
    RegularExpression,
}

impl TryFrom<RawMethodMatch> for GrpcMethodMatch {
    type Error = Invalid;

    fn try_from(RawMethodMatch { r#type, service, method }: RawMethodMatch) -> Result<Self, Invalid> {
        if service.is_none() && method.is_none() {
            return Err(Invalid::new("service or method is required"));
        }
        match r#type {
            MethodMatchType::Exact => {
                let is_service =
                    |text: &str| text.strip_prefix('.').unwrap_or(text).split('.').all(is_identifier);
                check("service", service.as_deref(), is_service)?;
                check("method", method.as_deref(), is_identifier)?;
                Ok(Self::Exact { service, method })
            }
            MethodMatchType::RegularExpression => {
                let read = |text: Option<String>| text.map(|text| regex(&text)).transpose();
                Ok(match (read(service), read(method)) {
                    (Ok(service), Ok(method)) => Self::Regex { service, method },
                    (Err(why), _) | (_, Err(why)) => Self::Unread(why),
                })
            }
        }
    }
}

fn check(field: &'static str, text: Option<&str>, is_valid: impl Fn(&str) -> bool) -> Result<(), Invalid> {
    match text {
        Some(text) if text.chars().count() > 1024 => {
            Err(Invalid::new("has more than 1024 characters").field(field))
        }
        Some(text) if !is_valid(text) => {
            Err(Invalid::new(format!("{} is not the name of a gRPC {field}", quote(text))).field(field))
        }
        _ => Ok(()),
    }
}

/// A name of Protocol Buffers.
fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
