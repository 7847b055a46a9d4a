//! Why a message is not let through, in stable tokens.

use std::fmt;

use http::StatusCode;

/// Who sent what was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client: it is answered with the status of the reason.
    Client,
    /// The server behind us: the client is answered with 502, whatever the reason.
    Server,
}

/// A message that is not let through. Its connection cannot be used again: where the next message begins is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// Who sent it.
    pub side: Side,
    /// What was wrong with it.
    pub reason: Reason,
}

impl Refused {
    /// What a client sent is refused.
    pub(super) const fn client(reason: Reason) -> Self {
        Self { side: Side::Client, reason }
    }

    /// What a server sent is refused.
    pub(super) const fn server(reason: Reason) -> Self {
        Self { side: Side::Server, reason }
    }

    /// The status to answer the client with.
    pub const fn status(&self) -> StatusCode {
        match self.side {
            Side::Client => self.reason.status(),
            Side::Server => StatusCode::BAD_GATEWAY,
        }
    }
}

/// Declares [`Reason`] with everything that belongs to one reason in one line.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $token:literal, $status:ident;)*) => {
        /// What is wrong with a message.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason, for documentation and for metrics that declare their labels.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Stable token for metrics and logs.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $token,)*
                }
            }

            /// The status to answer a client with that sent this.
            pub const fn status(self) -> StatusCode {
                match self {
                    $(Self::$name => StatusCode::$status,)*
                }
            }
        }
    };
}

reasons! {
    /// A line that does not end in CR LF.
    LineEnd = "line_end", BAD_REQUEST;
    /// More than one empty line before the request line.
    LeadingLines = "leading_lines", BAD_REQUEST;
    /// A request line that is not `method SP target SP version`, or something that is not HTTP at all.
    RequestLine = "request_line", BAD_REQUEST;
    /// A status line that is not `version SP code [SP text]`.
    StatusLine = "status_line", BAD_REQUEST;
    /// A request line above [`Limits::line_bytes`](super::Limits::line_bytes).
    LineTooLong = "line_too_long", URI_TOO_LONG;
    /// A head above [`Limits::head_bytes`](super::Limits::head_bytes).
    HeadTooLarge = "head_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE;
    /// More fields than [`Limits::fields`](super::Limits::fields).
    TooManyFields = "too_many_fields", REQUEST_HEADER_FIELDS_TOO_LARGE;
    /// A version of HTTP other than 1.0 and 1.1.
    Version = "version", HTTP_VERSION_NOT_SUPPORTED;
    /// A method that is longer than any.
    MethodLength = "method_length", NOT_IMPLEMENTED;
    /// `get`: methods are case-sensitive, and policies name them in capitals.
    MethodCase = "method_case", BAD_REQUEST;
    /// A field name with a character that has no place there; also space before the colon, and folded lines.
    FieldName = "field_name", BAD_REQUEST;
    /// A field value with a control character.
    FieldValue = "field_value", BAD_REQUEST;
    /// A field name with an underscore, where they are refused.
    Underscore = "underscore", BAD_REQUEST;
    /// A request target with a character that has no place there.
    Target = "target", BAD_REQUEST;
    /// A request target with a fragment.
    TargetFragment = "target_fragment", BAD_REQUEST;
    /// A request target in a form that does not belong to the method.
    TargetForm = "target_form", BAD_REQUEST;
    /// HTTP/1.1 without Host.
    HostMissing = "host_missing", BAD_REQUEST;
    /// More than one Host.
    HostRepeated = "host_repeated", BAD_REQUEST;
    /// A host that is not `name[:port]`, `a.b.c.d[:port]` or `[v6][:port]`.
    Host = "host", BAD_REQUEST;
    /// A host with user information (`user@host`).
    HostUserinfo = "host_userinfo", BAD_REQUEST;
    /// A Content-Length that is not a plain decimal number that fits 64 bits.
    ContentLength = "content_length", BAD_REQUEST;
    /// More than one Content-Length, equal or not.
    ContentLengthRepeated = "content_length_repeated", BAD_REQUEST;
    /// Content-Length and Transfer-Encoding together.
    LengthAndEncoding = "length_and_encoding", BAD_REQUEST;
    /// A Transfer-Encoding that leaves the end of the body open, or is written more than once.
    TransferEncoding = "transfer_encoding", BAD_REQUEST;
    /// A Transfer-Encoding with another coding below `chunked`.
    TransferCoding = "transfer_coding", NOT_IMPLEMENTED;
    /// Transfer-Encoding in HTTP/1.0, which does not know it.
    TransferEncodingVersion = "transfer_encoding_version", BAD_REQUEST;
    /// A body where there can be none: CONNECT, TRACE, 1xx, 204.
    BodyNotAllowed = "body_not_allowed", BAD_REQUEST;
    /// A Connection field that is not a list of a few names.
    Connection = "connection", BAD_REQUEST;
    /// A Connection field that wants a field dropped that somebody relies on.
    ConnectionNominates = "connection_nominates", BAD_REQUEST;
    /// An expectation other than `100-continue`.
    Expectation = "expectation", EXPECTATION_FAILED;
    /// A chunk size that is not a plain hexadecimal number that fits 64 bits.
    ChunkSize = "chunk_size", BAD_REQUEST;
    /// A chunk extension with a control character, or a long one.
    ChunkExtension = "chunk_extension", BAD_REQUEST;
    /// Chunk data that is not followed by CR LF.
    ChunkEnd = "chunk_end", BAD_REQUEST;
    /// Far more bytes around the chunks than in them.
    ChunkOverhead = "chunk_overhead", BAD_REQUEST;
    /// A trailer section above its limits.
    TrailersTooLarge = "trailers_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE;
    /// A trailer that frames, routes or authenticates: too late for that.
    TrailerField = "trailer_field", BAD_REQUEST;
    /// A 101 that does not say to what one protocol it switches.
    SwitchWithoutUpgrade = "switch_without_upgrade", BAD_REQUEST;
    /// The connection ended inside a message.
    Truncated = "truncated", BAD_REQUEST;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
