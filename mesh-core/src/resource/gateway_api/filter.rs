//! What routes do to requests and responses on their way.

use std::num::NonZeroU32;

use serde::Deserialize;

use super::super::strict::Invalid;
use super::super::value::Port;
use super::cors::Cors;
use super::reference::{Backend, LocalRef};
use super::value::{HeaderName, HeaderText, PathText, PreciseHostname};

/// A filter of an HTTPRoute.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawHttpFilter")]
pub enum HttpFilter {
    /// Changes the request's headers.
    RequestHeaderModifier(HeaderModifier),
    /// Changes the response's headers.
    ResponseHeaderModifier(HeaderModifier),
    /// Sends a copy somewhere else.
    RequestMirror(RequestMirror),
    /// Answers with another place to ask at.
    RequestRedirect(RequestRedirect),
    /// Changes host or path before the request is sent on.
    UrlRewrite(UrlRewrite),
    /// Answers preflights and marks responses for browsers.
    Cors(Cors),
    /// Asks another service first. Experimental.
    ExternalAuth(ExternalAuth),
    /// A filter of an implementation's own.
    ExtensionRef(LocalRef),
}

/// A filter of a GRPCRoute.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawGrpcFilter")]
pub enum GrpcFilter {
    /// Changes the request's headers.
    RequestHeaderModifier(HeaderModifier),
    /// Changes the response's headers.
    ResponseHeaderModifier(HeaderModifier),
    /// Sends a copy somewhere else.
    RequestMirror(RequestMirror),
    /// A filter of an implementation's own.
    ExtensionRef(LocalRef),
}

/// Changes headers. Each list has at most 16 entries and no name twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HeaderModifier {
    /// Put in place of all values there are.
    pub set: Vec<NamedValue>,
    /// Put beside the values there are.
    pub add: Vec<NamedValue>,
    /// Taken away; case does not count.
    pub remove: Vec<String>,
}

/// A header and its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct NamedValue {
    /// The header.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderText,
}

/// Sends copies of requests to a backend, whose answers are thrown away.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawRequestMirror")]
pub struct RequestMirror {
    /// Where to.
    pub backend: Backend,
    /// Of how many requests; absent means all.
    pub fraction: Fraction,
}

/// `numerator` of `denominator`; never more than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawFraction")]
pub struct Fraction {
    /// At most [`Self::denominator`].
    pub numerator: u32,
    /// Absent means 100.
    pub denominator: NonZeroU32,
}

/// Answers with a redirect; what is absent stays as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRedirect {
    /// Of the new place.
    pub scheme: Option<Scheme>,
    /// Of the new place.
    pub hostname: Option<PreciseHostname>,
    /// Of the new place.
    pub path: Option<PathModifier>,
    /// Of the new place; absent means what belongs to the scheme if one is given, else the listener's.
    pub port: Option<Port>,
    /// Absent means 302.
    #[serde(default)]
    pub status_code: RedirectStatus,
}

/// The scheme of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// `http`, port 80.
    Http,
    /// `https`, port 443.
    Https,
}

/// Status codes of a redirect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "u16")]
pub enum RedirectStatus {
    /// 301.
    MovedPermanently,
    /// 302.
    #[default]
    Found,
    /// 303.
    SeeOther,
    /// 307.
    TemporaryRedirect,
    /// 308.
    PermanentRedirect,
}

/// Changes a request's host or path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct UrlRewrite {
    /// The new Host header.
    pub hostname: Option<PreciseHostname>,
    /// The new path.
    pub path: Option<PathModifier>,
}

/// How a path changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "RawPathModifier")]
pub enum PathModifier {
    /// The whole path becomes this.
    ReplaceFullPath(PathText),
    /// The part that the rule's only prefix match matched becomes this.
    ReplacePrefixMatch(PathText),
}

/// Asks an authorizer before a request is sent on. Experimental.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawExternalAuth")]
pub struct ExternalAuth {
    /// Whom to ask.
    pub backend: Backend,
    /// How to ask.
    pub protocol: AuthProtocol,
    /// The first bytes of the body to send along, 0 for none.
    pub forward_body: u32,
}

