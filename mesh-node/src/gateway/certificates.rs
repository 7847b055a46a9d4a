//! What servers' TLS is made from: files, which are looked at again and again, and Secrets.
//!
//! Invariant: no key leaves this module but into a TLS configuration; nothing here is ever shown.

use std::fmt;
use std::sync::Arc;

use mesh_core::resource::networking::gateway::{Certificates, ServerTls, ServerTlsMode};
use mesh_core::resource::{Material, Secret};

use crate::tls::files::Files;

/// What the TLS of a server is made from.
#[derive(Default)]
pub(super) struct Materials {
    pub(super) pairs: Vec<Pair>,
    /// Who clients must be certified by, PEM.
    pub(super) ca: Option<Arc<[u8]>>,
    /// What is revoked, PEM.
    pub(super) crl: Option<Arc<[u8]>>,
}

/// A certificate and its key, PEM.
pub(super) struct Pair {
    /// What messages call it.
    pub(super) named: String,
    pub(super) certificate: Arc<[u8]>,
    pub(super) key: Arc<[u8]>,
    pub(super) ocsp_staple: Option<Vec<u8>>,
}

impl fmt::Debug for Materials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Materials").field("pairs", &self.pairs.len()).finish_non_exhaustive()
    }
}

/// Where materials are from.
pub(super) struct Sources<'a> {
    /// The files of this machine.
    pub(super) files: &'a mut Files,
    /// The Secrets of the gateway's namespace by name.
    pub(super) secret: &'a dyn Fn(&str) -> Option<Arc<Secret>>,
}

impl Sources<'_> {
    /// Everything that `spec` names; says what is missing.
    pub(super) fn gather(&mut self, spec: &ServerTls) -> Result<Materials, String> {
        let mut materials = Materials::default();
        match spec.certificates() {
            Certificates::None => {}
            Certificates::Secret(name) => self.take_secret(name, &mut materials)?,
            Certificates::Secrets(names) => {
                for name in names {
                    self.take_secret(name, &mut materials)?;
                }
            }
            Certificates::Files(certificate, key) => self.take_files(certificate, key, &mut materials)?,
            Certificates::FilePairs(pairs) => {
                for pair in pairs {
                    self.take_files(&pair.server_certificate, &pair.private_key, &mut materials)?;
                }
            }
        }
        if matches!(spec.mode, ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual) {
            self.take_authorities(spec, &mut materials)?;
        }
        Ok(materials)
    }

    fn take_files(&mut self, certificate: &str, key: &str, to: &mut Materials) -> Result<(), String> {
        let named = format!("the certificate {certificate}");
        let (certificate, key) = (self.files.read(certificate)?, self.files.read(key)?);
        to.pairs.push(Pair { named, certificate, key, ocsp_staple: None });
        Ok(())
    }

    fn take_secret(&self, name: &str, to: &mut Materials) -> Result<(), String> {
        let secret = self.secret(name)?;
        let (Some(certificate), Some(key)) = (&secret.certificate, &secret.key) else {
            return Err(format!("the Secret {name} has no certificate with a key"));
        };
        to.pairs.push(Pair {
            named: format!("the Secret {name}"),
            certificate: certificate.expose().into(),
            key: key.expose().into(),
            ocsp_staple: secret.ocsp_staple.as_ref().map(|staple| staple.expose().to_vec()),
        });
        Ok(())
    }

    /// Who clients must be certified by. A Secret for that alone comes before all others, and one that only adds it to
    /// another before that.
    fn take_authorities(&mut self, spec: &ServerTls, to: &mut Materials) -> Result<(), String> {
        let bytes = |material: &Material| Arc::from(material.expose());
        let named = &spec.ca_cert_credential_name;
        if named.starts_with(CONFIG_MAP) {
            return Err(format!("authorities are not read from ConfigMaps here: {named}"));
        }
        let first =
            [spec.credential_name.as_str()].into_iter().chain(spec.credential_names.iter().map(|it| &**it));
        let first = first.into_iter().find(|name| !name.is_empty());
        let secrets = if named.is_empty() {
            first.into_iter().flat_map(|name| [format!("{name}{CA_SUFFIX}"), name.to_owned()]).collect()
        } else {
            vec![named.clone()]
        };
        for secret in secrets.iter().filter_map(|name| (self.secret)(name)) {
            if let Some(ca) = &secret.ca {
                to.ca = Some(bytes(ca));
                to.crl = secret.crl.as_ref().map(bytes);
                return Ok(());
            }
        }
        if let Some(missing) = secrets.last().filter(|_| spec.insecure_skip_verify != Some(true)) {
            return Err(format!("the Secret {missing} has no authorities for clients"));
        }
        let of_pairs = spec.tls_certificates.iter().map(|pair| pair.ca_certificates.as_str());
        let file = [spec.ca_certificates.as_str()].into_iter().chain(of_pairs).find(|file| !file.is_empty());
        if let Some(file) = file {
            to.ca = Some(self.files.read(file)?);
        }
        if !spec.ca_crl.is_empty() {
            to.crl = Some(self.files.read(&spec.ca_crl)?);
        }
        Ok(())
    }

    fn secret(&self, name: &str) -> Result<Arc<Secret>, String> {
        (self.secret)(name).ok_or_else(|| format!("there is no Secret {name} in the gateway's namespace"))
    }
}

/// What names an object that holds no Secret.
const CONFIG_MAP: &str = "configmap://";
/// What the name of a Secret ends with that adds authorities to another.
const CA_SUFFIX: &str = "-cacert";

#[cfg(test)]
mod tests;
