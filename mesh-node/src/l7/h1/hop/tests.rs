//! What is taken out, of maps that no parser of ours has seen.

use super::*;

fn strip(fields: &[(&'static str, &str)]) -> Result<Vec<String>, Reason> {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, value.parse().unwrap());
    }
    strip_hop_by_hop(&mut map)?;
    Ok(map.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect())
}

#[test]
fn fields_of_one_connection_go() {
    let all = [
        ("connection", "close, X-a"),
        ("connection", "x-b"),
        ("keep-alive", "5"),
        ("proxy-connection", "x"),
        ("te", "gzip"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("x-a", "1"),
        ("x-b", "2"),
        ("x-b", "3"),
        ("x-c", "4"),
    ];
    assert_eq!(strip(&all).unwrap(), ["x-c=4"]);
}

#[test]
fn trailers_may_be_asked_for() {
    assert_eq!(strip(&[("te", "trailers")]).unwrap(), ["te=trailers"]);
    assert_eq!(strip(&[("te", "gzip;q=0.5, Trailers"), ("connection", "te")]).unwrap(), ["te=trailers"]);
}

#[test]
fn what_others_rely_on_cannot_be_named() {
    for name in ["Authorization", "cookie", "host", "x-forwarded-for", "X-Envoy-Foo", "sec-websocket-key"] {
        assert_eq!(strip(&[("connection", name)]), Err(Reason::ConnectionNominates), "{name}");
    }
    assert_eq!(strip(&[("connection", "a b")]), Err(Reason::Connection));
}
