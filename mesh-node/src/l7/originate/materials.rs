//! What TLS towards a service is made from: files, Secrets, and the authorities of the system.
//!
//! Invariant: no key leaves this module but into a TLS configuration; nothing here is ever shown.

use std::sync::{Arc, OnceLock};

use mesh_ca::Bundle;
use mesh_ca::crl::Crls;
use mesh_core::cluster::{ClientCertificate, Credential, TlsOrigination, Trust};
use mesh_core::resource::{Material, Secret};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::tls::files::Files;

/// See the module.
pub(super) struct Materials {
    /// What is shown to servers.
    pub(super) pair: Option<Pair>,
    /// Whom to trust; `None` trusts anybody.
    pub(super) authorities: Option<Authorities>,
}

/// A certificate and its key, PEM.
pub(super) struct Pair {
    /// What messages call it.
    pub(super) named: String,
    pub(super) certificate: Arc<[u8]>,
    pub(super) key: Arc<[u8]>,
}

/// Who servers must be certified by.
pub(super) struct Authorities {
    /// PEM; absent means those of the system.
    ca: Option<Arc<[u8]>>,
    /// What is revoked, PEM.
    crls: Vec<Arc<[u8]>>,
}

/// Where materials are from.
pub(super) struct Sources<'a> {
    /// The files of this machine.
    pub(super) files: &'a mut Files,
    /// Secrets by name.
    pub(super) secret: &'a dyn Fn(&str) -> Option<Arc<Secret>>,
    /// Those that were asked for, and what there was.
    pub(super) secrets: Vec<(String, Option<Arc<Secret>>)>,
}

impl Sources<'_> {
    /// Everything that `rule` names; says what is missing.
    pub(super) fn gather(&mut self, rule: &TlsOrigination) -> Result<Materials, String> {
        let pair = rule.certificate.as_ref().map(|from| self.pair(from)).transpose()?;
        let mut authorities = match &rule.trust {
            Trust::Anybody => return Ok(Materials { pair, authorities: None }),
            Trust::Nobody => return Err("the BackendTLSPolicy names no authority that is there".to_owned()),
            Trust::Authorities(text) => Authorities { ca: Some(text.as_bytes().into()), crls: Vec::new() },
            Trust::System => Authorities { ca: None, crls: Vec::new() },
            Trust::File(path) => Authorities { ca: Some(self.files.read(path)?), crls: Vec::new() },
            Trust::Credential(credential) => self.authorities(credential)?,
        };
        if let Some(path) = &rule.crl {
            authorities.crls.push(self.files.read(path)?);
        }
        Ok(Materials { pair, authorities: Some(authorities) })
    }

    fn pair(&mut self, from: &ClientCertificate) -> Result<Pair, String> {
        match from {
            ClientCertificate::Files { certificate, key } => Ok(Pair {
                named: format!("the certificate {certificate}"),
                certificate: self.files.read(certificate)?,
                key: self.files.read(key)?,
            }),
            ClientCertificate::Credential(credential) => {
                let name = secret_name(credential)?;
                let secret = self.secret(name).ok_or_else(|| format!("there is no Secret {name}"))?;
                let (Some(certificate), Some(key)) = (&secret.certificate, &secret.key) else {
                    return Err(format!("the Secret {name} has no certificate with a key"));
                };
                let named = format!("the Secret {name}");
                Ok(Pair { named, certificate: certificate.expose().into(), key: key.expose().into() })
            }
        }
    }

    /// As for a Gateway's clients: a Secret that only adds authorities to another comes first.
    fn authorities(&mut self, credential: &Credential) -> Result<Authorities, String> {
        let bytes = |material: &Material| Arc::from(material.expose());
        let name = secret_name(credential)?;
        for name in [&format!("{name}{CA_SUFFIX}"), name] {
            if let Some(secret) = self.secret(name)
                && let Some(ca) = &secret.ca
            {
                return Ok(Authorities { ca: Some(bytes(ca)), crls: secret.crl.iter().map(bytes).collect() });
            }
        }
        let known = self.secrets.iter().any(|(known, secret)| known == name && secret.is_some());
        Err(if known {
            format!("the Secret {name} has no authorities for servers")
        } else {
            format!("there is no Secret {name}")
        })
    }

    fn secret(&mut self, name: &str) -> Option<Arc<Secret>> {
        let found = (self.secret)(name);
        self.secrets.push((name.to_owned(), found.clone()));
        found
    }
}

impl Authorities {
    /// As certificate checks take them.
    pub(super) fn bundle(&self) -> Result<Arc<Bundle>, String> {
        let crls = self.crls.join(&b'\n');
        let Some(ca) = &self.ca else {
            let system = system()?;
            if self.crls.is_empty() {
                return Ok(system);
            }
            let crls = Crls::parse(&crls, system.roots()).map_err(|error| error.to_string())?;
            let bundle = Bundle::new(system.roots().iter().cloned(), crls);
            return bundle.map(Arc::new).map_err(|error| error.to_string());
        };
        let bundle = Bundle::parse(ca, &crls);
        bundle.map(Arc::new).map_err(|error| format!("the authorities for servers: {error}"))
    }
}

fn secret_name(credential: &Credential) -> Result<&str, String> {
    match credential {
        Credential::Secret(name) => Ok(name),
        Credential::ConfigMap { namespace, name } => {
            Err(format!("authorities are not read from ConfigMaps here: {namespace}/{name}"))
        }
    }
}

/// The authorities of the system, read once. Those that cannot be used are left out: nobody here put them there.
fn system() -> Result<Arc<Bundle>, String> {
    static SYSTEM: OnceLock<Arc<Bundle>> = OnceLock::new();
    if let Some(known) = SYSTEM.get() {
        return Ok(Arc::clone(known));
    }
    let named = std::env::var(SSL_CERT_FILE).ok().filter(|path| !path.is_empty());
    let paths = named.as_deref().map_or_else(|| SYSTEM_FILES.to_vec(), |path| vec![path]);
    let found = paths.iter().find_map(|path| std::fs::read(path).ok());
    let text =
        found.ok_or_else(|| format!("the system has no authorities: there is no {}", paths.join(", ")))?;
    let roots = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
    let roots = roots.filter(|root| webpki::anchor_from_trusted_cert(root).is_ok());
    let bundle = Bundle::new(roots, Crls::default());
    let bundle = bundle.map_err(|error| format!("the authorities of the system: {error}"))?;
    Ok(Arc::clone(SYSTEM.get_or_init(|| Arc::new(bundle))))
}

/// What the name of a Secret ends with that adds authorities to another.
const CA_SUFFIX: &str = "-cacert";
/// Names the file of the system's authorities, as OpenSSL has it.
const SSL_CERT_FILE: &str = "SSL_CERT_FILE";
/// Where distributions have the authorities of the system, those of images first.
const SYSTEM_FILES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
