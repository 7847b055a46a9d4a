use super::*;
use crate::testkit::TestCa;

#[test]
fn there_is_always_a_root() {
    assert!(matches!(Bundle::new([], Crls::default()), Err(BundleError::Empty)));
    assert!(matches!(Bundle::parse(b"", b""), Err(BundleError::Empty)));
    assert!(matches!(Bundle::parse(b"-----BEGIN CERTIFICATE-----\nAA", b""), Err(BundleError::Pem(_))));
    let garbage = CertificateDer::from(vec![1, 2, 3]);
    let root = CertificateDer::from_pem_slice(TestCa::new("root").pem().as_bytes()).expect("a root");
    let bad = Bundle::new([root, garbage], Crls::default());
    assert!(matches!(bad, Err(BundleError::Malformed { index: 1, .. })));
}

#[test]
fn what_is_given_is_taken_again() {
    let (one, two) = (TestCa::new("one"), TestCa::new("two"));
    let text = one.pem() + &two.pem() + &one.pem();
    let list = two.crl(&[&[0x42]]);
    let bundle = Bundle::parse(text.as_bytes(), list.as_bytes()).expect("a bundle");
    assert_eq!((bundle.roots().len(), bundle.anchors().len()), (2, 2), "twice the same is once");
    assert_eq!(bundle.roots_pem(), (one.pem() + &two.pem()).replace("\r\n", "\n"));
    let again = Bundle::parse(bundle.roots_pem().as_bytes(), bundle.crls().to_pem().as_bytes());
    assert_eq!(again.expect("a bundle"), bundle);
    let without = Bundle::parse(text.as_bytes(), b"").expect("a bundle");
    assert!(without != bundle, "a revocation is a change");
    assert!(Bundle::parse(text.as_bytes(), b"rubbish").is_err());
}
