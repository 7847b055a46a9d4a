//! Answers that the proxy gives itself: which status, flag and words belong to which failure.
//!
//! All three are what users of Istio search their logs for, so they are Envoy's to the letter.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mesh_core::authn::Invalid;

use super::authn;
use super::h1::Framing;
use super::message::ResponseHead;
use crate::report::Flags;

/// Why the proxy answers a request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No route matches the request.
    NoRoute,
    /// The request came by a listener that is not for its host, and another one of the port is.
    Misdirected,
    /// The route names a service or subset that is not there; the status is the route's.
    NoCluster(StatusCode),
    /// The service has no endpoint that may be used.
    NoHealthyUpstream,
    /// No connection could be made.
    ConnectFailure,
    /// TLS towards the endpoint failed.
    TlsFailure,
    /// The connection ended before the response.
    Terminated,
    /// The stream was reset before the response.
    RemoteReset,
    /// What came back is no HTTP.
    ProtocolError,
    /// A circuit breaker is open.
    Overflow,
    /// The route's timeout, or that of the last try, has passed.
    Timeout,
    /// An `abort` of a fault.
    Fault(StatusCode),
    /// The client's request is no HTTP, or not one that is let through; the status says what.
    BadRequest(StatusCode),
    /// The client took too long to send its request.
    RequestTimeout,
    /// A policy says no.
    Denied,
    /// A limit of requests in a time is reached.
    RateLimited,
    /// The body is longer than a limit allows.
    BodyTooLong,
    /// It goes round in a circle.
    Loop,
    /// A rate limit service says that it is one too many.
    GloballyLimited,
    /// A rate limit service says nothing, and its limit is to be kept all the same.
    RateLimitService,
    /// An authorizer cannot be asked; the status is what its provider says then.
    Authorizer(StatusCode),
    /// It has a token that is not accepted.
    Token(Invalid),
}

