//! Istio's Gateway, and the TLS of servers.

use std::collections::{BTreeSet, HashSet};

use super::super::super::networking::gateway::{GatewaySpec, Server, ServerTls, ServerTlsMode, TlsVersion};
use super::super::super::tree::{Path, quote};
use super::super::super::value::Bind;
use super::{Report, labels_at};

pub(in crate::resource::validate) fn gateway(spec: &GatewaySpec, report: &mut Report<'_>) {
    labels_at(Path::Root("spec.selector"), &spec.selector, report);
    if spec.selector.is_empty() {
        let hint = "name the labels of the gateway's pods";
        report.warning_with("spec.selector", "absent, which selects every workload of the mesh", hint);
    }
    let servers = Path::Root("spec.servers");
    if spec.servers.is_empty() {
        report.error(servers, "required, but missing or empty");
    }
    let mut names = HashSet::new();
    for (index, server) in spec.servers.iter().enumerate() {
        self::server(servers.at(index), server, report);
        let name = server.port.name.as_str();
        if !name.is_empty() && !names.insert(name) {
            let reason = format!("{} is used twice in this Gateway", quote(name));
            report.error(servers.at(index).key("port").key("name"), reason);
        }
    }
}

fn server(path: Path<'_>, server: &Server, report: &mut Report<'_>) {
    port(path, server, report);
    if server.hosts.is_empty() {
        report.error_with(path.key("hosts"), "must not be empty", "write [\"*\"] for all hosts");
    }
    if server.hosts.iter().any(|host| host.host.is_sni_name()) {
        report.error(path.key("hosts"), "names for traffic between gateways cannot be served");
    }
    if !server.default_endpoint.is_empty() {
        report.warning(path.key("defaultEndpoint"), "has no effect; Istio never implemented it");
    }
    let protocol = server.port.protocol;
    let field = path.key("tls");
    match &server.tls {
        None if protocol.is_tls() => {
            report.error_with(
                field,
                "required for HTTPS and TLS, but missing",
                "give it mode and credentialName",
            );
        }
        None => {}
        Some(tls) => {
            if !protocol.is_tls() && !protocol.is_http() {
                report.error_with(field, "is only for HTTPS and TLS", "set port.protocol to HTTPS or TLS");
            } else if protocol.is_http() && (tls.is_terminating() || has_files(tls)) {
                let reason = "plain HTTP takes nothing but httpsRedirect here";
                report.error_with(field, reason, "set port.protocol to HTTPS if TLS is meant");
            }
            if tls.https_redirect && !protocol.is_http() {
                report.warning(field.key("httpsRedirect"), "has only an effect for plain HTTP");
            }
            server_tls(field, tls, report);
        }
    }
}

fn port(path: Path<'_>, server: &Server, report: &mut Report<'_>) {
    let port = path.key("port");
    let number = server.port.number;
    match &server.bind {
        Some(Bind::Unix(_)) if number != 0 => {
            report.error(port.key("number"), "must be 0 for a Unix domain socket");
        }
        Some(Bind::Unix(_)) => {}
        _ => report.port(port.key("number"), i32::from(number)),
    }
    if server.port.target_port != 0 {
        report.error(port.key("targetPort"), "has no meaning for a Gateway");
    }
    if server.port.name.is_empty() {
        report.error(port.key("name"), "required, but missing");
    }
}

fn has_files(tls: &ServerTls) -> bool {
    [&tls.server_certificate, &tls.private_key, &tls.ca_certificates].into_iter().any(|file| !file.is_empty())
}

