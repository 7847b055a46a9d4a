//! `VirtualService.spec`: which requests and connections go where, and what happens to them on the way.

use std::collections::BTreeMap;

use serde::Deserialize;

pub use self::action::{
    Body, Delegate, DerivePort, DirectResponse, HttpAction, Mirror, PathRewrite, Redirect, RedirectScheme,
    RegexRewrite, Rewrite,
};
pub use self::fault::{Abort, AbortError, Delay, Fault, GrpcStatus, Percentage};
pub use self::l4::{L4Match, RouteDestination, TcpRoute, TlsMatch, TlsRoute};
pub use self::traffic::{CorsPolicy, Retries, RetryOn, UnmatchedPreflights};
use super::Destination;
use crate::resource::value::{
    self, Duration, ExportTo, GatewayName, HeaderKey, HeaderName, HeaderValue, Host, Percent, Port,
    StringMatch,
};

mod action;
mod fault;
mod l4;
mod traffic;

/// `VirtualService.spec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualServiceSpec {
    /// What clients ask for. None: another VirtualService delegates to this one.
    pub hosts: Vec<Host>,
    /// Which clients it is for; none means the mesh, see [`VirtualServiceSpec::applies_to_mesh`].
    pub gateways: Vec<GatewayName>,
    /// For HTTP, in this order: the first that matches is used.
    pub http: Vec<HttpRoute>,
    /// For TLS that is passed on unopened, in this order.
    pub tls: Vec<TlsRoute>,
    /// For all else, in this order.
    pub tcp: Vec<TcpRoute>,
    /// Who sees it.
    pub export_to: Vec<ExportTo>,
}

/// A rule for HTTP requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("not" = {"required": ["mirror", "mirrors"]})))]
#[cfg_attr(feature = "schema", schemars(transform = crate::resource::schema::with_older_name))]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRoute {
    /// For logs and metrics.
    pub name: String,
    /// One of them must match; none matches every request.
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatch>,
    /// Where the request goes, by weight. [`HttpRoute::action`] has this and the next three as one.
    pub route: Vec<HttpDestination>,
    /// Answers with another address.
    pub redirect: Option<Redirect>,
    /// Answers itself. Together with a delegate: what the delegate's rules do that have no action of their own.
    pub direct_response: Option<DirectResponse>,
    /// Leaves the decision to another VirtualService.
    pub delegate: Option<Delegate>,
    /// Changes the request before it is sent.
    pub rewrite: Option<Rewrite>,
    /// For the whole request with all retries; absent means none.
    pub timeout: Option<Duration>,
    /// Absent means 2 of them, see [`Retries::UNSET`].
    pub retries: Option<Retries>,
    /// Makes requests fail or wait on purpose. Timeouts and retries do not apply to those.
    pub fault: Option<Fault>,
    /// Also sends a copy there, see [`HttpRoute::copies`].
    pub mirror: Option<Destination>,
    /// Share of the requests that [`HttpRoute::mirror`] gets.
    pub mirror_percentage: Option<Percentage>,
    /// The older, whole-numbered form of [`HttpRoute::mirror_percentage`], 0..=100.
    #[serde(alias = "mirror_percent")]
    pub mirror_percent: Option<u32>,
    /// Also sends copies there; excludes [`HttpRoute::mirror`].
    pub mirrors: Vec<Mirror>,
    /// Lets pages of other origins read the answers.
    pub cors_policy: Option<CorsPolicy>,
    /// Headers to change for every destination, before those that a destination changes.
    pub headers: Headers,
}

