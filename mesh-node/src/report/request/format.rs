//! The format of a request's line in the access log: Istio's own two, and those that users write in Envoy's language.
//!
//! A format is compiled once to a list of pieces, a text and an operator each. Writing a line is a walk along the list,
//! into a buffer that the caller keeps; nothing is allocated unless a value has to be escaped.
//!
//! Invariant: whatever a peer has sent, a line is one line, and one of JSON is JSON.

mod clock;
mod date;
mod operator;
mod parse;
mod write;

use std::sync::LazyLock;

pub(in crate::report) use clock::Clock;

use super::RequestFacts;
use crate::report::AccessLogFormat;
use operator::Operator;

/// What the line of a request says.
#[derive(Debug)]
pub struct AccessFormat {
    pieces: Vec<Piece>,
    /// Operators that nobody here has an answer to.
    unknown: Vec<String>,
    /// What follows the last operator; ends in a newline.
    tail: Box<str>,
}

/// Why a text is no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A `%` that does not begin an operator; `%%` stands for one.
    #[error("has a '%' that begins no operator, before {0:?}")]
    NotAnOperator(String),
    /// Arguments where there may be none, none where there must be some, or some of another form.
    #[error("has an operator whose arguments are missing or cannot be used: %{0}%")]
    Arguments(String),
    /// What should be a JSON object is none.
    #[error("is not a JSON object")]
    NotAnObject,
}

/// A part of a line.
#[derive(Debug)]
struct Piece {
    before: Box<str>,
    operator: Operator,
    style: Style,
}

/// How the value of an operator is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// Inside of a text; `-` if there is none.
    Inside,
    /// As a JSON value with its type; `null` if there is none.
    Value,
}

impl AccessFormat {
    /// Compiles `MeshConfig`'s `accessLogFormat` of the encoding `TEXT`. A newline is added if there is none at the end.
    pub fn parse(format: &str) -> Result<Self, FormatError> {
        parse::text(format)
    }

    /// Compiles `MeshConfig`'s `accessLogFormat` of the encoding `JSON`: an object whose strings hold operators. One that
    /// is an operator and nothing else becomes that operator's value, with its type.
    pub fn parse_json(format: &str) -> Result<Self, FormatError> {
        parse::json(format)
    }

    /// The format that Istio has for whoever asks for none.
    pub fn standard(format: AccessLogFormat) -> &'static Self {
        if format == AccessLogFormat::Json { &JSON } else { &TEXT }
    }

    /// The operators in it that say `-` of every request, because nothing here knows what they ask for.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// Whether it has headers or trailers of answers.
    pub(in crate::report) fn reads_answers(&self) -> bool {
        self.pieces.iter().any(|piece| piece.operator.reads_answers())
    }

    /// What it says of a request, without the newline.
    pub(in crate::report) fn text(&self, facts: &RequestFacts<'_>) -> String {
        let mut out = Vec::new();
        self.write(&mut out, &mut Clock::default(), facts);
        String::from_utf8_lossy(out.trim_ascii_end()).into_owned()
    }

    /// Appends the line of a request, with its newline.
    pub(in crate::report) fn write(&self, out: &mut Vec<u8>, clock: &mut Clock, facts: &RequestFacts<'_>) {
        for piece in &self.pieces {
            out.extend_from_slice(piece.before.as_bytes());
            write::value(out, clock, &piece.operator.value(facts), piece.style);
        }
        out.extend_from_slice(self.tail.as_bytes());
    }
}

static TEXT: LazyLock<AccessFormat> =
    LazyLock::new(|| AccessFormat::parse(STANDARD_TEXT).expect("compiles in a test"));

static JSON: LazyLock<AccessFormat> =
    LazyLock::new(|| parse::fields(STANDARD_JSON).expect("compiles in a test"));

/// Istio's default, which takes whole lines apart at spaces and quotes.
const STANDARD_TEXT: &str = "[%START_TIME%] \
    \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
    %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" \
    %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
    \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" \
    %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
    %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's default fields.
const STANDARD_JSON: &[(&str, &str)] = &[
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
];

#[cfg(test)]
mod tests;
