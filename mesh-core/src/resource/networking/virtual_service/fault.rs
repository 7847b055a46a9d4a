//! Faults that are made on purpose.

use serde::Deserialize;

#[cfg(feature = "schema")]
use crate::resource::schema::at_most_one;

use crate::resource::value::{Duration, HttpStatus, Percent};

/// Makes requests wait or fail. The two are drawn for independently.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Fault {
    /// Waits first.
    pub delay: Option<Delay>,
    /// Fails without asking the destination.
    pub abort: Option<Abort>,
}

/// Holds requests back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("oneOf" = at_most_one(&["fixedDelay", "exponentialDelay"]))))]
#[serde(rename_all = "camelCase", default)]
pub struct Delay {
    /// For how long.
    pub fixed_delay: Option<Duration>,
    /// Never implemented by Istio, and refused by its webhook and here.
    pub exponential_delay: Option<Duration>,
    /// Which share of the requests. [`Delay::share`] has this and the next as one.
    pub percentage: Option<Percentage>,
    /// The older, whole-numbered form, 0..=100.
    #[cfg_attr(feature = "schema", schemars(range(max = 100)))]
    pub percent: Option<u32>,
}

/// Fails requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("oneOf" = at_most_one(&["httpStatus", "grpcStatus", "http2Error"]))))]
#[serde(rename_all = "camelCase", default)]
pub struct Abort {
    /// With this status. [`Abort::error`] has this and the next as one.
    pub http_status: Option<HttpStatus>,
    /// With this gRPC status.
    pub grpc_status: Option<GrpcStatus>,
    /// Never implemented by Istio, and refused by its webhook and here.
    pub http2_error: Option<String>,
    /// Which share of the requests. [`Abort::share`] has this and the next as one.
    pub percentage: Option<Percentage>,
    /// The form that Istio removed, 0..=100; still understood here.
    #[cfg_attr(feature = "schema", schemars(range(max = 100)))]
    pub percent: Option<u32>,
}

/// How an aborted request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AbortError {
    /// With a status of HTTP.
    Http(HttpStatus),
    /// With a status of gRPC, inside a successful HTTP answer.
    Grpc(GrpcStatus),
}

/// A share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Percentage {
    /// 0, or 0.0001 to 100; absent means 0.
    pub value: Percent,
}

/// A status of gRPC, by the name that users write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are gRPC's own, https://grpc.io/docs/guides/status-codes/")]
pub enum GrpcStatus {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Delay {
    /// The share of requests that wait; nothing where nothing is given, as in Istio.
    pub fn share(&self) -> Percent {
        share(self.percentage, self.percent)
    }
}

impl Abort {
    /// The share of requests that fail; nothing where nothing is given, as in Istio.
    pub fn share(&self) -> Percent {
        share(self.percentage, self.percent)
    }

    /// How they fail; `None` if the user did not say, and nothing happens.
    pub fn error(&self) -> Option<AbortError> {
        self.http_status.map(AbortError::Http).or(self.grpc_status.map(AbortError::Grpc))
    }
}

impl GrpcStatus {
    /// The number on the wire, in `grpc-status`.
    pub fn code(self) -> u8 {
        self as u8
    }
}

fn share(percentage: Option<Percentage>, percent: Option<u32>) -> Percent {
    let older = percent.and_then(Percent::whole);
    percentage.map(|percentage| percentage.value).or(older).unwrap_or_default()
}
