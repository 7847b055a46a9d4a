//! What stands in the certificates that a CA of ours makes.

use std::time::{Duration, SystemTime};

use mesh_core::id::{SpiffeId, TrustDomain};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};

use crate::random::{hex, random};

/// A workload's certificate: no subject, one critical URI name, both TLS roles. A server of the control plane has other
/// names beside it: addresses, and what is none is a DNS name.
pub(crate) fn workload(
    id: &SpiffeId,
    names: Vec<String>,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.uri())?)];
    for name in names {
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(Ia5String::try_from(name)?),
        });
    }
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    Ok(params)
}

/// A root that signs for `domain`.
pub(crate) fn root(domain: &TrustDomain, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, domain.to_string());
    // Two installations of one trust domain must not have roots of the same name: path building tells them apart.
    params.distinguished_name.push(DnType::CommonName, format!("Mesh root {}", hex(&random::<4>())));
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + ROOT_LIFETIME).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial());
    params
}

/// 126 random bits: positive, never zero, never longer than the 20 bytes RFC 5280 allows.
fn serial() -> SerialNumber {
    let mut bytes = random::<16>();
    bytes[0] = (bytes[0] & 0x3f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Clocks of two nodes may differ by this much without a fresh certificate being refused.
pub(crate) const BACKDATE: Duration = Duration::from_secs(60);
/// A self-made root lasts ten years.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
