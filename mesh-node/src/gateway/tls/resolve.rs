//! Which of a server's certificates a client gets.

use std::fmt;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureAlgorithm, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tls::strangers::names;

/// The certificates of a server: for several names, and for each kind of key that clients may prefer.
pub(super) struct Choice {
    /// Those with elliptic curves first: they cost us less.
    keys: Vec<Named>,
}

struct Named {
    key: Arc<CertifiedKey>,
    /// The hosts that it is for, in lower case; some begin with `*`.
    hosts: Vec<String>,
}

impl Choice {
    pub(super) fn of(mut keys: Vec<Arc<CertifiedKey>>) -> Self {
        keys.sort_by_key(|key| key.key.algorithm() == SignatureAlgorithm::RSA);
        Self { keys: keys.into_iter().map(Named::of).collect() }
    }

    /// Of those for the name that is asked for, those for just this name before those with a star, the first that fits. One
    /// for another name is as good as none, but the client says so better than we could.
    fn choose(
        &self,
        asked: Option<&str>,
        schemes: &[SignatureScheme],
        ciphers: &[CipherSuite],
    ) -> Option<Arc<CertifiedKey>> {
        let asked = asked.map(str::to_ascii_lowercase);
        let fits = |key: &CertifiedKey| {
            key.key.choose_scheme(schemes).is_some() && can_use(key.key.algorithm(), ciphers)
        };
        // One that does not fit gets an alert that says so.
        let place = |it: &&Named| (it.distance(asked.as_deref()), !fits(&it.key));
        self.keys.iter().min_by_key(place).map(|it| Arc::clone(&it.key))
    }
}

impl Named {
    fn of(key: Arc<CertifiedKey>) -> Self {
        let leaf = key.cert.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
        let host = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        };
        let hosts = leaf.iter().flat_map(|(_, leaf)| names(leaf)).filter_map(host).collect();
        Self { key, hosts }
    }

    /// How far from a name, in lower case: 0 if it is for it, 1 if it is with a star, else 2.
    fn distance(&self, asked: Option<&str>) -> u8 {
        let Some(asked) = asked else { return 2 };
        let behind = asked.split_once('.').map(|(_, behind)| behind);
        let by_star = |host: &String| host.strip_prefix("*.").is_some_and(|rest| Some(rest) == behind);
        match &self.hosts {
            hosts if hosts.iter().any(|host| host == asked) => 0,
            hosts if hosts.iter().any(by_star) => 1,
            _ => 2,
        }
    }
}

/// Whether a client with these ciphers takes a key of this kind: in TLS 1.2 the cipher names it.
fn can_use(key: SignatureAlgorithm, ciphers: &[CipherSuite]) -> bool {
    use CipherSuite as C;
    ciphers.iter().any(|cipher| match cipher {
        C::TLS13_AES_128_GCM_SHA256 | C::TLS13_AES_256_GCM_SHA384 | C::TLS13_CHACHA20_POLY1305_SHA256 => true,
        C::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | C::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | C::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => key != SignatureAlgorithm::RSA,
        C::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        | C::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        | C::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => key == SignatureAlgorithm::RSA,
        _ => false,
    })
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes(), hello.cipher_suites())
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Choice").field("keys", &self.keys.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::pki::{Kind, certified};

    const TLS13: &[CipherSuite] = &[CipherSuite::TLS13_AES_128_GCM_SHA256];
    const RSA12: &[CipherSuite] = &[CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
    const BOTH: &[SignatureScheme] =
        &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256];

    fn algorithm(
        choice: &Choice,
        schemes: &[SignatureScheme],
        ciphers: &[CipherSuite],
    ) -> SignatureAlgorithm {
        choice.choose(None, schemes, ciphers).unwrap().key.algorithm()
    }

    #[test]
    fn clients_get_what_they_can_check() {
        let choice = Choice::of(vec![certified(Kind::Rsa), certified(Kind::Ecdsa)]);
        assert_eq!(algorithm(&choice, BOTH, TLS13), SignatureAlgorithm::ECDSA);
        assert_eq!(algorithm(&choice, &[SignatureScheme::RSA_PSS_SHA256], TLS13), SignatureAlgorithm::RSA);
        assert_eq!(algorithm(&choice, BOTH, RSA12), SignatureAlgorithm::RSA);
        let only = Choice::of(vec![certified(Kind::Rsa)]);
        assert_eq!(algorithm(&only, &[SignatureScheme::ED25519], TLS13), SignatureAlgorithm::RSA);
        assert!(Choice::of(Vec::new()).choose(None, BOTH, TLS13).is_none());
    }
}