/// How an authorizer is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthProtocol {
    /// With the request itself under another path.
    Http {
        /// Goes before the request's own path.
        path: Option<String>,
        /// The headers to send along besides those always sent, at most 64.
        allowed_headers: Vec<String>,
        /// The headers of the answer to add to the request, at most 64.
        allowed_response_headers: Vec<String>,
    },
    /// With Envoy's `ext_authz` protocol.
    Grpc {
        /// The headers to send along besides those always sent, at most 64.
        allowed_headers: Vec<String>,
    },
}

impl HttpFilter {
    /// Its `type`, as users write it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::RequestHeaderModifier(_) => "RequestHeaderModifier",
            Self::ResponseHeaderModifier(_) => "ResponseHeaderModifier",
            Self::RequestMirror(_) => "RequestMirror",
            Self::RequestRedirect(_) => "RequestRedirect",
            Self::UrlRewrite(_) => "URLRewrite",
            Self::Cors(_) => "CORS",
            Self::ExternalAuth(_) => "ExternalAuth",
            Self::ExtensionRef(_) => "ExtensionRef",
        }
    }
}

impl GrpcFilter {
    /// Its `type`, as users write it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::RequestHeaderModifier(_) => "RequestHeaderModifier",
            Self::ResponseHeaderModifier(_) => "ResponseHeaderModifier",
            Self::RequestMirror(_) => "RequestMirror",
            Self::ExtensionRef(_) => "ExtensionRef",
        }
    }
}

impl RedirectStatus {
    /// The number.
    pub fn code(self) -> u16 {
        match self {
            Self::MovedPermanently => 301,
            Self::Found => 302,
            Self::SeeOther => 303,
            Self::TemporaryRedirect => 307,
            Self::PermanentRedirect => 308,
        }
    }
}

impl TryFrom<u16> for RedirectStatus {
    type Error = Invalid;

    fn try_from(code: u16) -> Result<Self, Invalid> {
        Ok(match code {
            301 => Self::MovedPermanently,
            302 => Self::Found,
            303 => Self::SeeOther,
            307 => Self::TemporaryRedirect,
            308 => Self::PermanentRedirect,
            _ => {
                let reason = format!("{code} is not the status of a redirect");
                return Err(Invalid::new(reason).hint("one of 301, 302, 303, 307, 308"));
            }
        })
    }
}

impl Fraction {
    /// Every request.
    pub const ALL: Self = Self { numerator: 1, denominator: NonZeroU32::MIN };
}

/// The API's own spelling of a filter: a type, and one field per type of which only its own may be there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHttpFilter {
    r#type: HttpFilterType,
    request_header_modifier: Option<HeaderModifier>,
    response_header_modifier: Option<HeaderModifier>,
    request_mirror: Option<RequestMirror>,
    request_redirect: Option<RequestRedirect>,
    url_rewrite: Option<UrlRewrite>,
    cors: Option<Cors>,
    external_auth: Option<ExternalAuth>,
    extension_ref: Option<LocalRef>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum HttpFilterType {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestMirror,
    RequestRedirect,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    #[serde(rename = "CORS")]
    Cors,
    ExternalAuth,
    ExtensionRef,
}

impl TryFrom<RawHttpFilter> for HttpFilter {
    type Error = Invalid;

    fn try_from(raw: RawHttpFilter) -> Result<Self, Invalid> {
        use HttpFilterType as Type;
        let given = [
            ("requestHeaderModifier", Type::RequestHeaderModifier, raw.request_header_modifier.is_some()),
            ("responseHeaderModifier", Type::ResponseHeaderModifier, raw.response_header_modifier.is_some()),
            ("requestMirror", Type::RequestMirror, raw.request_mirror.is_some()),
            ("requestRedirect", Type::RequestRedirect, raw.request_redirect.is_some()),
            ("urlRewrite", Type::UrlRewrite, raw.url_rewrite.is_some()),
            ("cors", Type::Cors, raw.cors.is_some()),
            ("externalAuth", Type::ExternalAuth, raw.external_auth.is_some()),
            ("extensionRef", Type::ExtensionRef, raw.extension_ref.is_some()),
        ];
        only(raw.r#type, &given)?;
        let filter = match raw.r#type {
            Type::RequestHeaderModifier => raw.request_header_modifier.map(Self::RequestHeaderModifier),
            Type::ResponseHeaderModifier => raw.response_header_modifier.map(Self::ResponseHeaderModifier),
            Type::RequestMirror => raw.request_mirror.map(Self::RequestMirror),
            Type::RequestRedirect => raw.request_redirect.map(Self::RequestRedirect),
            Type::UrlRewrite => raw.url_rewrite.map(Self::UrlRewrite),
            Type::Cors => raw.cors.map(Self::Cors),
            Type::ExternalAuth => raw.external_auth.map(Self::ExternalAuth),
            Type::ExtensionRef => raw.extension_ref.map(Self::ExtensionRef),
        };
        Ok(filter.expect("only() has seen the type's own field"))
    }
}

