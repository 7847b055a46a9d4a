//! The rustls configurations, built once per certificate and shared by all its handshakes.

use std::sync::{Arc, OnceLock};

use mesh_core::id::SpiffeId;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Protocols;
use super::verify::{PeerVerifier, Trust};

/// Our cryptography: TLS 1.3 suites, hybrid key exchange first.
///
/// Signatures accepted in peers' chains and handshakes are those aws-lc-rs verifies: ECDSA on P-256, P-384 and
/// P-521, Ed25519, and RSA from 2,048 bits. Our own keys are P-256.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let build = || {
        Arc::new(CryptoProvider {
            kx_groups: vec![
                aws_lc_rs::kx_group::X25519MLKEM768,
                aws_lc_rs::kx_group::X25519,
                aws_lc_rs::kx_group::SECP256R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    };
    PROVIDER.get_or_init(build).clone()
}

/// Random bytes from the same source as the keys.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    provider()
        .secure_random
        .fill(&mut bytes)
        .expect("the system's random source does not fail once it is up");
    bytes
}

/// The server's configuration: clients must present a certificate that `trust` accepts.
pub(crate) fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    trust: Arc<Trust>,
    protocols: Protocols,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(PeerVerifier::any(trust)))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = protocols.names();
    // A resumed session would outlive the check of the certificate it began with.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

/// The client's configuration, still without the identity that a connection expects; see [`expecting`].
pub(crate) fn client(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    trust: Arc<Trust>,
    protocols: Protocols,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerVerifier::any(trust)))
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = protocols.names();
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// `base` for one connection whose server must be `id`. A few reference counts, no parsing.
pub(crate) fn expecting(base: &ClientConfig, trust: Arc<Trust>, id: &SpiffeId) -> Arc<ClientConfig> {
    let mut config = base.clone();
    config.dangerous().set_certificate_verifier(Arc::new(PeerVerifier::exactly(trust, id.clone())));
    Arc::new(config)
}

/// HBONE's name in the handshake.
pub(crate) const ALPN_H2: &[u8] = b"h2";
