//! For the tests of this crate: CAs in memory, requests, a vault that can be made to fail.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use mesh_core::id::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::UnixTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::Signed;
use crate::bundle::Bundle;
use crate::chain;
use crate::csr::Csr;
use crate::material::CURRENT;
use crate::vault::{Change, Contents, Pending, Vault, VaultError};

/// Somebody else's CA.
pub(crate) struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        Self::of_key(name, KeyPair::generate().expect("key"))
    }

    pub(crate) fn of_key(name: &str, key: KeyPair) -> Self {
        Self::made(ca_params(name), key)
    }

    pub(crate) fn made(params: CertificateParams, key: KeyPair) -> Self {
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("root") }
    }

    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("key");
        Self { issuer: CertifiedIssuer::signed_by(ca_params(name), key, &self.issuer).expect("intermediate") }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The four files of a CA that signs with this under `root`.
    pub(crate) fn files(&self, root: &Self, chain: &str) -> BTreeMap<String, Vec<u8>> {
        let texts = [root.pem(), self.pem(), chain.to_owned(), self.key_pem()];
        CURRENT.names().map(str::to_owned).into_iter().zip(texts.map(String::into_bytes)).collect()
    }

    /// The four files of this root.
    pub(crate) fn root_files(&self) -> BTreeMap<String, Vec<u8>> {
        self.files(self, &self.pem())
    }

    pub(crate) fn crl(&self, serials: &[&[u8]]) -> String {
        let revoked = |serial: &&[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: now().into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now().into(),
            next_update: (now() + HOUR).into(),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("list").pem().expect("PEM")
    }
}

pub(crate) fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A vault in memory that stops in the middle of a change when told to.
#[derive(Default)]
pub(crate) struct MemoryVault {
    pub(crate) state: Mutex<MemoryState>,
}

#[derive(Default)]
pub(crate) struct MemoryState {
    pub(crate) entries: BTreeMap<String, Vec<u8>>,
    /// After how many steps of a change the power fails.
    pub(crate) dies_after: Option<usize>,
    /// How many of the next writes meet somebody else's.
    pub(crate) conflicts: usize,
}

impl MemoryVault {
    pub(crate) fn with(entries: BTreeMap<String, Vec<u8>>) -> Self {
        Self { state: Mutex::new(MemoryState { entries, ..MemoryState::default() }) }
    }

    pub(crate) fn contents(&self) -> Contents {
        contents(self.state.lock().expect("vault").entries.clone())
    }
}

pub(crate) fn contents(entries: BTreeMap<String, Vec<u8>>) -> Contents {
    Contents::new("memory/".to_owned(), String::new(), entries)
}

impl Vault for MemoryVault {
    fn read(&self) -> Pending<'_, Contents> {
        Box::pin(ready(Ok(self.contents())))
    }

    fn write<'a>(&'a self, base: &'a Contents, changes: &'a [Change]) -> Pending<'a, ()> {
        let mut state = self.state.lock().expect("vault");
        if state.conflicts > 0 || state.entries != *base.entries() {
            state.conflicts = state.conflicts.saturating_sub(1);
            return Box::pin(ready(Err(VaultError::Conflict { place: "memory/".into() })));
        }
        let steps = state.dies_after.unwrap_or(changes.len()).min(changes.len());
        state.entries = base.with(&changes[..steps]).entries().clone();
        let outcome = match state.dies_after {
            Some(_) => Err(VaultError::Elsewhere { place: "memory/".into(), reason: "power failure".into() }),
            None => Ok(()),
        };
        Box::pin(ready(outcome))
    }
}

/// A request that names somebody else and asks for powers, as requests may.
pub(crate) fn csr() -> Csr {
    Csr::parse(&csr_der()).expect("a request")
}

pub(crate) fn csr_der() -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("key");
    params.serialize_request(&key).expect("request").der().to_vec()
}

/// Whether peers with `bundle` accept the chain at `now`; revocations do not count here.
pub(crate) fn is_accepted(signed: &Signed, bundle: &Bundle, now: SystemTime) -> bool {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    chain::check(&signed.certificates, bundle.anchors(), UnixTime::since_unix_epoch(since)).is_ok()
}

pub(crate) fn with_leaf<T>(signed: &Signed, f: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    let (rest, leaf) = X509Certificate::from_der(&signed.certificates[0]).expect("a certificate");
    assert!(rest.is_empty());
    f(&leaf)
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::default()
}

pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::new(&domain(), "default", account).expect("identity")
}

/// Some moment.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);
