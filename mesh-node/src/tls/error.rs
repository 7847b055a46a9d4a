//! Why a handshake failed, in tokens that stay the same from release to release.

use std::io;

use rustls::{AlertDescription, CertificateError};

use super::verify::PeerError;
use crate::report::Flag;

/// Why a TLS handshake of the tunnel failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// Not finished within the deadline.
    #[error("the handshake took too long")]
    Deadline,
    /// The connection ended or broke inside the handshake.
    #[error("the connection broke inside the handshake ({0})")]
    Lost(io::ErrorKind),
    /// The first bytes are not TLS, or not well-formed TLS.
    #[error("the peer does not speak TLS ({0})")]
    NotTls(rustls::Error),
    /// No protocol in common, or none offered.
    #[error("the peer does not offer the protocol h2")]
    NoAlpn,
    /// The client sent no certificate.
    #[error("the peer presented no certificate")]
    NoClientCertificate,
    /// The peer's certificate was refused.
    #[error("{0}")]
    Peer(PeerError),
    /// The peer refused us; the alert says what it thought of us.
    #[error("the peer refused the handshake ({0:?})")]
    Alert(AlertDescription),
    /// Anything else rustls objects to.
    #[error("{0}")]
    Protocol(rustls::Error),
}

impl TlsError {
    /// Stable token for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Deadline => "tls_handshake_timeout",
            Self::Lost(_) => "tls_connection_lost",
            Self::NotTls(_) => "not_tls",
            Self::NoAlpn => "no_h2_alpn",
            Self::NoClientCertificate => "no_client_certificate",
            Self::Peer(e) => e.reason(),
            Self::Alert(_) => "refused_by_peer",
            Self::Protocol(_) => "tls_protocol_error",
        }
    }

    /// The response flag; every handshake failure is [`Flag::TlsFailure`].
    pub const fn flag(&self) -> Flag {
        Flag::TlsFailure
    }

    pub(super) fn from_io(e: io::Error) -> Self {
        let kind = e.kind();
        let Some(inner) = e.into_inner() else { return Self::Lost(kind) };
        match inner.downcast::<rustls::Error>() {
            Ok(tls) => Self::from_rustls(*tls),
            Err(_) => Self::Lost(kind),
        }
    }

    fn from_rustls(e: rustls::Error) -> Self {
        use rustls::Error as E;
        match e {
            E::NoApplicationProtocol | E::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                Self::NoAlpn
            }
            E::NoCertificatesPresented | E::AlertReceived(AlertDescription::CertificateRequired) => {
                Self::NoClientCertificate
            }
            E::AlertReceived(alert) => Self::Alert(alert),
            E::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<PeerError>() {
                    Some(peer) => Self::Peer(peer.clone()),
                    None => Self::Protocol(E::InvalidCertificate(CertificateError::Other(other))),
                }
            }
            E::InvalidCertificate(CertificateError::Expired) => Self::Peer(PeerError::Expired),
            E::InvalidCertificate(CertificateError::NotValidYet) => Self::Peer(PeerError::NotYetValid),
            E::InvalidCertificate(CertificateError::Revoked) => Self::Peer(PeerError::Revoked),
            E::InvalidCertificate(CertificateError::UnknownIssuer) => Self::Peer(PeerError::Untrusted),
            E::InvalidMessage(_) | E::InappropriateMessage { .. } => Self::NotTls(e),
            other => Self::Protocol(other),
        }
    }
}
