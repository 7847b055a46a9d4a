use rcgen::KeyPair;

use super::*;
use crate::testkit::{DAY, HOUR, TestCa, ca_params, contents, csr, domain, id, is_accepted, now, with_leaf};

fn authority(ca: &TestCa, limits: Limits) -> Authority {
    Authority::load(&contents(ca.root_files()), &domain(), limits, now()).expect("a CA")
}

fn sign(authority: &Authority, ttl: Duration) -> Signed {
    authority.sign(&Grant::embedded(id("client"), csr(), ttl), now()).expect("signed")
}

#[test]
fn leaves_are_what_peers_expect() {
    let authority = authority(&TestCa::new("root"), Limits::default());
    let signed = sign(&authority, HOUR);
    assert_eq!(signed.certificates.len(), 1, "the root is not sent");
    assert!(is_accepted(&signed, authority.bundle(), now()));
    with_leaf(&signed, |leaf| {
        assert_eq!(leaf.subject().iter().count(), 0);
        let names = leaf.subject_alternative_name().expect("names").expect("present");
        assert!(names.critical, "names are critical where the subject is empty");
        // The request names evil.example and wants to be a CA.
        let [name] = &*names.value.general_names else { panic!("one name, the one of the grant") };
        assert_eq!(*name, x509_parser::extensions::GeneralName::URI(id("client").uri()));
        assert!(!leaf.is_ca());
        assert!(leaf.basic_constraints().expect("constraints").is_some(), "it says so itself");
        let usage = leaf.key_usage().expect("usage").expect("present").value;
        assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
        let usage = leaf.extended_key_usage().expect("usage").expect("present").value;
        assert!(usage.server_auth && usage.client_auth && !usage.any);
        assert!(leaf.raw_serial().len() <= 20);
        assert_eq!(hex(leaf.raw_serial()), signed.serial);
        assert_eq!(crate::chain::time(leaf.validity().not_before.timestamp()), signed.not_before);
        assert_eq!(crate::chain::time(leaf.validity().not_after.timestamp()), signed.not_after);
    });
    assert_eq!(signed.not_before, now() - Duration::from_secs(60), "clocks differ");
    assert_eq!(signed.not_after, now() + HOUR);
    assert_ne!(signed.serial, sign(&authority, HOUR).serial);
}

#[test]
fn lifetimes_have_a_limit() {
    let limits = Limits { default_ttl: HOUR, max_ttl: HOUR * 2 };
    let authority = authority(&TestCa::new("root"), limits);
    for (asked, granted) in [
        (Some(Duration::from_secs(1)), Duration::from_secs(1)),
        (Some(HOUR), HOUR),
        (Some(HOUR * 3), HOUR * 2),
        (Some(Duration::from_secs(u64::from(u32::MAX))), HOUR * 2),
        (Some(Duration::MAX), HOUR * 2),
        (None, HOUR),
    ] {
        let grant = Grant::without_checks(id("client"), csr(), asked);
        let signed = authority.sign(&grant, now()).expect("signed");
        assert_eq!(signed.not_after, now() + granted, "{asked:?}");
    }
}

#[test]
fn nothing_outlives_the_signer() {
    let mut params = ca_params("short root");
    params.not_before = (now() - HOUR).into();
    params.not_after = (now() + Duration::from_secs(600)).into();
    let ca = TestCa::made(params, KeyPair::generate().expect("key"));
    let authority = authority(&ca, Limits::default());
    assert_eq!(sign(&authority, HOUR).not_after, now() + Duration::from_secs(600));
    let grant = Grant::embedded(id("client"), csr(), HOUR);
    for at in [now() + Duration::from_secs(600), now() + DAY, now() - DAY] {
        assert_eq!(authority.sign(&grant, at).expect_err("out of its time").reason(), "ca_expired");
    }
}

#[test]
fn no_key_is_printed() {
    let ca = TestCa::new("root");
    let text = format!("{:?}", authority(&ca, Limits::default()));
    assert!(
        !text.contains("BEGIN")
            && !text.contains(&hex(&KeyPair::from_pem(&ca.key_pem()).expect("key").serialize_der())),
        "{text}"
    );
}
