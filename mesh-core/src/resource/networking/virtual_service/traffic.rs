//! Retries, and requests from pages of other origins.

use serde::{Deserialize, Deserializer};

use crate::resource::strict::did_you_mean;
use crate::resource::tree::quote;
use crate::resource::value::{self, Duration, Refusal, StringMatch};

/// What is tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Retries {
    /// Tries after the first; 0 means none. A rule without `retries` has 2, see [`Retries::UNSET`].
    #[cfg_attr(feature = "schema", schemars(range(max = 2_147_483_647)))]
    pub attempts: u32,
    /// For each try; absent means that only the timeout of the rule counts.
    pub per_try_timeout: Option<Duration>,
    /// What counts as failed, by commas. None means connect-failure, refused-stream, unavailable, cancelled and
    /// retriable-status-codes, see [`RetryOn::DEFAULT`].
    #[serde(deserialize_with = "retry_on")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub retry_on: Vec<RetryOn>,
    /// Whether a try may go to another locality; absent means no.
    pub retry_remote_localities: Option<bool>,
    /// Whether a try goes to another endpoint than those before; absent means yes, but no with consistent hashing.
    pub retry_ignore_previous_hosts: Option<bool>,
    /// Wait before the second try, doubled for every further one; absent means 25 ms.
    pub backoff: Option<Duration>,
}

/// A way in which a try can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryOn {
    /// `5xx`: any answer of 500 to 599, and everything that leaves no answer.
    FiveXx,
    /// `gateway-error`: 502, 503 or 504.
    GatewayError,
    /// `reset`: no answer, for whatever reason.
    Reset,
    /// `reset-before-request`: no answer, and nothing of the request was sent.
    ResetBeforeRequest,
    /// `connect-failure`: no connection.
    ConnectFailure,
    /// `retriable-4xx`: 409.
    Retriable4xx,
    /// `refused-stream`: the HTTP/2 peer did not begin with it.
    RefusedStream,
    /// `retriable-status-codes`: those of [`RetryOn::Status`].
    RetriableStatusCodes,
    /// `retriable-headers`: those that the request asks for.
    RetriableHeaders,
    /// `envoy-ratelimited`: the answer says that a limit was hit.
    RateLimited,
    /// `http3-post-connect-failure`: HTTP/3 failed after it had connected.
    Http3PostConnectFailure,
    /// `cancelled`, a status of gRPC.
    Cancelled,
    /// `deadline-exceeded`, a status of gRPC.
    DeadlineExceeded,
    /// `internal`, a status of gRPC.
    Internal,
    /// `resource-exhausted`, a status of gRPC.
    ResourceExhausted,
    /// `unavailable`, a status of gRPC.
    Unavailable,
    /// A number: this status of a real answer.
    Status(u16),
}

/// Lets pages of other origins read the answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct CorsPolicy {
    /// Origins that may.
    pub allow_origins: Vec<StringMatch>,
    /// The older form: exact origins, or `*`.
    pub allow_origin: Vec<String>,
    /// Methods they may use.
    pub allow_methods: Vec<String>,
    /// Headers they may send.
    pub allow_headers: Vec<String>,
    /// Headers they may read.
    pub expose_headers: Vec<String>,
    /// How long the permission may be remembered, in whole seconds.
    pub max_age: Option<Duration>,
    /// Whether cookies go along; absent means no header about it.
    pub allow_credentials: Option<bool>,
    /// What happens to a question that no origin matches.
    pub unmatched_preflights: UnmatchedPreflights,
}

/// What happens to a preflight request of an origin that is not allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum UnmatchedPreflights {
    /// As `Forward`.
    #[default]
    Unspecified,
    /// It goes to the destination.
    Forward,
    /// It is answered here, with no permission in the answer.
    Ignore,
}

impl Retries {
    /// Retries of a rule that says nothing about them, on [`RetryOn::DEFAULT`].
    pub const UNSET: u32 = 2;
}

impl RetryOn {
    /// What counts as failed where the user names nothing.
    pub const DEFAULT: [Self; 5] = [
        Self::ConnectFailure,
        Self::RefusedStream,
        Self::Unavailable,
        Self::Cancelled,
        Self::RetriableStatusCodes,
    ];

    /// Reads a list with commas; nothing in it is an empty list.
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Self>, Refusal> {
        let words = text.split(',').map(str::trim).filter(|_| !text.is_empty());
        words.map(Self::parse).collect()
    }

    fn parse(text: &str) -> Result<Self, Refusal> {
        let known = NAMES.iter().find(|(name, _)| *name == text).map(|(_, condition)| *condition);
        let status = text.parse().ok().filter(|status| (100..=599).contains(status)).map(Self::Status);
        known.or(status).ok_or_else(|| {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            let hint = did_you_mean(text, &names)
                .unwrap_or_else(|| format!("a status code, or one of {}", names.join(", ")));
            Refusal::with_hint(format!("{} is nothing to retry on", quote(text)), hint)
        })
    }
}

struct Conditions(Vec<RetryOn>);

impl value::FromText for Conditions {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        RetryOn::parse_list(text).map(Self)
    }
}

fn retry_on<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RetryOn>, D::Error> {
    value::deserialize(deserializer).map(|Conditions(conditions)| conditions)
}

const NAMES: [(&str, RetryOn); 16] = [
    ("5xx", RetryOn::FiveXx),
    ("gateway-error", RetryOn::GatewayError),
    ("reset", RetryOn::Reset),
    ("reset-before-request", RetryOn::ResetBeforeRequest),
    ("connect-failure", RetryOn::ConnectFailure),
    ("retriable-4xx", RetryOn::Retriable4xx),
    ("refused-stream", RetryOn::RefusedStream),
    ("retriable-status-codes", RetryOn::RetriableStatusCodes),
    ("retriable-headers", RetryOn::RetriableHeaders),
    ("envoy-ratelimited", RetryOn::RateLimited),
    ("http3-post-connect-failure", RetryOn::Http3PostConnectFailure),
    ("cancelled", RetryOn::Cancelled),
    ("deadline-exceeded", RetryOn::DeadlineExceeded),
    ("internal", RetryOn::Internal),
    ("resource-exhausted", RetryOn::ResourceExhausted),
    ("unavailable", RetryOn::Unavailable),
];
