use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustls_pki_types::pem::PemObject;

use super::*;
use crate::identity::Svid;
use crate::tls::Trust;
use crate::tls::testkit::{HOUR, TestCa, domain, id, on_data_thread, tcp_pair};

/// Whether certificates of `ca` are accepted under its roots.
async fn works(ca: &StateCa) {
    let trust = Arc::new(Trust::new(&ca.roots(), vec![domain()]).expect("trust"));
    let issue = |account| Svid::issue(ca, &id(account), HOUR, &trust).expect("svid");
    let (client, server, expected) = (issue("client"), issue("server"), id("server"));
    let (near, far) = tcp_pair().await;
    let (near, far) =
        tokio::join!(crate::tls::connect(near, &client, &expected), crate::tls::accept(far, &server));
    near.expect("client");
    assert_eq!(far.expect("server").1.id, id("client"));
}

#[test]
fn made_once_whoever_comes_first() {
    let state = tempfile::tempdir().expect("directory");
    let roots: Vec<_> = std::thread::scope(|scope| {
        let open = || StateCa::open(state.path(), &domain()).expect("open").roots();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().expect("thread")).collect()
    });
    assert!(roots.iter().all(|r| *r == roots[0]), "all have the same root");
    let again = StateCa::open(state.path(), &domain()).expect("reload");
    assert_eq!(again.roots(), roots[0]);
    on_data_thread(async { works(&again).await });

    let mode = |path: &Path| fs::metadata(path).expect("file").permissions().mode() & 0o777;
    let dir = state.path().join("ca");
    assert_eq!(mode(&dir), 0o700);
    for name in [files::ROOT, files::CERTIFICATE, files::CHAIN, files::KEY] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
    assert!(!state.path().join("ca.draft").exists());
}

#[test]
fn a_dead_process_leaves_nothing_in_the_way() {
    let state = tempfile::tempdir().expect("directory");
    fs::create_dir(state.path().join("ca.draft")).expect("draft");
    fs::write(state.path().join("ca.draft").join(files::KEY), "half").expect("half a key");
    fs::create_dir(state.path().join("ca")).expect("an empty directory is no CA yet");
    StateCa::open(state.path(), &domain()).expect("open");
}

#[test]
fn leaves_are_what_peers_expect() {
    let state = tempfile::tempdir().expect("directory");
    let ca = StateCa::open(state.path(), &domain()).expect("open");
    let trust = Arc::new(Trust::new(&ca.roots(), vec![domain()]).expect("trust"));
    let svid = Svid::issue(&ca, &id("client"), HOUR, &trust).expect("svid");
    assert_eq!(svid.chain().len(), 1, "the root is not sent");
    let (_, leaf) = x509_parser::parse_x509_certificate(&svid.chain()[0]).expect("leaf");
    assert_eq!(leaf.subject().iter().count(), 0);
    let names = leaf.subject_alternative_name().expect("names").expect("present");
    assert!(names.critical, "names are critical where the subject is empty");
    assert_eq!(names.value.general_names.len(), 1);
    assert!(!leaf.is_ca());
    assert!(leaf.raw_serial().len() <= 20);
    let life = svid.not_after().duration_since(SystemTime::now()).expect("in the future");
    assert!(life <= HOUR && life + Duration::from_secs(5) > HOUR);
    let other = Svid::issue(&ca, &id("client"), HOUR, &trust).expect("svid");
    assert_ne!(svid.serial(), other.serial());
}

/// Lays a CA out as a user would.
fn plug_in(state: &Path, ca: &TestCa, root: &TestCa, chain: &str) {
    let dir = state.join("ca");
    fs::create_dir_all(&dir).expect("directory");
    fs::write(dir.join(files::ROOT), root.pem()).expect("root");
    fs::write(dir.join(files::CERTIFICATE), ca.pem()).expect("certificate");
    fs::write(dir.join(files::CHAIN), chain).expect("chain");
    fs::write(dir.join(files::KEY), ca.key_pem()).expect("key");
}

#[test]
fn an_intermediate_can_be_plugged_in() {
    let root = TestCa::new("their root");
    let first = root.intermediate("their first");
    let second = first.intermediate("their second");
    let state = tempfile::tempdir().expect("directory");
    // Istio's sample puts the signer and the root into the chain as well; both must do.
    let chain = format!("{}{}{}", second.pem(), first.pem(), root.pem());
    plug_in(state.path(), &second, &root, &chain);
    let ca = StateCa::open(state.path(), &domain()).expect("open");
    assert_eq!(ca.roots().len(), 1);
    on_data_thread(async { works(&ca).await });
    let trust = Arc::new(Trust::new(&ca.roots(), vec![domain()]).expect("trust"));
    let svid = Svid::issue(&ca, &id("client"), HOUR, &trust).expect("svid");
    assert_eq!(svid.chain().len(), 3, "leaf and two intermediates, no root");
}

