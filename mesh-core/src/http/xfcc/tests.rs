//! What is sent on of what came, rule by rule, and what names in certificates cannot do.

use super::*;

use ForwardClientCert::*;

fn show(received: &[&str], own: Option<&str>, rule: ForwardClientCert) -> String {
    let all = received.iter().map(|value| value.as_bytes());
    forwarded(all, own, rule).map_or("-".to_owned(), |value| String::from_utf8(value).unwrap())
}

#[test]
fn each_rule() {
    // With a certificate, and without.
    let rows = [
        (Undefined, "own", "-"),
        (Sanitize, "-", "-"),
        (SanitizeSet, "own", "-"),
        (ForwardOnly, "a,b", "-"),
        (AppendForward, "a,b,own", "-"),
        (AlwaysForwardOnly, "a,b", "a,b"),
    ];
    for (rule, with, without) in rows {
        assert_eq!(show(&["a", " b "], Some("own"), rule), with, "{rule:?}");
        assert_eq!(show(&["a", "b"], None, rule), without, "{rule:?}");
    }
}

#[test]
fn nothing_came() {
    assert_eq!(show(&[], Some("own"), AppendForward), "own");
    assert_eq!(show(&["", " "], Some("own"), AppendForward), "own");
    assert_eq!(show(&[], Some("own"), ForwardOnly), "-");
    assert_eq!(show(&[""], None, AlwaysForwardOnly), "-");
}

#[test]
fn too_much_came() {
    let long = "a".repeat(MAX_BYTES);
    assert_eq!(show(&[&long], Some("own"), AppendForward), "own");
    assert_eq!(show(&[&long], None, AlwaysForwardOnly), long);
    assert_eq!(show(&[&long, "b"], None, AlwaysForwardOnly), "-");
}

#[test]
fn names_do_not_become_elements() {
    let [uris, dns] =
        [["spiffe://a/ns/b/sa/c", "urn:x;URI=spiffe://admin", "a,By=b"], ["a.test", "b\"c", "d\\"]];
    let [uris, dns] = [uris, dns].map(|names| names.map(str::to_owned));
    let certificate = Certificate { sha256: [0xab; 32], subject: "CN=a\"b\\,O=c", uris: &uris, dns: &dns };
    assert_eq!(
        certificate.element(),
        format!(
            "Hash={};Subject=\"CN=a\\\"b\\\\,O=c\";URI=spiffe://a/ns/b/sa/c;URI=\"urn:x;URI=spiffe://admin\";\
             URI=\"a,By=b\";DNS=a.test;DNS=\"b\\\"c\";DNS=\"d\\\\\"",
            "ab".repeat(32)
        )
    );
}
