//! The SPIFFE grammar, case by case, and the accessors.

use proptest::prelude::*;

use super::*;

#[test]
fn parts_of_a_parsed_identity() {
    let id = SpiffeId::parse("spiffe://cluster.local/ns/default/sa/bookinfo-productpage").unwrap();
    assert_eq!(id.trust_domain(), &TrustDomain::default());
    assert_eq!(id.namespace(), "default");
    assert_eq!(id.service_account(), "bookinfo-productpage");
    assert_eq!(id.principal(), "cluster.local/ns/default/sa/bookinfo-productpage");
    assert_eq!(id.uri(), "spiffe://cluster.local/ns/default/sa/bookinfo-productpage");
    assert_eq!(id.to_string(), id.uri());
    assert_eq!(id, SpiffeId::new(&TrustDomain::default(), "default", "bookinfo-productpage").unwrap());
    assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{}\"", id.uri()));
}

#[test]
fn keywords_may_be_names() {
    let id = SpiffeId::parse("spiffe://ns/ns/sa/sa/ns").unwrap();
    assert_eq!((id.trust_domain().as_str(), id.namespace(), id.service_account()), ("ns", "sa", "ns"));
}

#[test]
fn identities_that_are_refused() {
    let long = format!("spiffe://td/ns/a/sa/{}", "x".repeat(MAX_URI_BYTES));
    let cases: &[(&str, IdError)] = &[
        ("", IdError::Scheme),
        ("spiffe:", IdError::Scheme),
        ("SPIFFE://td/ns/a/sa/b", IdError::Scheme),
        ("Spiffe://td/ns/a/sa/b", IdError::Scheme),
        ("https://td/ns/a/sa/b", IdError::Scheme),
        (" spiffe://td/ns/a/sa/b", IdError::Scheme),
        ("td/ns/a/sa/b", IdError::Scheme),
        ("spiffe://", IdError::TrustDomain),
        ("spiffe:///ns/a/sa/b", IdError::TrustDomain),
        ("spiffe://TD/ns/a/sa/b", IdError::TrustDomain),
        ("spiffe://Cluster.local/ns/a/sa/b", IdError::TrustDomain),
        ("spiffe://td:443/ns/a/sa/b", IdError::TrustDomain),
        ("spiffe://user@td/ns/a/sa/b", IdError::TrustDomain),
        ("spiffe://t%64/ns/a/sa/b", IdError::TrustDomain),
        ("spiffe://*/ns/a/sa/b", IdError::TrustDomain),
        ("spiffe://td\0/ns/a/sa/b", IdError::TrustDomain),
        ("spiffe://td..x/ns/a/sa/b", IdError::TrustDomain),
        ("spiffe://.td/ns/a/sa/b", IdError::TrustDomain),
        ("spiffe://td./ns/a/sa/b", IdError::TrustDomain),
        ("spiffe://../ns/a/sa/b", IdError::TrustDomain),
        ("spiffe://täd/ns/a/sa/b", IdError::TrustDomain),
        ("spiffe://td", IdError::Path),
        ("spiffe://td/", IdError::Path),
        ("spiffe://td/ns", IdError::Path),
        ("spiffe://td/ns/a", IdError::Path),
        ("spiffe://td/ns/a/sa", IdError::Path),
        ("spiffe://td/ns/a/sa/b/", IdError::Path),
        ("spiffe://td/ns/a/sa/b/c", IdError::Path),
        ("spiffe://td//ns/a/sa/b", IdError::Path),
        ("spiffe://td/NS/a/sa/b", IdError::Path),
        ("spiffe://td/sa/a/ns/b", IdError::Path),
        ("spiffe://td/ns/a/../sa/b", IdError::Path),
        ("spiffe://td/./ns/a/sa/b", IdError::Path),
        ("spiffe://td/ns//sa/b", IdError::Segment),
        ("spiffe://td/ns/a/sa/", IdError::Segment),
        ("spiffe://td/ns/./sa/b", IdError::Segment),
        ("spiffe://td/ns/../sa/b", IdError::Segment),
        ("spiffe://td/ns/a/sa/..", IdError::Segment),
        ("spiffe://td/ns/a/sa/b..c", IdError::Segment),
        ("spiffe://td/ns/a/sa/b\0", IdError::Segment),
        ("spiffe://td/ns/a\0b/sa/b", IdError::Segment),
        ("spiffe://td/ns/a/sa/b%2f", IdError::Segment),
        ("spiffe://td/ns/a/sa/%62", IdError::Segment),
        ("spiffe://td/ns/*/sa/b", IdError::Segment),
        ("spiffe://td/ns/a/sa/*", IdError::Segment),
        ("spiffe://td/ns/a/sa/b?x=1", IdError::Segment),
        ("spiffe://td/ns/a/sa/b?", IdError::Segment),
        ("spiffe://td/ns/a/sa/b#x", IdError::Segment),
        ("spiffe://td/ns/a/sa/b ", IdError::Segment),
        ("spiffe://td/ns/a/sa/b\n", IdError::Segment),
        ("spiffe://td/ns/a/sa/b\\c", IdError::Segment),
        ("spiffe://td/ns/a/sa/b;c", IdError::Segment),
        ("spiffe://td/ns/ä/sa/b", IdError::Segment),
        (&long, IdError::TooLong),
    ];
    for (text, error) in cases {
        assert_eq!(SpiffeId::parse(text), Err(*error), "{text:?}");
    }
}

#[test]
fn the_length_limit_is_exact() {
    let prefix = "spiffe://td/ns/a/sa/";
    let fits = format!("{prefix}{}", "x".repeat(MAX_URI_BYTES - prefix.len()));
    assert!(SpiffeId::parse(&fits).is_ok());
    assert_eq!(SpiffeId::parse(&format!("{fits}x")), Err(IdError::TooLong));
    assert_eq!(
        SpiffeId::new(&TrustDomain::default(), "a", &"x".repeat(MAX_URI_BYTES)),
        Err(IdError::TooLong)
    );
}

#[test]
fn trust_domains() {
    let longest = "a".repeat(255);
    for good in ["cluster.local", "td1", "my_td", "a-b.c", "1", &longest] {
        assert_eq!(TrustDomain::parse(good).unwrap().as_str(), good);
    }
    let too_long = "a".repeat(256);
    for bad in ["", ".", "a..b", "A", "a/b", "a b", "a*", "*", "a\0", "a%41", "spiffe://a", "a:1", &too_long]
    {
        assert_eq!(TrustDomain::parse(bad), Err(IdError::TrustDomain), "{bad:?}");
    }
}

#[test]
fn names_cannot_smuggle_in_path_parts() {
    let td = TrustDomain::default();
    for (namespace, account) in
        [("a/sa/admin", "b"), ("a", "b/c"), ("", "b"), ("a", ""), ("..", "b"), ("a", "*")]
    {
        assert_eq!(
            SpiffeId::new(&td, namespace, account),
            Err(IdError::Segment),
            "{namespace:?} {account:?}"
        );
    }
}

proptest! {
    #[test]
    fn whatever_is_accepted_comes_back_unchanged(text in "(spiffe://)?[a-z.A%*/]{0,8}/ns/[a-z./%]{0,6}/sa/[a-z.A\0]{0,6}") {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.uri(), &text);
            let again = SpiffeId::new(id.trust_domain(), id.namespace(), id.service_account());
            prop_assert_eq!(again, Ok(id));
        }
    }

    #[test]
    fn parsing_never_panics(text in "\\PC*") {
        let _ = SpiffeId::parse(&text);
        let _ = TrustDomain::parse(&text);
    }
}
