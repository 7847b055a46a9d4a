//! Certificates for the suite.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

/// An authority in memory.
pub struct Pki(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, PEM.
pub struct Leaf {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Pki {
    /// One of this name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a root"))
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a name of DNS.
    pub fn leaf(&self, name: &str) -> Leaf {
        self.made(&CertificateParams::new(vec![name.to_owned()]).expect("a name"))
    }

    /// As [`Self::leaf`], with a serial number by which it can be revoked.
    pub fn numbered(&self, name: &str, serial: &[u8]) -> Leaf {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.serial_number = Some(SerialNumber::from_slice(serial));
        self.made(&params)
    }

    /// A list that revokes these serial numbers, PEM.
    pub fn crl(&self, serials: &[&[u8]]) -> String {
        revoked(&self.0, serials)
    }

    fn made(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate").pem();
        Leaf { certificate, key: key.serialize_pem() }
    }
}

/// An authority's list that revokes these serial numbers, PEM.
pub fn revoked(issuer: &Issuer<'_, KeyPair>, serials: &[&[u8]]) -> String {
    let now = SystemTime::now();
    let revoked = |serial: &&[u8]| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: now.into(),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: (now - Duration::from_secs(60)).into(),
        next_update: (now + Duration::from_secs(3600)).into(),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).expect("a list").pem().expect("a list")
}

impl Leaf {
    /// As a Secret.
    pub fn secret(&self, name: &str, ca: Option<&str>) -> String {
        let indented = |text: &str| format!("    {}\n", text.lines().collect::<Vec<_>>().join("\n    "));
        let mut text = format!(
            "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\n\
             metadata: {{ name: {name}, namespace: istio-system }}\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            indented(&self.certificate),
            indented(&self.key)
        );
        if let Some(ca) = ca {
            text.push_str("  ca.crt: |\n");
            text.push_str(&indented(ca));
        }
        text
    }
}