/// TLS of any server: of a Gateway, or of a Sidecar's ingress.
pub(super) fn server_tls(path: Path<'_>, tls: &ServerTls, report: &mut Report<'_>) {
    ciphers(path, tls, report);
    let certificates = [
        ("serverCertificate", !tls.server_certificate.is_empty()),
        ("privateKey", !tls.private_key.is_empty()),
        ("caCertificates", !tls.ca_certificates.is_empty()),
        ("tlsCertificates", !tls.tls_certificates.is_empty()),
        ("credentialName", !tls.credential_name.is_empty()),
        ("credentialNames", !tls.credential_names.is_empty()),
        ("caCrl", !tls.ca_crl.is_empty()),
    ];
    let given = certificates.into_iter().filter(|(_, given)| *given).map(|(name, _)| name);
    if tls.mode == ServerTlsMode::IstioMutual {
        for name in given.filter(|name| *name != "caCrl") {
            report.error(
                path.key(name),
                "cannot be given for ISTIO_MUTUAL, which uses the mesh's certificates",
            );
        }
        return;
    }
    if !tls.is_terminating() && !tls.https_redirect {
        for name in given {
            report.warning(path.key(name), "has no effect: TLS is passed on unopened");
        }
    }
    certificate_source(path, tls, report);
    if tls.max_protocol_version != TlsVersion::Auto && tls.max_protocol_version < tls.min_protocol_version {
        report.error(path.key("maxProtocolVersion"), "is older than minProtocolVersion");
    }
    if !tls.ca_crl.is_empty() {
        if !tls.credential_name.is_empty() {
            report.error(path.key("caCrl"), "cannot be combined with credentialName: put it into the Secret");
        }
        if tls.mode == ServerTlsMode::Simple {
            report.error(path.key("caCrl"), "has no meaning for SIMPLE, which asks clients for nothing");
        }
    }
}

/// Exactly one source of certificates for modes that need one, at most one for all.
fn certificate_source(path: Path<'_>, tls: &ServerTls, report: &mut Report<'_>) {
    let sources = [
        ("credentialName", !tls.credential_name.is_empty()),
        ("credentialNames", !tls.credential_names.is_empty()),
        ("serverCertificate", !tls.server_certificate.is_empty() && !tls.private_key.is_empty()),
        ("tlsCertificates", !tls.tls_certificates.is_empty()),
    ];
    let sources: Vec<_> = sources.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
    if let [_, second, ..] = sources.as_slice() {
        report.error(path.key(second), format!("only one of {} may be given", sources.join(" and ")));
    }
    for (name, count) in
        [("credentialNames", tls.credential_names.len()), ("tlsCertificates", tls.tls_certificates.len())]
    {
        if count > 2 {
            report.error(path.key(name), format!("has {count} entries, the limit is 2"));
        }
    }
    if !tls.is_terminating() || !tls.credential_name.is_empty() || !tls.credential_names.is_empty() {
        return;
    }
    let mutual = tls.mode != ServerTlsMode::Simple;
    if mutual && tls.ca_certificates.is_empty() {
        let reason = "required to check the certificates of clients, but missing";
        report.error_with(path.key("caCertificates"), reason, "or give it credentialName");
    }
    if tls.tls_certificates.is_empty() {
        for (name, file) in [("serverCertificate", &tls.server_certificate), ("privateKey", &tls.private_key)]
        {
            if file.is_empty() {
                let reason = "required in this mode, but missing";
                report.error_with(path.key(name), reason, "or give it credentialName");
            }
        }
    }
    for (index, pair) in tls.tls_certificates.iter().enumerate() {
        let list = path.key("tlsCertificates");
        let path = list.at(index);
        for (name, file) in
            [("serverCertificate", &pair.server_certificate), ("privateKey", &pair.private_key)]
        {
            if file.is_empty() {
                report.error(path.key(name), "required, but missing");
            }
        }
    }
}

fn ciphers(path: Path<'_>, tls: &ServerTls, report: &mut Report<'_>) {
    let old = matches!(tls.min_protocol_version, TlsVersion::V1_0 | TlsVersion::V1_1);
    if old && tls.cipher_suites.is_empty() {
        let reason = "below TLSV1_2 needs cipherSuites of its time, of which none is on by default";
        report.warning(path.key("minProtocolVersion"), reason);
    }
    let field = path.key("cipherSuites");
    let mut seen = BTreeSet::new();
    for (index, suite) in tls.cipher_suites.iter().enumerate() {
        let expression = !suite.starts_with(|c: char| c.is_alphanumeric()) || suite == "ALL";
        if !expression && !CIPHERS.contains(&suite.as_str()) {
            report.warning(field.at(index), format!("{} is unknown and ignored", quote(suite)));
        } else if !seen.insert(suite.as_str()) {
            report.warning(field.at(index), format!("{} is given twice", quote(suite)));
        }
    }
}

/// Cipher suites by their names in OpenSSL, as Istio knows them.
const CIPHERS: &[&str] = &[
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];