/// What a request must be: all that is given must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatch {
    /// For logs and metrics.
    pub name: String,
    /// The path without its query. A prefix is compared as text: `/a` matches `/ab`.
    pub uri: Option<StringMatch>,
    /// `http` or `https`.
    pub scheme: Option<StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
    /// The host that was asked for.
    pub authority: Option<StringMatch>,
    /// Headers and claims that must be there and match.
    #[serde(deserialize_with = "value::string_match::by_name")]
    #[cfg_attr(feature = "schema", schemars(with = "BTreeMap<HeaderKey, StringMatch>"))]
    pub headers: BTreeMap<HeaderKey, StringMatch>,
    /// Headers and claims that must not match; one that is not there does not.
    #[serde(deserialize_with = "value::string_match::by_name")]
    #[cfg_attr(feature = "schema", schemars(with = "BTreeMap<HeaderKey, StringMatch>"))]
    pub without_headers: BTreeMap<HeaderKey, StringMatch>,
    /// Parameters of the query that must be there and match.
    #[serde(deserialize_with = "value::string_match::by_name")]
    #[cfg_attr(feature = "schema", schemars(with = "BTreeMap<String, StringMatch>"))]
    pub query_params: BTreeMap<String, StringMatch>,
    /// Compares an exact or prefix [`HttpMatch::uri`] without regard to case.
    pub ignore_uri_case: bool,
    /// Port of the service that was asked for.
    pub port: Option<Port>,
    /// Labels of the client; all must be equal.
    pub source_labels: BTreeMap<String, String>,
    /// Namespace of the client; empty means any.
    pub source_namespace: String,
    /// Gateways this is for, instead of those of the VirtualService; none means those.
    pub gateways: Vec<GatewayName>,
    /// Names metrics of requests that match.
    pub stat_prefix: String,
}

/// One of the destinations of an [`HttpRoute`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct HttpDestination {
    /// The service.
    pub destination: Destination,
    /// Its share is this, divided by the sum of all. A single destination gets everything.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(range(max = 2_147_483_647)))]
    pub weight: u32,
    /// Headers to change for this destination, after those of the route.
    #[serde(default)]
    pub headers: Headers,
}

/// Headers to change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Headers {
    /// Of the request, before it is sent on. Only here may the host be set.
    pub request: HeaderOperations,
    /// Of the answer.
    pub response: HeaderOperations,
}

/// Changes to headers. Istio's proxies first remove, then set, then add.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderOperations {
    /// Replaces what is there.
    #[serde(deserialize_with = "value::unique")]
    #[cfg_attr(feature = "schema", schemars(with = "BTreeMap<HeaderName, HeaderValue>"))]
    pub set: BTreeMap<HeaderName, HeaderValue>,
    /// Goes beside what is there.
    #[serde(deserialize_with = "value::unique")]
    #[cfg_attr(feature = "schema", schemars(with = "BTreeMap<HeaderName, HeaderValue>"))]
    pub add: BTreeMap<HeaderName, HeaderValue>,
    /// Goes away.
    pub remove: Vec<HeaderName>,
}

impl VirtualServiceSpec {
    /// Whether it is for clients in the mesh: no gateways, or `mesh` among them.
    pub fn applies_to_mesh(&self) -> bool {
        self.gateways.is_empty() || self.gateways.contains(&GatewayName::Mesh)
    }

    /// Whether another one delegates to it.
    pub fn is_delegate(&self) -> bool {
        self.hosts.is_empty()
    }
}

impl HttpRoute {
    /// What is done with the request: the one that is given, which parsing has made sure of.
    pub fn action(&self) -> HttpAction<'_> {
        match (&self.redirect, &self.delegate, &self.direct_response) {
            (Some(redirect), _, _) => HttpAction::Redirect(redirect),
            (_, Some(delegate), _) => HttpAction::Delegate(delegate),
            (_, _, Some(response)) => HttpAction::Respond(response),
            (None, None, None) => HttpAction::Route(&self.route),
        }
    }

    /// Who gets a copy of which share of the requests.
    pub fn copies(&self) -> impl Iterator<Item = (&Destination, Percent)> {
        let older = self.mirror_percent.and_then(Percent::whole);
        let share =
            self.mirror_percentage.map(|percentage| percentage.value).or(older).unwrap_or(Percent::ALL);
        let single = self.mirror.iter().map(move |destination| (destination, share));
        single.chain(self.mirrors.iter().map(|mirror| (&mirror.destination, mirror.share())))
    }
}

impl HttpMatch {
    /// Whether it matches every request.
    pub fn is_empty(&self) -> bool {
        self.uri.is_none() && self.is_only_about_uri()
    }

    /// Whether nothing but the path decides.
    pub(in crate::resource) fn is_only_about_uri(&self) -> bool {
        let line = self.scheme.is_none() && self.method.is_none() && self.authority.is_none();
        let maps = self.headers.is_empty() && self.without_headers.is_empty() && self.query_params.is_empty();
        let source = self.source_labels.is_empty() && self.source_namespace.is_empty();
        line && maps && source && self.port.is_none() && self.gateways.is_empty()
    }
}
