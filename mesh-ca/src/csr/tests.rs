use rcgen::{CustomExtension, PublicKeyData};

use super::*;
use crate::testkit::csr_der;

fn request(alg: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
    let key = KeyPair::generate_for(alg).expect("key");
    CertificateParams::default().serialize_request(&key).expect("request").der().to_vec()
}

#[test]
fn a_request_that_is_made_is_one() {
    let (key, request) = make().expect("a key");
    let key = KeyPair::try_from(&key).expect("PKCS #8");
    let parsed = Csr::parse(request.der()).expect("a request");
    assert_eq!(parsed.key().der_bytes(), PublicKeyData::der_bytes(&key));
}

#[test]
fn a_request_must_prove_its_key() {
    let good = csr_der();
    Csr::parse(&good).expect("good");
    let mut forged = good.clone();
    *forged.last_mut().expect("bytes") ^= 1;
    assert_eq!(Csr::parse(&forged).expect_err("forged"), CsrError::Unproven);
    // Somebody else's key under a signature of ours: the key's place is found by its length and tag.
    let other = csr_der();
    let at = |der: &[u8]| der.windows(4).position(|w| w == [3, 66, 0, 4]).expect("a point") + 4;
    let mut stolen = good.clone();
    let (here, there) = (at(&good), at(&other));
    stolen[here..here + 64].copy_from_slice(&other[there..there + 64]);
    assert_eq!(Csr::parse(&stolen).expect_err("stolen"), CsrError::Unproven);
}

#[test]
fn only_p256_is_certified() {
    Csr::parse(&request(&PKCS_ECDSA_P256_SHA256)).expect("P-256");
    for alg in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
        assert_eq!(Csr::parse(&request(alg)).expect_err("another"), CsrError::Algorithm, "{alg:?}");
    }
    // The same point under the name of another curve: prime192v1 instead of prime256v1.
    let mut renamed = csr_der();
    let name = [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let at = renamed.windows(name.len()).position(|window| window == name).expect("the curve's name");
    renamed[at + 7] = 1;
    assert_eq!(Csr::parse(&renamed).expect_err("another curve"), CsrError::Algorithm);
}

#[test]
fn what_else_a_request_says_is_no_obstacle() {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).expect("names");
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
    let request = params.serialize_request(&key).expect("request");
    Csr::parse(request.der()).expect("an extension that we do not know");
    Csr::parse_pem(request.pem().expect("PEM").as_bytes()).expect("PEM");
}

#[test]
fn garbage_is_refused() {
    let good = csr_der();
    for cut in 0..good.len() {
        Csr::parse(&good[..cut]).expect_err("cut");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(Csr::parse(&longer).expect_err("longer"), CsrError::Malformed);
    assert_eq!(Csr::parse(&vec![0x30; MAX_BYTES + 1]).expect_err("large"), CsrError::TooLarge);
    assert_eq!(Csr::parse_pem(&vec![b'-'; MAX_BYTES * 2 + 1]).expect_err("large"), CsrError::TooLarge);
    for text in ["", "x", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
        assert_eq!(Csr::parse_pem(text.as_bytes()).expect_err("no request"), CsrError::Malformed, "{text}");
    }
    // Every byte changed: an error or, where it is of no consequence, a request; never a panic.
    for index in 0..good.len() {
        let mut changed = good.clone();
        changed[index] ^= 0xff;
        assert!(Csr::parse(&changed).is_err(), "byte {index} is signed");
    }
}
