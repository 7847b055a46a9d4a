//! The `forwarded` header (RFC 7239) of tunnel requests: `for="ip:port"`, the client's address for display.

use std::net::SocketAddr;

use http::HeaderValue;

/// The header's value for this client.
pub(crate) fn value(client: SocketAddr) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("for=\"{client}\"")).ok()
}

/// The client of the first element, where it is a plain address and port.
pub(crate) fn parse(value: &str) -> Option<SocketAddr> {
    let first = value.split([',', ';']).next()?.trim();
    let (name, node) = first.split_once('=')?;
    if !name.eq_ignore_ascii_case("for") {
        return None;
    }
    let at: SocketAddr = node.trim_matches('"').parse().ok()?;
    Some(SocketAddr::new(at.ip().to_canonical(), at.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for text in ["10.0.0.1:4242", "[fd00::1]:80"] {
            let at: SocketAddr = text.parse().expect("an address");
            let header = value(at).expect("a header value");
            assert_eq!(parse(header.to_str().expect("text")), Some(at));
        }
    }

    #[test]
    fn foreign_forms() {
        let expected = "10.0.0.1:1".parse().ok();
        assert_eq!(parse("for=\"10.0.0.1:1\";host=a.b, for=\"10.9.9.9:2\""), expected);
        assert_eq!(parse("For=10.0.0.1:1"), expected);
        for wrong in ["", "for", "for=unknown", "by=10.0.0.1:1", "for=\"10.0.0.1\""] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
