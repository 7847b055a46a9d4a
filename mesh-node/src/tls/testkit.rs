//! For the tests of this crate's tunnel: a CA, certificates good and bad, socket pairs, a runtime like production's.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::id::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};

use crate::identity::{CaError, IssuedChain, Sign, Svid};
use crate::tls::Trust;

/// A CA in memory.
pub(crate) struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// What its certificates need on top: itself, if it is an intermediate.
    chain: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("key");
        let issuer = CertifiedIssuer::self_signed(ca_params(name), key).expect("root");
        let root = issuer.der().clone();
        Self { issuer, chain: Vec::new(), root }
    }

    /// An intermediate under `self`.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("key");
        let issuer = CertifiedIssuer::signed_by(ca_params(name), key, &self.issuer).expect("intermediate");
        let chain = std::iter::once(issuer.der().clone()).chain(self.chain.iter().cloned()).collect();
        Self { issuer, chain, root: self.root.clone() }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    pub(crate) fn trust(&self) -> Arc<Trust> {
        Arc::new(Trust::new(std::slice::from_ref(&self.root), vec![domain()]).expect("trust"))
    }

    /// A normal certificate.
    pub(crate) fn svid(&self, account: &str) -> Arc<Svid> {
        Arc::new(Svid::issue(self, &id(account), HOUR, &self.trust()).expect("svid"))
    }

    /// A certificate with whatever `params` says, for a key of `alg`.
    pub(crate) fn odd(&self, params: &CertificateParams, alg: &'static rcgen::SignatureAlgorithm) -> Svid {
        let key = KeyPair::generate_for(alg).expect("key");
        let leaf = params.signed_by(&key, &self.issuer).expect("leaf").der().clone();
        let chain = std::iter::once(leaf).chain(self.chain.iter().cloned()).collect();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Svid::assemble(id("odd"), chain, key, self.trust()).expect("svid")
    }
}

impl Sign for TestCa {
    fn sign(
        &self,
        id: &SpiffeId,
        csr: &CertificateSigningRequestDer<'_>,
        lifetime: Duration,
    ) -> Result<IssuedChain, CaError> {
        let mut request = CertificateSigningRequestParams::from_der(csr)?;
        request.params = leaf_params(&[uri(id.uri())]);
        request.params.not_after = (SystemTime::now() + lifetime).into();
        let leaf = request.signed_by(&self.issuer)?.der().clone();
        Ok(IssuedChain { certificates: std::iter::once(leaf).chain(self.chain.iter().cloned()).collect() })
    }

    fn roots(&self) -> Arc<[CertificateDer<'static>]> {
        Arc::new([self.root.clone()])
    }
}

/// What a well-made leaf has, with `names`.
pub(crate) fn leaf_params(names: &[SanType]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names.to_vec();
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + HOUR).into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").expect("trust domain")
}

pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::new(&domain(), "default", account).expect("identity")
}

/// Two ends of one TCP connection over loopback.
pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (near, far) = (near.expect("connect"), far.expect("accept").0);
    near.set_nodelay(true).expect("nodelay");
    far.set_nodelay(true).expect("nodelay");
    (near, far)
}

/// Runs a test as a data thread would, and fails it if it hangs.
pub(crate) fn on_data_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let limited =
        async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs") };
    tokio::task::LocalSet::new().block_on(&runtime, limited);
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