impl Refusal {
    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::NoHealthyUpstream
            | Self::ConnectFailure
            | Self::TlsFailure
            | Self::Terminated
            | Self::RemoteReset
            | Self::Overflow => StatusCode::SERVICE_UNAVAILABLE,
            Self::ProtocolError => StatusCode::BAD_GATEWAY,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::RateLimited | Self::GloballyLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::RateLimitService => StatusCode::INTERNAL_SERVER_ERROR,
            Self::BodyTooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoCluster(status)
            | Self::Fault(status)
            | Self::BadRequest(status)
            | Self::Authorizer(status) => status,
            Self::Token(invalid) => invalid.status(),
        }
    }

    /// The response flag.
    pub const fn flag(self) -> Flags {
        match self {
            Self::NoRoute | Self::Misdirected => Flags::NR,
            Self::NoCluster(_) => Flags::NC,
            Self::NoHealthyUpstream => Flags::UH,
            Self::ConnectFailure | Self::TlsFailure => Flags::UF,
            Self::Terminated => Flags::UC,
            Self::RemoteReset => Flags::UR,
            Self::ProtocolError => Flags::UPE,
            Self::Overflow => Flags::UO,
            Self::Timeout => Flags::UT,
            Self::Fault(_) => Flags::FI,
            Self::BadRequest(_) => Flags::DPE,
            Self::RequestTimeout => Flags::SI,
            Self::Denied | Self::BodyTooLong | Self::Loop | Self::Token(_) => Flags::NONE,
            Self::RateLimited | Self::GloballyLimited => Flags::RL,
            Self::RateLimitService => Flags::RLSE,
            Self::Authorizer(_) => Flags::UAEX,
        }
    }

    /// What the access log says besides.
    pub const fn details(self) -> &'static str {
        match self {
            Self::NoRoute => "route_not_found",
            Self::Misdirected => "misdirected_request",
            Self::NoCluster(_) => "cluster_not_found",
            Self::NoHealthyUpstream => "no_healthy_upstream",
            Self::ConnectFailure => "upstream_reset_before_response_started{connection_failure}",
            Self::TlsFailure => "upstream_reset_before_response_started{connection_failure|TLS_error}",
            Self::Terminated => "upstream_reset_before_response_started{connection_termination}",
            Self::RemoteReset => "upstream_reset_before_response_started{remote_reset}",
            Self::ProtocolError => "upstream_reset_before_response_started{protocol_error}",
            Self::Overflow => "upstream_reset_before_response_started{overflow}",
            Self::Timeout => "response_timeout",
            Self::Fault(_) => "fault_filter_abort",
            Self::BadRequest(_) => "http1.codec_error",
            Self::RequestTimeout => "request_headers_timeout",
            Self::Denied => "rbac_access_denied",
            Self::RateLimited => "local_rate_limited",
            Self::GloballyLimited => "request_rate_limited",
            Self::RateLimitService => "rate_limiter_error",
            Self::Authorizer(_) => "ext_authz_error",
            Self::BodyTooLong => "request_payload_too_large",
            Self::Loop => "loop_detected",
            Self::Token(invalid) => authn::details(invalid),
        }
    }

    /// The body of the answer.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoRoute
            | Self::NoCluster(_)
            | Self::GloballyLimited
            | Self::RateLimitService
            | Self::Authorizer(_) => "",
            Self::Misdirected => "Misdirected Request",
            Self::NoHealthyUpstream => "no healthy upstream",
            Self::ConnectFailure | Self::TlsFailure => {
                "upstream connect error or disconnect/reset before headers. reset reason: connection failure"
            }
            Self::Terminated => {
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
            }
            Self::RemoteReset => {
                "upstream connect error or disconnect/reset before headers. reset reason: remote reset"
            }
            Self::ProtocolError => {
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error"
            }
            Self::Overflow => {
                "upstream connect error or disconnect/reset before headers. reset reason: overflow"
            }
            Self::Timeout => "upstream request timeout",
            Self::Fault(_) => "fault filter abort",
            Self::BadRequest(status) => match status {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "Request Header Fields Too Large",
                StatusCode::URI_TOO_LONG => "URI Too Long",
                _ => "Bad Request",
            },
            Self::RequestTimeout => "Request Timeout",
            Self::Denied => "RBAC: access denied",
            Self::RateLimited => "local_rate_limited",
            Self::BodyTooLong => "Payload Too Large",
            Self::Loop => "Loop Detected",
            Self::Token(invalid) => invalid.text(),
        }
    }
}

/// A whole answer of the proxy's own.
#[derive(Debug)]
pub struct Reply {
    /// Its head.
    pub head: ResponseHead,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// An answer with a body of this type; without one if it is empty.
    pub fn new(status: StatusCode, content_type: &'static str, body: Bytes) -> Self {
        let mut headers = HeaderMap::new();
        if !body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
        Self { head: ResponseHead { status, headers, framing: Framing::Length(length), upgrade: None }, body }
    }

    /// The answer to a refusal; gRPC clients get theirs as trailers of an answer that says 200.
    pub fn refuse(refusal: Refusal, grpc: bool) -> Self {
        let mut reply = if grpc {
            Self::grpc(grpc_status(refusal.status()), refusal.text())
        } else {
            Self::new(refusal.status(), "text/plain", Bytes::from_static(refusal.text().as_bytes()))
        };
        if refusal == Refusal::Overflow {
            reply.head.headers.insert("x-envoy-overloaded", HeaderValue::from_static("true"));
        }
        reply
    }

    /// An answer to a gRPC client with this status and message.
    pub fn grpc(status: u8, message: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(status)));
        if let Ok(message) = HeaderValue::from_str(message)
            && !message.is_empty()
        {
            headers.insert("grpc-message", message);
        }
        let head = ResponseHead { status: StatusCode::OK, headers, framing: Framing::None, upgrade: None };
        Self { head, body: Bytes::new() }
    }
}

/// The status that gRPC clients make of one of HTTP (gRPC's `http-grpc-status-mapping`).
pub const fn grpc_status(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}
