//! Versions and ciphers that a Gateway asks for, in the terms of what there is.

use std::sync::Arc;

use mesh_core::resource::networking::gateway::{ServerTls, TlsVersion};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use crate::tls::strangers::provider;

/// What is spoken with clients of one server.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    /// Whether our order of ciphers counts before the client's: a Gateway that lists them gives one.
    pub(super) own_order: bool,
}

impl Settings {
    /// What `spec` asks for. `remark` hears of what cannot be had as it is asked for; without any version in common with
    /// what there is there are no settings.
    pub(super) fn of(spec: &ServerTls, mut remark: impl FnMut(String)) -> Result<Self, String> {
        let (min, max) = (spec.min_protocol_version, spec.max_protocol_version);
        if matches!(max, TlsVersion::V1_0 | TlsVersion::V1_1) {
            return Err("TLS older than 1.2 is not spoken here".to_owned());
        }
        if matches!(min, TlsVersion::V1_0 | TlsVersion::V1_1) {
            remark("TLS older than 1.2 is not spoken here; 1.2 is the oldest version".to_owned());
        }
        let mut ciphers: Vec<SupportedCipherSuite> = Vec::new();
        for name in &spec.cipher_suites {
            match TLS12_SUITES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
                Some((_, suite)) if !ciphers.contains(suite) => ciphers.push(*suite),
                Some(_) => {}
                None => remark(format!("the cipher suite {name:?} is not known here and ignored")),
            }
        }
        let own_order = !ciphers.is_empty();
        // To ask for ciphers of which there is none is not to ask for all of them.
        let speaks12 = min != TlsVersion::V1_3 && (spec.cipher_suites.is_empty() || own_order);
        let mut versions = Vec::new();
        if max != TlsVersion::V1_2 {
            versions.push(&TLS13);
        }
        if speaks12 {
            versions.push(&TLS12);
        }
        if versions.is_empty() {
            return Err("no version of TLS is left to speak".to_owned());
        }
        let provider = if own_order { with_ciphers(&ciphers) } else { provider() };
        Ok(Self { provider, versions, own_order })
    }
}

/// Lists of ciphers are about TLS 1.2; those of 1.3 are always the same, as in Envoy.
fn with_ciphers(ciphers: &[SupportedCipherSuite]) -> Arc<CryptoProvider> {
    let all = &provider().cipher_suites;
    let tls13 = all.iter().filter(|suite| suite.tls13().is_some());
    let cipher_suites = tls13.chain(ciphers).copied().collect();
    Arc::new(CryptoProvider { cipher_suites, ..CryptoProvider::clone(&provider()) })
}

/// By OpenSSL's name.
const TLS12_SUITES: [(&str, SupportedCipherSuite); 6] = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES256-GCM-SHA384", cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(spec: &ServerTls) -> (Result<Settings, String>, Vec<String>) {
        let mut remarks = Vec::new();
        let settings = Settings::of(spec, |remark| remarks.push(remark));
        (settings, remarks)
    }

    #[test]
    fn versions() {
        use TlsVersion::{Auto, V1_0, V1_1, V1_2, V1_3};
        for (min, max, expected) in [
            (Auto, Auto, Some(2)),
            (V1_0, Auto, Some(2)),
            (V1_2, V1_2, Some(1)),
            (V1_3, Auto, Some(1)),
            (V1_3, V1_3, Some(1)),
            (Auto, V1_1, None),
            (V1_3, V1_2, None),
        ] {
            let spec =
                ServerTls { min_protocol_version: min, max_protocol_version: max, ..ServerTls::default() };
            let (settings, remarks) = settings(&spec);
            assert_eq!(settings.ok().map(|it| it.versions.len()), expected, "{min:?} to {max:?}");
            assert_eq!(remarks.len(), usize::from(min == V1_0 && expected.is_some()));
        }
    }

    #[test]
    fn ciphers() {
        let spec = |names: &[&str]| ServerTls {
            cipher_suites: names.iter().map(|name| (*name).to_owned()).collect(),
            ..ServerTls::default()
        };
        let (some, remarks) =
            settings(&spec(&["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384", "AES128-SHA"]));
        let some = some.unwrap();
        let tls12: Vec<_> = some.provider.cipher_suites.iter().filter(|it| it.tls13().is_none()).collect();
        assert_eq!(tls12, [&cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]);
        assert_eq!(some.provider.cipher_suites.len(), 4);
        assert!(some.own_order);
        assert_eq!(remarks, ["the cipher suite \"AES128-SHA\" is not known here and ignored"]);
        let (none, _) = settings(&spec(&["AES128-SHA"]));
        assert_eq!(none.unwrap().versions, [&TLS13], "not all of 1.2");
        let (all, _) = settings(&spec(&[]));
        assert!(!all.unwrap().own_order);
    }
}
