//! Who somebody is: ids and certificates.

use anyhow::{Context as _, Result, ensure};
use mesh_ca::chain;
use mesh_core::id::SpiffeId;
use mesh_tests::edge::pki::Pki;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::pki_types::CertificateDer;

use crate::Target;
use crate::engine::way;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target {
            name: "spiffe",
            seeds: || IDS.iter().map(|id| id.as_bytes().to_vec()).collect(),
            words: IDS,
            run: spiffe,
        },
        Target {
            name: "x509",
            seeds: certificates,
            words: &["spiffe://", "/ns/", "/sa/", "\u{6}\u{3}U\u{1d}\u{11}"],
            run: x509,
        },
        Target {
            name: "crl",
            seeds: lists,
            words: &["-----BEGIN X509 CRL-----\n", "-----END X509 CRL-----\n"],
            run: crl,
        },
    ]
}

/// What passes for an id is written as it was read, and has none of what paths are confused with.
fn spiffe(input: &[u8]) -> Result<u64> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(0) };
    let id = match SpiffeId::parse(text) {
        Ok(id) => id,
        Err(error) => return Ok(way(&error.to_string())),
    };
    is_sound(&id)?;
    ensure!(id.uri() == text, "it is written {:?}", id.uri());
    Ok(1)
}

fn is_sound(id: &SpiffeId) -> Result<()> {
    let uri = id.uri();
    ensure!(uri.len() <= 2048, "{} bytes", uri.len());
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/:".contains(&byte);
    ensure!(uri.bytes().all(is_plain), "odd bytes in {uri:?}");
    ensure!(!uri.split('/').any(|part| part == "." || part == ".."), "dots in {uri:?}");
    let again =
        SpiffeId::new(id.trust_domain(), id.namespace(), id.service_account()).context("of its parts")?;
    ensure!(again == *id, "of its parts it is {again:?}");
    Ok(())
}

/// A certificate that is none names nobody.
fn x509(input: &[u8]) -> Result<u64> {
    match chain::identity(&CertificateDer::from(input)) {
        Ok(id) => {
            is_sound(&id)?;
            Ok(1)
        }
        Err(error) => Ok(way(&error.to_string())),
    }
}

/// A revocation list is taken whole, or not at all.
fn crl(input: &[u8]) -> Result<u64> {
    match mesh_ca::crl::Crls::parse(input, &[]) {
        Ok(lists) => {
            let again =
                mesh_ca::crl::Crls::parse(lists.to_pem().as_bytes(), &[]).context("what was taken")?;
            ensure!(again == lists, "written down it is another");
            Ok(1 + u64::try_from(lists.len().min(3))?)
        }
        Err(error) => Ok(way(&error.to_string())),
    }
}

/// With one id, with two, with a name of DNS, with a zero in it.
fn certificates() -> Vec<Vec<u8>> {
    let made = |uris: &[&str]| {
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).ok()?;
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().ok()?));
        }
        Some(params.self_signed(&KeyPair::generate().ok()?).ok()?.der().to_vec())
    };
    let all: [&[&str]; 4] = [
        &["spiffe://cluster.local/ns/shop/sa/web"],
        &["spiffe://cluster.local/ns/a/sa/b", "spiffe://cluster.local/ns/c/sa/d"],
        &["spiffe://cluster.local/ns/a\0/sa/b"],
        &[],
    ];
    all.into_iter().filter_map(made).collect()
}

fn lists() -> Vec<Vec<u8>> {
    let pki = Pki::new("lists");
    let two = pki.crl(&[&[1], &[2, 3]]) + &pki.crl(&[]);
    vec![pki.crl(&[&[7]]).into_bytes(), two.into_bytes(), Vec::new()]
}

const IDS: &[&str] = &[
    "spiffe://cluster.local/ns/shop/sa/web",
    "spiffe://td.example/ns/a/sa/b",
    "spiffe://",
    "/ns/",
    "/sa/",
    "..",
    "/",
    "%2f",
    "\0",
    "?",
    "#",
    ":80",
    "@",
    "A",
    "_",
    "\u{e4}",
];
