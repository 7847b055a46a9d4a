//! Certificates for the suite.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// An authority in memory.
pub(crate) struct Pki(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, PEM.
pub(crate) struct Leaf {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pki {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a root"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn leaf(&self, name: &str) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate").pem();
        Leaf { certificate, key: key.serialize_pem() }
    }
}

impl Leaf {
    /// As a Secret.
    pub(crate) fn secret(&self, name: &str, ca: Option<&str>) -> String {
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