#[test]
fn keys_come_in_several_forms() {
    for alg in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
        let key = KeyPair::generate_for(alg).expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "their root");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("root").pem();
        let state = tempfile::tempdir().expect("directory");
        let dir = state.path().join("ca");
        fs::create_dir_all(&dir).expect("directory");
        for name in [files::ROOT, files::CERTIFICATE, files::CHAIN] {
            fs::write(dir.join(name), &certificate).expect("certificate");
        }
        fs::write(dir.join(files::KEY), key.serialize_pem()).expect("key");
        let ca = StateCa::open(state.path(), &domain()).expect("open");
        on_data_thread(async { works(&ca).await });
    }
}

/// Opens what `spoil` made of a good CA; the error as text.
fn spoilt(spoil: impl Fn(&Path, &TestCa)) -> (CaError, String) {
    let root = TestCa::new("root");
    let state = tempfile::tempdir().expect("directory");
    plug_in(state.path(), &root, &root, &root.pem());
    StateCa::open(state.path(), &domain()).expect("good so far");
    spoil(&state.path().join("ca"), &root);
    let error = StateCa::open(state.path(), &domain()).expect_err("spoilt");
    let text = error.to_string();
    (error, text)
}

#[test]
fn errors_name_the_file() {
    for name in [files::ROOT, files::CERTIFICATE, files::CHAIN, files::KEY] {
        let (error, text) = spoilt(|dir, _| fs::remove_file(dir.join(name)).expect("remove"));
        assert_eq!(error.reason(), "ca_file_missing", "{name}");
        assert!(text.contains(name), "{text}");

        let (error, text) = spoilt(|dir, _| fs::write(dir.join(name), "").expect("empty"));
        assert_eq!(error.reason(), "ca_file_malformed", "{name}");
        assert!(text.contains(name), "{text}");

        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let (error, text) = spoilt(|dir, _| fs::write(dir.join(name), pem).expect("garbage"));
        assert_eq!(error.reason(), "ca_file_malformed", "{name}");
        assert!(text.contains(name), "{text}");

        let (error, text) = spoilt(|dir, _| {
            fs::remove_file(dir.join(name)).expect("remove");
            fs::create_dir(dir.join(name)).expect("a directory");
        });
        assert_eq!(error.reason(), "ca_io", "{name}");
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn pieces_must_fit() {
    let stranger = TestCa::new("stranger");
    let (error, text) = spoilt(|dir, _| fs::write(dir.join(files::KEY), stranger.key_pem()).expect("write"));
    assert!(text.contains(files::KEY) && text.contains("its key is not"), "{error}");
    let (error, _) = spoilt(|dir, _| fs::write(dir.join(files::ROOT), stranger.pem()).expect("write"));
    assert_eq!(error.reason(), "ca_chain_broken", "{error}");
    // A certificate that may not sign.
    let (error, _) = spoilt(|dir, ca| {
        let leaf = ca.svid("leaf");
        let key = KeyPair::generate().expect("key");
        let params = crate::tls::testkit::leaf_params(&[]);
        let alone = params.self_signed(&key).expect("certificate").pem();
        fs::write(dir.join(files::CERTIFICATE), alone).expect("write");
        fs::write(dir.join(files::KEY), key.serialize_pem()).expect("write");
        drop(leaf);
    });
    assert_eq!(error.reason(), "ca_chain_broken", "{error}");
}

#[test]
fn nothing_outlives_the_signer() {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "short root");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_after = (SystemTime::now() + Duration::from_secs(600)).into();
    let pem = params.self_signed(&key).expect("root").pem();
    let state = tempfile::tempdir().expect("directory");
    let dir = state.path().join("ca");
    fs::create_dir_all(&dir).expect("directory");
    for name in [files::ROOT, files::CERTIFICATE, files::CHAIN] {
        fs::write(dir.join(name), &pem).expect("certificate");
    }
    fs::write(dir.join(files::KEY), key.serialize_pem()).expect("key");
    let ca = StateCa::open(state.path(), &domain()).expect("open");
    let trust = Arc::new(Trust::new(&ca.roots(), vec![domain()]).expect("trust"));
    let svid = Svid::issue(&ca, &id("client"), HOUR, &trust).expect("svid");
    assert!(svid.not_after() <= SystemTime::now() + Duration::from_secs(600));
}

#[test]
fn requests_name_nobody() {
    let state = tempfile::tempdir().expect("directory");
    let ca = StateCa::open(state.path(), &domain()).expect("open");
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).expect("names");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = params.serialize_request(&key).expect("request");
    let issued = ca.sign(&id("client"), request.der(), HOUR).expect("signed");
    let (_, leaf) = x509_parser::parse_x509_certificate(&issued.certificates[0]).expect("leaf");
    assert!(!leaf.is_ca(), "only what the CA decides is in the certificate");
    let names = leaf.subject_alternative_name().expect("names").expect("present");
    assert_eq!(names.value.general_names.len(), 1);
    let mut forged = request.der().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    ca.sign(&id("client"), &forged.into(), HOUR).expect_err("a request must prove its key");
    assert!(CertificateDer::from_pem_slice(b"x").is_err());
}
