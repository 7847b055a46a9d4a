//! Keeps web pages out of the admin port.
//!
//! The port is open to whoever can reach loopback, and a browser on this machine is one of those, whatever page it
//! shows. A page cannot choose the `Host` header its requests carry: if it has had its own name pointed at 127.0.0.1 (DNS
//! rebinding), the name gives it away. Requests that change something are refused from pages altogether.

use hyper::header::{HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::http::request::Parts;
use mesh_core::http::loopback;

/// Why a request is refused, as a sentence for people.
pub(super) type Refusal = &'static str;

/// Accepts requests for this machine by a loopback name or address.
pub(super) fn check_host(request: &Parts) -> Result<(), Refusal> {
    let Some(host) = single(&request.headers, &HOST)? else {
        return Err("the request has no Host header");
    };
    let target = request.uri.host();
    if loopback::is_named_by(host) && target.is_none_or(loopback::is_named_by) {
        Ok(())
    } else {
        Err("this port answers only requests for localhost")
    }
}

/// Accepts requests that no foreign web page has caused.
pub(super) fn check_origin(request: &Parts) -> Result<(), Refusal> {
    let site = single(&request.headers, &HeaderName::from_static("sec-fetch-site"))?;
    if site.is_some_and(|site| site != "same-origin" && site != "none") {
        return Err("web pages may not change anything here");
    }
    match single(&request.headers, &ORIGIN)? {
        None => Ok(()),
        Some(origin) => {
            let host = origin.strip_prefix("http://");
            if host.is_some_and(loopback::is_named_by) {
                Ok(())
            } else {
                Err("web pages may not change anything here")
            }
        }
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    match (first.map(|value| value.to_str()), second) {
        (None, _) => Ok(None),
        (Some(Ok(value)), None) => Ok(Some(value)),
        (Some(Ok(_)), Some(_)) => Err("a header that may be there once is there several times"),
        (Some(Err(_)), _) => Err("a header is not text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn loopback_names_and_addresses_pass() {
        for host in ["localhost", "LocalHost:15000", "127.0.0.1", "127.8.9.1:1", "[::1]", "[::1]:15000"] {
            assert_eq!(check_host(&parts("/", &[("host", host)])), Ok(()), "{host}");
        }
        assert!(check_host(&parts("http://localhost:15000/", &[("host", "localhost")])).is_ok());
    }

    #[test]
    fn all_others_do_not() {
        for host in [
            "",
            "evil.example",
            "evil.example:15000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "[fd00::1]:15000",
            "[::1",
            "::1",
            "localhost:80:80",
            "127.0.0.1@evil.example",
            "0x7f.1",
            "localhost.",
            "0",
        ] {
            assert!(check_host(&parts("/", &[("host", host)])).is_err(), "{host}");
        }
        assert!(check_host(&parts("/", &[])).is_err());
        assert!(check_host(&parts("/", &[("host", "localhost"), ("host", "evil.example")])).is_err());
        assert!(check_host(&parts("http://evil.example/", &[("host", "localhost")])).is_err());
    }

    #[test]
    fn changes_come_from_no_foreign_page() {
        for (headers, pass) in [
            (&[][..], true),
            (&[("origin", "http://localhost:15000")], true),
            (&[("origin", "http://127.0.0.1")], true),
            (&[("origin", "null")], false),
            (&[("origin", "https://evil.example")], false),
            (&[("origin", "http://localhost.evil.example")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "same-origin"), ("origin", "http://localhost:1")], true),
        ] {
            assert_eq!(check_origin(&parts("/", headers)).is_ok(), pass, "{headers:?}");
        }
    }
}
