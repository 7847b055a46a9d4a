use std::collections::BTreeMap;
use std::path::Path;

use rcgen::KeyPair;

use super::*;
use crate::Grant;
use crate::testkit::{DAY, HOUR, MemoryVault, TestCa, ca_params, csr, domain, id, is_accepted, now};
use crate::vault::FileVault;

async fn open(vault: Arc<dyn Vault>) -> Result<Ca, CaError> {
    Ca::open(vault, &domain(), Limits::default(), now()).await
}

async fn open_memory(entries: BTreeMap<String, Vec<u8>>) -> Result<Ca, CaError> {
    open(Arc::new(MemoryVault::with(entries))).await
}

fn works(ca: &Ca) -> bool {
    let authority = ca.authority();
    let grant = Grant::embedded(id("client"), csr(), HOUR);
    let signed = authority.sign(&grant, now()).expect("signed");
    is_accepted(&signed, authority.bundle(), now())
}

#[test]
fn made_once_whoever_comes_first() {
    let state = tempfile::tempdir().expect("directory");
    let open = |state: &Path| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let ca = runtime.block_on(open(Arc::new(FileVault::ca(state)))).expect("open");
        assert!(works(&ca));
        ca.authority().bundle().roots().to_vec()
    };
    let roots: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| open(state.path()))).collect();
        threads.into_iter().map(|thread| thread.join().expect("thread")).collect()
    });
    assert!(roots.iter().all(|r| *r == roots[0]), "all have the same root");
    assert_eq!(open(state.path()), roots[0], "also later");
}

#[tokio::test]
async fn an_intermediate_can_be_plugged_in() {
    let root = TestCa::new("their root");
    let first = root.intermediate("their first");
    let second = first.intermediate("their second");
    // Istio's sample puts the signer and the root into the chain as well; both must do.
    for chain in [
        format!("{}{}{}", second.pem(), first.pem(), root.pem()),
        format!("{}{}", second.pem(), first.pem()),
        first.pem(),
    ] {
        let ca = open_memory(second.files(&root, &chain)).await.expect("open");
        assert_eq!(ca.authority().bundle().roots().len(), 1);
        assert!(works(&ca));
        let signed = ca.authority().sign(&Grant::embedded(id("client"), csr(), HOUR), now()).expect("signed");
        assert_eq!(signed.certificates.len(), 3, "leaf and two intermediates, no root");
    }
}

#[tokio::test]
async fn keys_come_in_several_forms() {
    for alg in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256] {
        let root = TestCa::of_key("their root", KeyPair::generate_for(alg).expect("key"));
        assert!(works(&open_memory(root.root_files()).await.expect("open")), "{alg:?}");
    }
}

/// Opens what `spoil` made of a good CA; the error, and as text.
async fn spoilt(spoil: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) -> (CaError, String) {
    let mut files = TestCa::new("root").root_files();
    spoil(&mut files);
    let error = open_memory(files).await.expect_err("spoilt");
    let text = error.to_string();
    (error, text)
}

#[tokio::test]
async fn errors_name_the_file() {
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for name in CURRENT.names() {
        let (error, text) = spoilt(|files| drop(files.remove(name))).await;
        assert_eq!(error.reason(), "ca_file_missing", "{name}");
        assert!(text.contains(name), "{text}");
        for content in ["", "hello", garbage] {
            let (error, text) = spoilt(|files| drop(files.insert(name.into(), content.into()))).await;
            assert_eq!(error.reason(), "ca_file_malformed", "{name}");
            assert!(text.contains(name), "{text}");
        }
    }
    for name in ["rotation.json", "ca-crl.pem"] {
        let (error, text) = spoilt(|files| drop(files.insert(name.into(), "{".into()))).await;
        assert_eq!(error.reason(), "ca_file_malformed", "{name}");
        assert!(text.contains(name), "{text}");
    }
}