/// As [`RawHttpFilter`].
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawGrpcFilter {
    r#type: GrpcFilterType,
    request_header_modifier: Option<HeaderModifier>,
    response_header_modifier: Option<HeaderModifier>,
    request_mirror: Option<RequestMirror>,
    extension_ref: Option<LocalRef>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum GrpcFilterType {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestMirror,
    ExtensionRef,
}

impl TryFrom<RawGrpcFilter> for GrpcFilter {
    type Error = Invalid;

    fn try_from(raw: RawGrpcFilter) -> Result<Self, Invalid> {
        use GrpcFilterType as Type;
        let given = [
            ("requestHeaderModifier", Type::RequestHeaderModifier, raw.request_header_modifier.is_some()),
            ("responseHeaderModifier", Type::ResponseHeaderModifier, raw.response_header_modifier.is_some()),
            ("requestMirror", Type::RequestMirror, raw.request_mirror.is_some()),
            ("extensionRef", Type::ExtensionRef, raw.extension_ref.is_some()),
        ];
        only(raw.r#type, &given)?;
        let filter = match raw.r#type {
            Type::RequestHeaderModifier => raw.request_header_modifier.map(Self::RequestHeaderModifier),
            Type::ResponseHeaderModifier => raw.response_header_modifier.map(Self::ResponseHeaderModifier),
            Type::RequestMirror => raw.request_mirror.map(Self::RequestMirror),
            Type::ExtensionRef => raw.extension_ref.map(Self::ExtensionRef),
        };
        Ok(filter.expect("only() has seen the type's own field"))
    }
}

/// Of the fields, the one that belongs to `wanted` must be there and no other may be.
fn only<T: Copy + PartialEq>(wanted: T, fields: &[(&'static str, T, bool)]) -> Result<(), Invalid> {
    for (field, of, given) in fields {
        if *given && *of != wanted {
            let reason = "belongs to a filter of another type";
            return Err(Invalid::new(reason).field(field).hint("one filter does one thing: write two"));
        }
        if !given && *of == wanted {
            return Err(Invalid::new(format!("{field} is required for a filter of this type")));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRequestMirror {
    backend_ref: Backend,
    percent: Option<u32>,
    fraction: Option<Fraction>,
}

impl TryFrom<RawRequestMirror> for RequestMirror {
    type Error = Invalid;

    fn try_from(raw: RawRequestMirror) -> Result<Self, Invalid> {
        let hundred = NonZeroU32::new(100).expect("100 is not 0");
        let fraction = match (raw.percent, raw.fraction) {
            (Some(_), Some(_)) => {
                return Err(Invalid::new("cannot be combined with percent").field("fraction"));
            }
            (Some(percent), None) if percent > 100 => {
                return Err(Invalid::new(format!("{percent} is not between 0 and 100")).field("percent"));
            }
            (Some(percent), None) => Fraction { numerator: percent, denominator: hundred },
            (None, Some(fraction)) => fraction,
            (None, None) => Fraction::ALL,
        };
        Ok(Self { backend: raw.backend_ref, fraction })
    }
}

#[derive(Deserialize)]
struct RawFraction {
    numerator: u32,
    denominator: Option<u32>,
}

impl TryFrom<RawFraction> for Fraction {
    type Error = Invalid;

    fn try_from(RawFraction { numerator, denominator }: RawFraction) -> Result<Self, Invalid> {
        let Some(denominator) = NonZeroU32::new(denominator.unwrap_or(100)) else {
            return Err(Invalid::new("must not be 0").field("denominator"));
        };
        if numerator > denominator.get() {
            let reason = format!("{numerator} is more than the denominator, {denominator}");
            return Err(Invalid::new(reason).field("numerator"));
        }
        Ok(Self { numerator, denominator })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPathModifier {
    r#type: PathModifierType,
    replace_full_path: Option<PathText>,
    replace_prefix_match: Option<PathText>,
}

#[derive(Deserialize)]
enum PathModifierType {
    ReplaceFullPath,
    ReplacePrefixMatch,
}

impl TryFrom<RawPathModifier> for PathModifier {
    type Error = Invalid;

    fn try_from(raw: RawPathModifier) -> Result<Self, Invalid> {
        match (raw.r#type, raw.replace_full_path, raw.replace_prefix_match) {
            (PathModifierType::ReplaceFullPath, Some(path), None) => Ok(Self::ReplaceFullPath(path)),
            (PathModifierType::ReplacePrefixMatch, None, Some(path)) => Ok(Self::ReplacePrefixMatch(path)),
            (PathModifierType::ReplaceFullPath, None, _) => {
                Err(Invalid::new("replaceFullPath is required for type ReplaceFullPath"))
            }
            (PathModifierType::ReplacePrefixMatch, _, None) => {
                Err(Invalid::new("replacePrefixMatch is required for type ReplacePrefixMatch"))
            }
            (PathModifierType::ReplaceFullPath, ..) => {
                Err(Invalid::new("is not for type ReplaceFullPath").field("replacePrefixMatch"))
            }
            (PathModifierType::ReplacePrefixMatch, ..) => {
                Err(Invalid::new("is not for type ReplacePrefixMatch").field("replaceFullPath"))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawExternalAuth {
    protocol: RawAuthProtocol,
    backend_ref: Backend,
    grpc: Option<RawGrpcAuth>,
    http: Option<RawHttpAuth>,
    forward_body: Option<RawForwardBody>,
}

#[derive(Deserialize)]
enum RawAuthProtocol {
    #[serde(rename = "HTTP")]
    Http,
    #[serde(rename = "GRPC")]
    Grpc,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawGrpcAuth {
    #[serde(default)]
    allowed_headers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHttpAuth {
    path: Option<String>,
    #[serde(default)]
    allowed_headers: Vec<String>,
    #[serde(default)]
    allowed_response_headers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawForwardBody {
    #[serde(default)]
    max_size: u32,
}

impl TryFrom<RawExternalAuth> for ExternalAuth {
    type Error = Invalid;

    fn try_from(raw: RawExternalAuth) -> Result<Self, Invalid> {
        let protocol = match (raw.protocol, raw.http, raw.grpc) {
            (RawAuthProtocol::Http, Some(http), None) => {
                if !http.path.as_deref().is_none_or(is_auth_path) {
                    return Err(Invalid::new("http.path is not a URL path of at most 1024 characters"));
                }
                let RawHttpAuth { path, allowed_headers, allowed_response_headers } = http;
                AuthProtocol::Http { path, allowed_headers, allowed_response_headers }
            }
            (RawAuthProtocol::Grpc, None, Some(RawGrpcAuth { allowed_headers })) => {
                AuthProtocol::Grpc { allowed_headers }
            }
            (RawAuthProtocol::Http, None, _) => {
                return Err(Invalid::new("http is required for protocol HTTP"));
            }
            (RawAuthProtocol::Grpc, _, None) => {
                return Err(Invalid::new("grpc is required for protocol GRPC"));
            }
            (RawAuthProtocol::Http, ..) => return Err(Invalid::new("is not for protocol HTTP").field("grpc")),
            (RawAuthProtocol::Grpc, ..) => return Err(Invalid::new("is not for protocol GRPC").field("http")),
        };
        let forward_body = raw.forward_body.map_or(0, |body| body.max_size);
        Ok(Self { backend: raw.backend_ref, protocol, forward_body })
    }
}

fn is_auth_path(path: &str) -> bool {
    !path.is_empty() && path.len() <= 1024 && super::http_route::is_url_path(path)
}
