//! `security.istio.io` RequestAuthentication: which tokens a workload accepts.

use serde::Deserialize;

use super::security::{PolicyTargetReference, WorkloadSelector};
use super::value::Duration;

/// `RequestAuthentication.spec`. A request without a token passes; one with a token that no rule accepts does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-validations" = [{"rule": "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1", "message": "only one of selector, targetRef and targetRefs may be given"}])))]
#[serde(rename_all = "camelCase", default)]
pub struct RequestAuthenticationSpec {
    /// The workloads it is for; absent means the whole namespace, or the whole mesh in the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// The older, single form of [`Self::target_refs`].
    pub target_ref: Option<PolicyTargetReference>,
    /// The gateways, waypoints or services it is for, at most 16; excludes a selector.
    #[cfg_attr(feature = "schema", schemars(length(max = 16)))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// At most 4096; a token is checked by those of its issuer. Those of all policies of a workload count.
    #[cfg_attr(feature = "schema", schemars(length(max = 4096)))]
    pub jwt_rules: Vec<JwtRule>,
}

/// An issuer, its keys, and what becomes of its tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("not" = {"required": ["jwks", "jwksUri"]})))]
#[serde(rename_all = "camelCase", default)]
pub struct JwtRule {
    /// What `iss` must be; absent does not look at it.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub issuer: Option<String>,
    /// One of them must be in `aud`; none means any.
    #[cfg_attr(feature = "schema", schemars(inner(length(min = 1))))]
    pub audiences: Vec<String>,
    /// Where the keys are, `http` or `https`, at most 2048 characters; excludes [`Self::jwks`].
    #[serde(alias = "jwks_uri")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 2048), regex(pattern = "^https?://.")))]
    pub jwks_uri: Option<String>,
    /// The keys themselves, as JSON.
    pub jwks: Option<String>,
    /// Headers to look for a token in. With none of the three lists: `Authorization: Bearer`, then the query
    /// parameter `access_token`.
    pub from_headers: Vec<JwtHeader>,
    /// Query parameters to look for a token in.
    #[cfg_attr(feature = "schema", schemars(inner(length(min = 1))))]
    pub from_params: Vec<String>,
    /// Cookies to look for a token in.
    #[cfg_attr(feature = "schema", schemars(inner(length(min = 1))))]
    pub from_cookies: Vec<String>,
    /// The header that hands the payload, as base64url, to the workload.
    pub output_payload_to_header: Option<String>,
    /// Whether the workload gets the token as well; it is taken out of the request otherwise.
    pub forward_original_token: bool,
    /// Headers that hand single claims to the workload.
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// How long to wait for keys, at least 1 ms; absent means 5 s.
    pub timeout: Option<Duration>,
    /// Claims, besides `scope` and `permission`, that are lists of words in one string. At most 64.
    #[cfg_attr(feature = "schema", schemars(length(max = 64), inner(length(min = 1))))]
    pub space_delimited_claims: Vec<String>,
}

/// A header that may hold a token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JwtHeader {
    /// Its name.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub name: String,
    /// What stands before the token, its space included, for example `Bearer `.
    #[serde(default)]
    pub prefix: String,
}

/// A claim that becomes a header, which it replaces if the request has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClaimToHeader {
    /// Letters, digits, `-` and `_`.
    #[cfg_attr(feature = "schema", schemars(length(min = 1), regex(pattern = "^[-_A-Za-z0-9]+$")))]
    pub header: String,
    /// A string, number or boolean; dots lead into objects.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub claim: String,
}

/// Where the keys of a rule come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySource<'a> {
    /// They stand in the rule, as JSON.
    Inline(&'a str),
    /// They are fetched from this URL.
    Url(&'a str),
    /// Their URL is asked of this issuer, by `OpenID` Connect discovery.
    Issuer(&'a str),
    /// Nowhere: no token is valid.
    Nowhere,
}

impl JwtRule {
    /// Where the keys come from.
    pub fn keys(&self) -> KeySource<'_> {
        match (&self.jwks, &self.jwks_uri, &self.issuer) {
            (Some(keys), ..) => KeySource::Inline(keys),
            (None, Some(url), _) => KeySource::Url(url),
            (None, None, Some(issuer)) => KeySource::Issuer(issuer),
            (None, None, None) => KeySource::Nowhere,
        }
    }
}

#[cfg(test)]
mod tests;
