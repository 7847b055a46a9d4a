//! Which of a server's certificates a client gets.

use std::fmt;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureAlgorithm, SignatureScheme};

/// The certificates of a server, at most one for each kind of key that clients may prefer.
pub(super) struct Choice {
    /// Those with elliptic curves first: they cost us less.
    keys: Vec<Arc<CertifiedKey>>,
}

impl Choice {
    pub(super) fn of(mut keys: Vec<Arc<CertifiedKey>>) -> Self {
        keys.sort_by_key(|key| key.key.algorithm() == SignatureAlgorithm::RSA);
        Self { keys }
    }

    fn choose(&self, schemes: &[SignatureScheme], ciphers: &[CipherSuite]) -> Option<Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| {
            key.key.choose_scheme(schemes).is_some() && can_use(key.key.algorithm(), ciphers)
        };
        // One that does not fit gets an alert that says so.
        self.keys.iter().find(fits).or(self.keys.first()).cloned()
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
        self.choose(hello.signature_schemes(), hello.cipher_suites())
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
        choice.choose(schemes, ciphers).unwrap().key.algorithm()
    }

    #[test]
    fn clients_get_what_they_can_check() {
        let choice = Choice::of(vec![certified(Kind::Rsa), certified(Kind::Ecdsa)]);
        assert_eq!(algorithm(&choice, BOTH, TLS13), SignatureAlgorithm::ECDSA);
        assert_eq!(algorithm(&choice, &[SignatureScheme::RSA_PSS_SHA256], TLS13), SignatureAlgorithm::RSA);
        assert_eq!(algorithm(&choice, BOTH, RSA12), SignatureAlgorithm::RSA);
        let only = Choice::of(vec![certified(Kind::Rsa)]);
        assert_eq!(algorithm(&only, &[SignatureScheme::ED25519], TLS13), SignatureAlgorithm::RSA);
        assert!(Choice::of(Vec::new()).choose(BOTH, TLS13).is_none());
    }
}
