use super::*;
use crate::testkit::{HOUR, TestCa, now};

fn issuers(cas: &[&TestCa]) -> Vec<CertificateDer<'static>> {
    let text: String = cas.iter().map(|ca| ca.pem()).collect();
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().expect("certificates")
}

fn parse(text: &str, cas: &[&TestCa]) -> Result<Crls, CrlError> {
    Crls::parse(text.as_bytes(), &issuers(cas))
}

#[test]
fn lists_are_taken_and_given() {
    let (ours, theirs) = (TestCa::new("ours"), TestCa::new("theirs"));
    assert!(parse("", &[&ours]).expect("none").is_empty());
    assert!(parse(" \n", &[&ours]).expect("none").is_empty());
    let text = ours.crl(&[&[0x41, 7]]) + &theirs.crl(&[]);
    let crls = parse(&text, &[&ours, &theirs]).expect("two");
    assert_eq!(crls.len(), 2);
    assert_eq!(crls.next_update(), Some(now() + HOUR));
    let found = crls.lists()[0].find_serial(&[0x41, 7]).expect("a search");
    assert!(found.is_some());
    let again = parse(&crls.to_pem(), &[&ours, &theirs]).expect("two");
    assert_eq!(crls, again);
    assert_ne!(crls, parse(&ours.crl(&[]), &[&ours]).expect("one"));
}

#[test]
fn half_a_list_is_none() {
    let ours = TestCa::new("ours");
    let text = ours.crl(&[&[1], &[2], &[3]]);
    let end = text.trim_end().len();
    for cut in 1..end {
        assert!(parse(&text[..cut], &[&ours]).is_err(), "cut at {cut}");
    }
    let der = CertificateRevocationListDer::from_pem_slice(text.as_bytes()).expect("list");
    for index in 0..der.len() {
        let mut changed = der.to_vec();
        changed[index] ^= 0xff;
        let text = pem("X509 CRL", &changed);
        // A change of the name makes it the list of somebody who is not known here; everything else is signed.
        if let Ok(crls) = parse(&text, &[&ours]) {
            let list = CertificateRevocationList::from_der(&crls.0[0].der).expect("a list").1;
            assert!(!is_of(&issuers(&[&ours])[0], &list), "byte {index}");
        }
    }
    let mut longer = der.to_vec();
    longer.push(0);
    assert!(matches!(parse(&pem("X509 CRL", &longer), &[&ours]), Err(CrlError::Malformed { .. })));
}

#[test]
fn forged_lists_are_refused() {
    let (ours, forger, stranger) = (TestCa::new("ours"), TestCa::new("ours"), TestCa::new("stranger"));
    let fake = forger.crl(&[]);
    let error = parse(&fake, &[&ours]).expect_err("forged");
    assert_eq!(error, CrlError::Forged { index: 0, issuer: "CN=ours".into() });
    parse(&fake, &[&ours, &forger]).expect("two CAs of one name: one of them has signed it");
    let error = parse(&(ours.crl(&[]) + &fake), &[&ours]).expect_err("the second is forged");
    assert!(matches!(error, CrlError::Forged { index: 1, .. }));
    parse(&stranger.crl(&[]), &[&ours]).expect("the list of a CA that only peers know");
}

#[test]
fn lists_have_limits() {
    let ours = TestCa::new("ours");
    let one = ours.crl(&[]);
    parse(&one.repeat(MAX_LISTS), &[&ours]).expect("as many as may be");
    assert_eq!(parse(&one.repeat(MAX_LISTS + 1), &[&ours]).expect_err("more"), CrlError::TooMany);
    let large = " ".repeat(usize::try_from(MAX_ENTRY).expect("a size") + 1);
    assert_eq!(parse(&large, &[&ours]).expect_err("large"), CrlError::TooLarge);
    assert_eq!(parse("not a list", &[&ours]).expect_err("text"), CrlError::Empty);
    assert_eq!(parse(&ours.pem(), &[&ours]).expect_err("a certificate"), CrlError::Empty);
}
