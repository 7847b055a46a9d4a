//! What is taken of a request.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Fake {
    headers: Vec<(&'static str, &'static str)>,
    query: Option<&'static str>,
    source: Option<IpAddr>,
}

impl HashInput for Fake {
    fn each_header(&self, name: &str, visit: &mut dyn FnMut(&[u8])) {
        let values = self.headers.iter().filter(|(own, _)| *own == name);
        values.for_each(|(_, value)| visit(value.as_bytes()));
    }

    fn query(&self) -> Option<&str> {
        self.query
    }

    fn source_ip(&self) -> Option<IpAddr> {
        self.source
    }
}

fn of(text: &str) -> Affinity {
    Affinity::Hash(hash_bytes(text.as_bytes()))
}

#[test]
fn headers() {
    let source = HashSource::Header("x-user".into());
    let hash = |headers: &[(&'static str, &'static str)]| {
        hash_key(&source, &Fake { headers: headers.to_vec(), ..Fake::default() })
    };
    assert_eq!(hash(&[]), Affinity::None);
    assert_eq!(hash(&[("x-other", "a")]), Affinity::None);
    assert_eq!(hash(&[("x-user", "a"), ("x-other", "b")]), of("a"));
    assert_eq!(hash(&[("x-user", "")]), of(""));
    assert_ne!(hash(&[("x-user", "a"), ("x-user", "b")]), hash(&[("x-user", "a")]));
    assert_ne!(hash(&[("x-user", "a"), ("x-user", "a")]), hash(&[("x-user", "a")]));
}

#[test]
fn cookies() {
    let named = |ttl| Cookie { name: "user".into(), path: "".into(), ttl, attributes: Box::default() };
    let cases: &[(&[&'static str], Affinity)] = &[
        (&[], Affinity::None),
        (&["user=a"], of("a")),
        (&["other=b; user=a; more=c"], of("a")),
        (&["other=b", "user=a"], of("a")),
        (&["other=b;user=a"], of("a")),
        (&["user=\"a\""], of("a")),
        (&["user=a=b"], of("a=b")),
        (&["user=a; user=b"], of("a")),
        (&["user="], Affinity::None),
        (&["user"], Affinity::None),
        (&["xuser=a; userx=a"], Affinity::None),
    ];
    for (lines, expected) in cases {
        let headers = lines.iter().map(|line| ("cookie", *line)).collect();
        let request = Fake { headers, ..Fake::default() };
        assert_eq!(hash_key(&HashSource::Cookie(named(None)), &request), *expected, "{lines:?}");
        let expected = if *expected == Affinity::None { Affinity::Issue } else { *expected };
        let made = HashSource::Cookie(named(Some(Duration::ZERO)));
        assert_eq!(hash_key(&made, &request), expected, "{lines:?}");
    }
}

#[test]
fn an_issued_cookie_leads_back() {
    let attributes = [("SameSite".into(), "Strict".into()), ("Secure".into(), "".into())];
    let cookie = Cookie {
        name: "user".into(),
        path: "/p".into(),
        ttl: Some(Duration::from_millis(90_500)),
        attributes: attributes.into(),
    };
    let issued = cookie.issue(7);
    let (pair, rest) = issued.set_cookie.split_once("; ").unwrap();
    assert_eq!(rest, "Max-Age=90; Path=/p; SameSite=Strict; Secure; HttpOnly");
    let line: &'static str = Box::leak(pair.to_owned().into_boxed_str());
    let request = Fake { headers: vec![("cookie", line)], ..Fake::default() };
    assert_eq!(hash_key(&HashSource::Cookie(cookie.clone()), &request), Affinity::Hash(issued.hash));
    assert_ne!(cookie.issue(8).hash, issued.hash);
    let session = Cookie { ttl: Some(Duration::ZERO), path: "".into(), attributes: Box::default(), ..cookie };
    assert!(session.issue(1).set_cookie.ends_with("\"; HttpOnly"), "{}", session.issue(1).set_cookie);
}

#[test]
fn query_parameters() {
    let source = HashSource::QueryParameter("q".into());
    let cases = [
        (None, Affinity::None),
        (Some(""), Affinity::None),
        (Some("q=a"), of("a")),
        (Some("p=1&q=a&q=b"), of("a")),
        (Some("q"), of("")),
        (Some("qq=a&Q=a"), Affinity::None),
        (Some("q=a%20b=c"), of("a%20b=c")),
    ];
    for (query, expected) in cases {
        assert_eq!(hash_key(&source, &Fake { query, ..Fake::default() }), expected, "{query:?}");
    }
}

#[test]
fn source_addresses() {
    let hash = |text: &str| {
        let source = Some(text.parse().unwrap());
        hash_key(&HashSource::SourceIp, &Fake { source, ..Fake::default() })
    };
    assert_eq!(hash_key(&HashSource::SourceIp, &Fake::default()), Affinity::None);
    assert_eq!(hash("10.0.0.1"), hash("::ffff:10.0.0.1"));
    assert_ne!(hash("10.0.0.1"), hash("10.0.0.2"));
    assert_ne!(hash("fd00::1"), hash("fd00::2"));
    assert_eq!(hash("10.0.0.1"), Affinity::Hash(hash_ip("10.0.0.1".parse().unwrap())));
}

#[test]
fn hashes_never_change() {
    // Nodes of different versions have to agree.
    assert_eq!(hash_bytes(b""), 0x2382_75bc_38fc_be91);
    assert_eq!(hash_bytes(b"0123456789"), 0x57a3_3141_cb6a_a758);
}

proptest! {
    #[test]
    fn different_texts_have_different_hashes(texts in prop::collection::btree_set("[a-b\\x00]{0,20}", 1..50)) {
        let hashes: BTreeSet<_> = texts.iter().map(|text| hash_bytes(text.as_bytes())).collect();
        prop_assert_eq!(hashes.len(), texts.len());
    }
}
