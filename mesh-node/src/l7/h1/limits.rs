//! How much of a message is read before it is refused.

/// Longest head in bytes: request or status line, all fields, and the empty line. The default of Envoy, which callers
/// that come from there have sized their cookies by.
pub const MAX_HEAD_BYTES: usize = 60 * 1024;

/// Longest request line in bytes, without its line end. RFC 9112, section 3, asks for at least 8,000; the rest is room
/// for method and version.
pub const MAX_LINE_BYTES: usize = 8 * 1024;

/// Most fields of a head, and the number of slots set aside for them on the stack. The default of Envoy.
pub const MAX_FIELDS: usize = 100;

/// Longest trailer section in bytes, its empty line included.
pub const MAX_TRAILER_BYTES: usize = 8 * 1024;

/// Most fields of a trailer section. gRPC needs three.
pub const MAX_TRAILERS: usize = 32;

/// What a listener lets through. The defaults are the constants of this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest head, in bytes.
    pub head_bytes: usize,
    /// Longest request or status line, in bytes.
    pub line_bytes: usize,
    /// Most fields of a head. More than [`MAX_FIELDS`] cannot be had.
    pub fields: usize,
    /// Longest trailer section, in bytes.
    pub trailer_bytes: usize,
    /// Most fields of a trailer section. More than [`MAX_FIELDS`] cannot be had.
    pub trailers: usize,
    /// What happens to field names with an underscore.
    pub underscores: Underscores,
}

/// What happens to request fields with an underscore in their name.
///
/// Applications behind CGI-like interfaces cannot tell `x_forwarded_for` from `X-Forwarded-For`, so whoever may send
/// the one speaks for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Underscores {
    /// Dropped when the same name with dashes is in the request too, or is one that only proxies and framing may
    /// write. The way inside the mesh.
    DropTwins,
    /// Refused, as Envoy's guide for edge proxies has it. The way of gateways.
    Refuse,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: MAX_HEAD_BYTES,
            line_bytes: MAX_LINE_BYTES,
            fields: MAX_FIELDS,
            trailer_bytes: MAX_TRAILER_BYTES,
            trailers: MAX_TRAILERS,
            underscores: Underscores::DropTwins,
        }
    }
}