#[tokio::test]
async fn pieces_must_fit() {
    let stranger = TestCa::new("stranger");
    let [root, certificate, chain, key] = CURRENT.names();
    let (error, text) = spoilt(|files| drop(files.insert(key.into(), stranger.key_pem().into()))).await;
    assert!(text.contains(key) && text.contains("its key is not"), "{error}");
    let (error, _) = spoilt(|files| drop(files.insert(root.into(), stranger.pem().into()))).await;
    assert_eq!(error.reason(), "ca_chain_broken", "{error}");
    // A certificate that may not sign.
    let mut params = ca_params("leaf");
    params.is_ca = rcgen::IsCa::ExplicitNoCa;
    let leaf = TestCa::made(params, KeyPair::generate().expect("key"));
    let (error, _) = spoilt(|files| {
        files.insert(certificate.into(), leaf.pem().into());
        files.insert(chain.into(), leaf.pem().into());
        files.insert(key.into(), leaf.key_pem().into());
    })
    .await;
    assert_eq!(error.reason(), "ca_chain_broken", "{error}");
    // One that has ended.
    let mut params = ca_params("ended");
    params.not_after = (now() - HOUR).into();
    let ended = TestCa::made(params, KeyPair::generate().expect("key"));
    let error = open_memory(ended.root_files()).await.expect_err("ended");
    assert!(error.to_string().contains("expired"), "{error}");
    // A chain that peers would not look at.
    let mut ca = TestCa::new("root");
    let (top, mut texts) = (ca.pem(), String::new());
    for name in ["1", "2", "3", "4"] {
        ca = ca.intermediate(name);
        texts = ca.pem() + &texts;
    }
    let mut files = ca.files(&ca, &texts);
    files.insert(root.into(), top.into());
    let error = open_memory(files).await.expect_err("too long");
    assert_eq!(error.reason(), "ca_chain_broken", "{error}");
}

#[tokio::test]
async fn a_change_is_seen_and_a_bad_one_is_not_taken() {
    let vault = Arc::new(MemoryVault::with(TestCa::new("first").root_files()));
    let ca = open(vault.clone()).await.expect("open");
    let first = ca.authority();
    assert!(!ca.refresh(now()).await.expect("nothing new"));
    assert!(Arc::ptr_eq(&first, &ca.authority()), "nothing is parsed again for nothing");

    vault.state.lock().expect("vault").entries.remove("ca-key.pem");
    for _ in 0..2 {
        assert_eq!(ca.refresh(now()).await.expect_err("broken").reason(), "ca_file_missing");
        assert!(Arc::ptr_eq(&first, &ca.authority()), "the last good one stays");
    }
    vault.state.lock().expect("vault").entries = TestCa::new("second").root_files();
    assert!(ca.refresh(now()).await.expect("mended"));
    assert_ne!(ca.authority().bundle().roots(), first.bundle().roots());
    assert!(works(&ca));
    assert!(!ca.refresh(now() + DAY).await.expect("nothing new"));
}

#[tokio::test]
async fn bad_revocations_do_not_hold_up_the_rest() {
    let (root, next) = (TestCa::new("root"), TestCa::new("next"));
    let mut files = root.root_files();
    files.insert("ca-crl.pem".into(), root.crl(&[&[7]]).into());
    let vault = Arc::new(MemoryVault::with(files));
    let ca = open(vault.clone()).await.expect("open");
    assert_eq!(ca.authority().bundle().crls().len(), 1);
    let with_root = (root.pem() + &next.pem()).into_bytes();
    {
        let entries = &mut vault.state.lock().expect("vault").entries;
        entries.insert("root-cert.pem".into(), with_root);
        entries.insert("ca-crl.pem".into(), "rubbish".into());
    }
    for _ in 0..2 {
        let error = ca.refresh(now()).await.expect_err("bad list");
        assert!(error.to_string().contains("ca-crl.pem"), "{error}");
        assert_eq!(ca.authority().bundle().crls().len(), 1, "the last good list stays");
        assert_eq!(ca.authority().bundle().roots().len(), 2, "the new root counts");
    }
    vault.state.lock().expect("vault").entries.insert("ca-crl.pem".into(), Vec::new());
    assert!(ca.refresh(now()).await.expect("an empty file is no list"));
    assert!(ca.authority().bundle().crls().is_empty());
}
