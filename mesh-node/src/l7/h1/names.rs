//! Names of fields. Those that proxies write themselves are met in nearly every head behind a proxy, and cost no allocation.

use http::HeaderName;

/// The name that a field has; `None` if nothing can be called like that.
pub(super) fn of(text: &str) -> Option<HeaderName> {
    known(text).or_else(|| HeaderName::from_bytes(text.as_bytes()).ok())
}

/// As proxies write them: in lower case.
fn known(text: &str) -> Option<HeaderName> {
    if !text.starts_with(['x', 't', 'b']) {
        return None;
    }
    Some(match text {
        "x-request-id" => X_REQUEST_ID,
        "x-forwarded-proto" => X_FORWARDED_PROTO,
        "x-forwarded-for" => X_FORWARDED_FOR,
        "x-forwarded-client-cert" => X_FORWARDED_CLIENT_CERT,
        "x-envoy-attempt-count" => X_ENVOY_ATTEMPT_COUNT,
        "x-envoy-original-path" => X_ENVOY_ORIGINAL_PATH,
        "x-envoy-expected-rq-timeout-ms" => X_ENVOY_EXPECTED_TIMEOUT,
        "x-envoy-upstream-service-time" => X_ENVOY_UPSTREAM_SERVICE_TIME,
        SAMPLED => X_B3_SAMPLED,
        "x-b3-traceid" => X_B3_TRACE_ID,
        "x-b3-spanid" => X_B3_SPAN_ID,
        "x-b3-parentspanid" => X_B3_PARENT_ID,
        "traceparent" => TRACEPARENT,
        "tracestate" => TRACESTATE,
        "b3" => B3,
        _ => return None,
    })
}

/// Whether a field is `x-b3-sampled: 0`.
pub(super) fn says_untraced(field: &httparse::Header<'_>) -> bool {
    field.value == b"0" && field.name.eq_ignore_ascii_case(SAMPLED)
}

/// Whether a field may be one of those that [`Received::read`](mesh_core::trace::Received::read) looks at. It may be another one.
pub(super) fn may_be_of_trace(name: &str) -> bool {
    match name.as_bytes() {
        [b'x' | b'X', b'-', b'b' | b'B', ..] | [b't' | b'T', _, _, b'c' | b'C', ..] | [b'b' | b'B', b'3'] => {
            true
        }
        name => name.len() == FORCE_TRACE.len() && name.eq_ignore_ascii_case(FORCE_TRACE),
    }
}

const FORCE_TRACE: &[u8] = b"x-envoy-force-trace";
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const X_ENVOY_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const X_ENVOY_EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const X_ENVOY_UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
/// Says with `0` that a request is not traced.
pub(in crate::l7) const X_B3_SAMPLED: HeaderName = HeaderName::from_static(SAMPLED);
const SAMPLED: &str = "x-b3-sampled";
const X_B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const X_B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const X_B3_PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_name_is_the_one_that_it_says() {
        for text in [
            "x-request-id",
            "x-forwarded-proto",
            "x-forwarded-for",
            "x-forwarded-client-cert",
            "x-envoy-attempt-count",
            "x-envoy-original-path",
            "x-envoy-expected-rq-timeout-ms",
            "x-envoy-upstream-service-time",
            "x-b3-sampled",
            "x-b3-traceid",
            "x-b3-spanid",
            "x-b3-parentspanid",
            "traceparent",
            "tracestate",
            "b3",
        ] {
            assert_eq!(known(text).as_ref().map(HeaderName::as_str), Some(text));
        }
    }

    #[test]
    fn other_names_are_read_as_ever() {
        for (text, expected) in
            [("X-Request-Id", Some("x-request-id")), ("te", Some("te")), ("x y", None), ("", None)]
        {
            assert_eq!(of(text).as_ref().map(HeaderName::as_str), expected, "{text}");
        }
    }
}
