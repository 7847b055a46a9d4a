use mesh_core::resource::networking::gateway::ServerTls;

use super::*;
use crate::tls::pki::{Kind, Leaf, Pki, params};

fn verifier(pki: &Pki, spec: ServerTls) -> ClientVerifier {
    let spec = ServerTls { mode: ServerTlsMode::Mutual, ..spec };
    let materials = Materials { ca: Some(pki.pem().into_bytes().into()), ..Materials::default() };
    ClientVerifier::of(&spec, &materials).unwrap().unwrap()
}

fn accepts(verifier: &ClientVerifier, leaf: &Leaf) -> bool {
    verifier.verify_client_cert(&leaf.chain()[0], &[], UnixTime::now()).is_ok()
}

#[test]
fn one_of_the_names_is_enough() {
    let pki = Pki::new("root");
    let asked = ["api.example", "spiffe://cluster.local/ns/a/sa/b", "10.0.0.1", "wild.shop.example"];
    let spec = ServerTls { subject_alt_names: asked.map(str::to_owned).into(), ..ServerTls::default() };
    let verifier = verifier(&pki, spec);
    for (name, works) in [
        ("api.example", true),
        ("API.example", true),
        ("10.0.0.1", true),
        ("*.shop.example", true),
        ("*.example", true),
        ("*.other.example", false),
        ("10.0.0.2", false),
        ("x.api.example", false),
    ] {
        assert_eq!(accepts(&verifier, &pki.leaf(&[name])), works, "{name}");
    }
    let mut uri = params(&[]);
    let name = "spiffe://cluster.local/ns/a/sa/b".try_into().unwrap();
    uri.subject_alt_names.push(rcgen::SanType::URI(name));
    assert!(accepts(&verifier, &pki.made(Kind::Ecdsa, uri)));
}

#[test]
fn a_hash_of_the_certificate_or_of_its_key_is_enough() {
    let pki = Pki::new("root");
    let (known, other) = (pki.leaf(&["a.example"]), pki.leaf(&["a.example"]));
    let hash = hex(digest(&SHA256, &known.chain()[0]).as_ref()).to_uppercase();
    let colons =
        hash.as_bytes().chunks(2).map(|two| String::from_utf8_lossy(two)).collect::<Vec<_>>().join(":");
    for hash in [hash, colons] {
        let spec = ServerTls { verify_certificate_hash: vec![hash], ..ServerTls::default() };
        let verifier = verifier(&pki, spec);
        assert!(accepts(&verifier, &known) && !accepts(&verifier, &other));
    }
    let der = &known.chain()[0];
    let (_, parsed) = X509Certificate::from_der(der).unwrap();
    let key = BASE64_STANDARD.encode(digest(&SHA256, parsed.public_key().raw));
    let spec = ServerTls {
        verify_certificate_spki: vec![key],
        verify_certificate_hash: vec!["00".to_owned()],
        ..ServerTls::default()
    };
    let verifier = verifier(&pki, spec);
    assert!(accepts(&verifier, &known) && !accepts(&verifier, &other));
}

#[test]
fn who_is_out_of_date_or_no_client_is_refused() {
    let pki = Pki::new("root");
    let verifier = verifier(&pki, ServerTls::default());
    let mut old = params(&["a.example"]);
    old.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let mut server = params(&["a.example"]);
    server.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let mut unspecified = params(&["a.example"]);
    unspecified.extended_key_usages.clear();
    for (made, works) in [(old, false), (server, false), (unspecified, true)] {
        assert_eq!(accepts(&verifier, &pki.made(Kind::Ecdsa, made)), works);
    }
    assert_eq!(verifier.root_hint_subjects().len(), 1, "clients with many certificates know which to show");
    let without = Materials::default();
    let spec = ServerTls { mode: ServerTlsMode::Mutual, ..ServerTls::default() };
    assert!(ClientVerifier::of(&spec, &without).is_err());
}

#[test]
fn what_is_known_of_a_client() {
    let leaf = Pki::new("root").leaf(&["a, b.example"]);
    let read = ClientCertificate::read(&leaf.chain()[0], true);
    assert_eq!(read.subject, "CN=a\\, b.example,O=Acme\\, Inc.");
    assert_eq!(read.dns, ["a, b.example"]);
    assert_eq!(read.sha256, digest(&SHA256, &leaf.chain()[0]).as_ref());
    let garbage = ClientCertificate::read(&CertificateDer::from(vec![1, 2, 3]), false);
    assert!(garbage.subject.is_empty() && !garbage.verified);
}
