//! For the tests of this crate's tunnel: a CA, certificates good and bad, socket pairs, a runtime like production's.

use std::future::ready;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use mesh_ca::bundle::Bundle;
use mesh_ca::crl::Crls;
use mesh_core::id::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};

use crate::identity::{IssueError, IssuedChain, Sign, SignError, Signing, Svid};
use crate::tls::{Protocols, Trust};

/// A CA in memory.
pub(crate) struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// What its certificates need on top: itself, if it is an intermediate.
    chain: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    /// What is spoken under its certificates.
    protocols: Protocols,
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("key");
        let issuer = CertifiedIssuer::self_signed(ca_params(name), key).expect("root");
        let root = issuer.der().clone();
        Self { issuer, chain: Vec::new(), root, protocols: Protocols::default() }
    }

    /// A CA whose certificates speak `protocols` alone.
    pub(crate) fn speaking(protocols: Protocols) -> Self {
        Self { protocols, ..Self::new("root") }
    }

    /// An intermediate under `self`.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("key");
        let issuer = CertifiedIssuer::signed_by(ca_params(name), key, &self.issuer).expect("intermediate");
        let chain = std::iter::once(issuer.der().clone()).chain(self.chain.iter().cloned()).collect();
        Self { issuer, chain, root: self.root.clone(), protocols: self.protocols }
    }

    /// A list of these revoked serial numbers, in hex as [`Svid::serial`] has them.
    pub(crate) fn crl(&self, serials: &[&str]) -> String {
        let byte = |text: &str| u8::from_str_radix(text, 16).expect("hex");
        let revoked = |serial: &&str| RevokedCertParams {
            serial_number: (0..serial.len())
                .step_by(2)
                .map(|i| byte(&serial[i..i + 2]))
                .collect::<Vec<_>>()
                .into(),
            revocation_time: SystemTime::now().into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: (SystemTime::now() - HOUR).into(),
            next_update: (SystemTime::now() + HOUR).into(),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("list").pem().expect("PEM")
    }

    /// Of this CA's own certificate, in hex.
    pub(crate) fn serial(&self) -> String {
        let (_, own) = x509_parser::parse_x509_certificate(self.issuer.der()).expect("a certificate");
        own.raw_serial_as_string().replace(':', "")
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    pub(crate) fn trust(&self) -> Arc<Trust> {
        Arc::new(Trust::new(self.bundle(), vec![domain()]))
    }

    /// A normal certificate.
    pub(crate) fn svid(&self, account: &str) -> Arc<Svid> {
        Arc::new(self.issue(account, HOUR))
    }

    /// One that lives so long.
    pub(crate) fn issue(&self, account: &str, lifetime: Duration) -> Svid {
        issue_for(self, &id(account), lifetime, (&self.trust(), self.protocols)).expect("svid")
    }

    /// A certificate with whatever `params` says, for a key of `alg`.
    pub(crate) fn odd(&self, params: &CertificateParams, alg: &'static rcgen::SignatureAlgorithm) -> Svid {
        let key = KeyPair::generate_for(alg).expect("key");
        let leaf = params.signed_by(&key, &self.issuer).expect("leaf").der().clone();
        let chain = std::iter::once(leaf).chain(self.chain.iter().cloned()).collect();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Svid::assemble(id("odd"), chain, key, self.trust(), self.protocols).expect("svid")
    }
}

impl Sign for TestCa {
    fn sign<'a>(
        &'a self,
        id: &'a SpiffeId,
        csr: CertificateSigningRequestDer<'static>,
        lifetime: Duration,
    ) -> Signing<'a, IssuedChain> {
        let sign = || {
            let mut request = CertificateSigningRequestParams::from_der(&csr)?;
            request.params = leaf_params(&[uri(id.uri())]);
            request.params.not_after = (SystemTime::now() + lifetime).into();
            let leaf = request.signed_by(&self.issuer)?.der().clone();
            Ok(IssuedChain {
                certificates: std::iter::once(leaf).chain(self.chain.iter().cloned()).collect(),
            })
        };
        let failed = |e: rcgen::Error| SignError::Ca(e.into());
        Box::pin(ready(sign().map_err(failed)))
    }

    fn bundle(&self) -> Arc<Bundle> {
        bundle(&[self])
    }

    fn refresh(&self) -> Signing<'_, ()> {
        Box::pin(ready(Ok(())))
    }
}

/// The roots of all `cas`.
pub(crate) fn bundle(cas: &[&TestCa]) -> Arc<Bundle> {
    let roots = cas.iter().map(|ca| ca.root.clone());
    Arc::new(Bundle::new(roots, Crls::default()).expect("roots"))
}

/// [`Svid::issue`] of a CA whose answers are ready at once.
pub(crate) fn issue(
    ca: &dyn Sign,
    id: &SpiffeId,
    lifetime: Duration,
    trust: &Arc<Trust>,
) -> Result<Svid, IssueError> {
    issue_for(ca, id, lifetime, (trust, Protocols::default()))
}

fn issue_for(
    ca: &dyn Sign,
    id: &SpiffeId,
    lifetime: Duration,
    (trust, protocols): (&Arc<Trust>, Protocols),
) -> Result<Svid, IssueError> {
    let issue = pin!(Svid::issue(ca, id, lifetime, trust, protocols));
    match issue.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("this CA makes others wait"),
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
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
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
