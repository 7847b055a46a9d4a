//! Signatures of tokens.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use mesh_core::authn::{Algorithm, Curve, PublicKey, Verify};

/// Checks signatures with the cryptography of the mesh.
#[derive(Debug, Clone, Copy)]
pub struct Signatures;

impl Verify for Signatures {
    fn verify(&self, key: &PublicKey, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match key {
            PublicKey::Rsa { n, e } => rsa(algorithm).is_some_and(|parameters| {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }),
            PublicKey::Ec(curve, point) => {
                let (own, parameters): (_, &dyn VerificationAlgorithm) = match curve {
                    Curve::P256 => (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED),
                    Curve::P384 => (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED),
                    Curve::P521 => (Algorithm::Es512, &ECDSA_P521_SHA512_FIXED),
                };
                own == algorithm && is_of(parameters, point, message, signature)
            }
            PublicKey::Ed25519(key) => {
                algorithm == Algorithm::EdDsa && is_of(&ED25519, key, message, signature)
            }
        }
    }
}

fn is_of(
    parameters: &'static dyn VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    UnparsedPublicKey::new(parameters, key).verify(message, signature).is_ok()
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &RSA_PSS_2048_8192_SHA512,
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => return None,
    })
}
