//! Whose certificate a request came with, for those behind a gateway: `X-Forwarded-Client-Cert`.
//!
//! Anybody can write the header, so what a client says is dropped unless `gatewayTopology.forwardClientCertDetails` says
//! that somebody before the gateway may say it. Names in a certificate are chosen by whoever asked for it: a name with a
//! separator in it is quoted, or it would be read as an element of its own.

use std::fmt::Write as _;

use crate::id::SpiffeId;
use crate::resource::mesh_config::proxy::ForwardClientCert;

/// What a certificate says, as far as it is passed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// SHA-256 of all of it.
    pub sha256: [u8; 32],
    /// Its subject, as RFC 2253 writes it.
    pub subject: &'a str,
    /// URIs among its names.
    pub uris: &'a [String],
    /// DNS names.
    pub dns: &'a [String],
}

impl Certificate<'_> {
    /// It as an element of the header, in Envoy's form: `Hash=…;Subject="…";URI=…;DNS=…`.
    pub fn element(&self) -> String {
        let mut text = String::from("Hash=");
        for byte in self.sha256 {
            let _ = write!(text, "{byte:02x}");
        }
        // Always quoted: nearly every one has a comma in it.
        text.push_str(";Subject=");
        push_quoted(&mut text, self.subject);
        for (key, value) in
            self.uris.iter().map(|uri| ("URI", uri)).chain(self.dns.iter().map(|dns| ("DNS", dns)))
        {
            let _ = write!(text, ";{key}=");
            if value.bytes().all(is_plain) {
                text.push_str(value);
            } else {
                push_quoted(&mut text, value);
            }
        }
        text
    }
}

/// The element for a caller whose identity in the mesh was proven to `by`, without a certificate that others would know.
pub fn caller(by: &SpiffeId, caller: &SpiffeId) -> String {
    // Neither has a separator in it, by the grammar of identities.
    format!("By={};URI={}", by.uri(), caller.uri())
}

/// The header to send on; `None` if there is to be none. `received` are the values that came, in their order, and `own`
/// the element of the client's certificate, if it has shown one. [`ForwardClientCert::Undefined`] means
/// [`ForwardClientCert::SanitizeSet`].
///
/// What would be longer than [`MAX_BYTES`] is cut down to the client's own element, if that is to be in it.
pub fn forwarded<'a>(
    received: impl IntoIterator<Item = &'a [u8]>,
    own: Option<&'a str>,
    rule: ForwardClientCert,
) -> Option<Vec<u8>> {
    use ForwardClientCert as Rule;
    let own = own.map(str::as_bytes);
    match rule {
        Rule::Sanitize => None,
        Rule::Undefined | Rule::SanitizeSet => own.map(<[u8]>::to_vec),
        Rule::AlwaysForwardOnly => join(received),
        Rule::ForwardOnly => own.and_then(|_| join(received)),
        Rule::AppendForward => {
            let own = own?;
            join(received.into_iter().chain([own])).or_else(|| Some(own.to_vec()))
        }
    }
}

/// All that say something, as one list; `None` if that is nothing, or too much.
fn join<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut list = Vec::new();
    for value in values.into_iter().map(<[u8]>::trim_ascii).filter(|value| !value.is_empty()) {
        if !list.is_empty() {
            list.push(b',');
        }
        list.extend_from_slice(value);
        if list.len() > MAX_BYTES {
            return None;
        }
    }
    (!list.is_empty()).then_some(list)
}

fn is_plain(byte: u8) -> bool {
    !matches!(byte, b',' | b';' | b'=' | b'"' | b'\\') && !byte.is_ascii_whitespace()
}

fn push_quoted(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
}

/// Longest header that is sent on, in bytes: a dozen proxies with certificates.
pub const MAX_BYTES: usize = 8192;

#[cfg(test)]
mod tests;
