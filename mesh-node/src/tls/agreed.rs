//! What a handshake has come to, in the words that access logs have for it: those of OpenSSL, as in Envoy's.

use rustls::{CipherSuite, CommonState, ProtocolVersion};

/// Version and cipher of a connection, as far as they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Agreed {
    version: Option<ProtocolVersion>,
    cipher: Option<CipherSuite>,
}

impl Agreed {
    /// In this session, once its handshake is over.
    pub fn of(session: &CommonState) -> Self {
        let cipher = session.negotiated_cipher_suite().map(|suite| suite.suite());
        Self { version: session.protocol_version(), cipher }
    }

    /// `TLSv1.3` or `TLSv1.2`.
    pub fn version(self) -> Option<&'static str> {
        match self.version? {
            ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            _ => None,
        }
    }

    /// For example `TLS_AES_256_GCM_SHA384` or `ECDHE-RSA-AES128-GCM-SHA256`.
    pub fn cipher(self) -> Option<&'static str> {
        let cipher = self.cipher?;
        CIPHERS.iter().find(|(known, _)| *known == cipher).map(|(_, name)| *name)
    }
}

/// All that are spoken here.
const CIPHERS: [(CipherSuite, &str); 9] = [
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_spoken_has_a_name() {
        for suite in &super::super::strangers::provider().cipher_suites {
            let agreed = Agreed { cipher: Some(suite.suite()), version: Some(suite.version().version) };
            assert!(agreed.cipher().is_some() && agreed.version().is_some(), "{suite:?}");
        }
        assert_eq!(Agreed::default().version().or(Agreed::default().cipher()), None);
    }
}
