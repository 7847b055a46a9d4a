//! DestinationRule.

use std::collections::HashSet;

use super::super::super::networking::destination_rule::{
    ClientTls, ClientTlsMode, DestinationRuleSpec, OutlierDetection, PortTrafficPolicy, RetryBudget, Subset,
    TrafficPolicy, Tunnel,
};
use super::super::super::tree::{Path, quote};
use super::super::super::value::{ExportTo, Host};
use super::super::security;
use super::load_balancer::load_balancer;
use super::{Meta, Report, connection_pool, domain, export_to, labels_at};

pub(in crate::resource::validate) fn destination_rule(
    spec: &DestinationRuleSpec,
    meta: &Meta,
    report: &mut Report<'_>,
) {
    let root = Path::Root("spec");
    domain(root.key("host"), &spec.host, report);
    if let Some(policy) = &spec.traffic_policy {
        traffic_policy(root.key("trafficPolicy"), policy, meta, report);
    }
    let subsets = root.key("subsets");
    let mut names = HashSet::new();
    for (index, subset) in spec.subsets.iter().enumerate() {
        self::subset(subsets.at(index), subset, meta, report);
        if !subset.name.is_empty() && !names.insert(subset.name.as_str()) {
            report.error(subsets.at(index).key("name"), format!("{} is used twice", quote(&subset.name)));
        }
    }
    export_to(&spec.export_to, meta, report);
    if let Some(selector) = &spec.workload_selector {
        let labels = &selector.match_labels;
        if labels.is_empty() {
            let hint = "remove the selector if all workloads are meant";
            let reason = "a selector without labels selects every workload";
            report.warning_with("spec.workloadSelector", reason, hint);
        }
        security::match_labels("spec.workloadSelector.matchLabels", labels, report);
        let own = |entry: &ExportTo| match entry {
            ExportTo::Own => true,
            ExportTo::Namespace(name) => **name == *meta.namespace,
            ExportTo::All | ExportTo::Nobody => false,
        };
        if !spec.export_to.iter().all(own) {
            let reason = "a rule with a workloadSelector is only seen in its own namespace";
            report.error_with("spec.exportTo", reason, "write [.] or remove it");
        }
    }
}

fn subset(path: Path<'_>, subset: &Subset, meta: &Meta, report: &mut Report<'_>) {
    if subset.name.is_empty() {
        report.error(path.key("name"), "required, but missing");
    } else {
        report.dns_label(path.key("name"), &subset.name);
    }
    labels_at(path.key("labels"), &subset.labels, report);
    if let Some(policy) = &subset.traffic_policy {
        traffic_policy(path.key("trafficPolicy"), policy, meta, report);
    }
}

fn traffic_policy(path: Path<'_>, policy: &TrafficPolicy, meta: &Meta, report: &mut Report<'_>) {
    if policy.is_empty() {
        return report.error_with(path, "must not be empty", "give it a field or remove it");
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        report.error(path.key("proxyProtocol"), "only one of tunnel and proxyProtocol may be given");
    }
    let outliers = policy.outlier_detection.is_some();
    if let Some(balancer) = &policy.load_balancer {
        load_balancer(path.key("loadBalancer"), balancer, outliers, report);
    }
    if let Some(pool) = &policy.connection_pool {
        connection_pool(path.key("connectionPool"), pool, report);
    }
    if let Some(outliers) = &policy.outlier_detection {
        outlier_detection(path.key("outlierDetection"), outliers, report);
    }
    if let Some(tls) = &policy.tls {
        client_tls(path.key("tls"), tls, meta, report);
    }
    let ports = path.key("portLevelSettings");
    if policy.port_level_settings.len() > MAX_PORTS {
        let reason = format!("has {} entries, the limit is {MAX_PORTS}", policy.port_level_settings.len());
        report.error(ports, reason);
    }
    for (index, port) in policy.port_level_settings.iter().enumerate() {
        port_policy(ports.at(index), port, meta, report);
    }
    if let Some(tunnel) = &policy.tunnel {
        self::tunnel(path.key("tunnel"), tunnel, report);
    }
    if let Some(budget) = &policy.retry_budget {
        retry_budget(path.key("retryBudget"), budget, report);
    }
}

fn port_policy(path: Path<'_>, policy: &PortTrafficPolicy, meta: &Meta, report: &mut Report<'_>) {
    if policy.port.is_none() {
        report.error(path.key("port"), "required, but missing");
    }
    if policy.is_empty() {
        let reason = "one of loadBalancer, connectionPool, outlierDetection and tls is required";
        report.error(path, reason);
    }
    if let Some(balancer) = &policy.load_balancer {
        load_balancer(path.key("loadBalancer"), balancer, policy.outlier_detection.is_some(), report);
    }
    if let Some(pool) = &policy.connection_pool {
        connection_pool(path.key("connectionPool"), pool, report);
    }
    if let Some(outliers) = &policy.outlier_detection {
        outlier_detection(path.key("outlierDetection"), outliers, report);
    }
    if let Some(tls) = &policy.tls {
        client_tls(path.key("tls"), tls, meta, report);
    }
}

fn outlier_detection(path: Path<'_>, outliers: &OutlierDetection, report: &mut Report<'_>) {
    if outliers.consecutive_errors != 0 {
        let hint = "use consecutive5xxErrors or consecutiveGatewayErrors";
        report.warning_with(path.key("consecutiveErrors"), "is deprecated and ignored", hint);
    }
    if outliers.consecutive_local_origin_failures.is_some_and(|failures| failures > 0)
        && !outliers.split_external_local_origin_errors
    {
        let hint = "set splitExternalLocalOriginErrors: true";
        let reason = "has no meaning unless failures to connect count apart";
        report.error_with(path.key("consecutiveLocalOriginFailures"), reason, hint);
    }
    report.percent(path.key("maxEjectionPercent"), outliers.max_ejection_percent);
    report.percent(path.key("minHealthPercent"), outliers.min_health_percent);
    let codes = path.key("outlierDetectionHttpErrorCodes");
    for (index, code) in outliers.outlier_detection_http_error_codes.iter().enumerate() {
        if !(100..=599).contains(code) {
            report.error(codes.at(index), format!("{code} is not between 100 and 599"));
        }
    }
}

fn client_tls(path: Path<'_>, tls: &ClientTls, meta: &Meta, report: &mut Report<'_>) {
    if let Some(reference) = tls.credential_name.strip_prefix(CONFIG_MAP) {
        let namespace = reference.split_once('/').map_or(&*meta.namespace, |(namespace, _)| namespace);
        if reference.is_empty() || *namespace != *meta.namespace {
            let reason = "must name a ConfigMap of the rule's namespace";
            report.error_with(path.key("credentialName"), reason, format!("write {CONFIG_MAP}NAME"));
        }
    }
    let files = [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
        ("caCrl", &tls.ca_crl),
    ];
    let originates = matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
    if tls.insecure_skip_verify == Some(true) && originates {
        let authority = !tls.ca_certificates.is_empty();
        let secret = tls.mode == ClientTlsMode::Simple && !tls.credential_name.is_empty();
        if authority || secret || !tls.subject_alt_names.is_empty() {
            let reason =
                "cannot be true where caCertificates, credentialName or subjectAltNames say whom to trust";
            report.error(path.key("insecureSkipVerify"), reason);
        }
    }
    if originates && !tls.credential_name.is_empty() {
        for (name, _) in files.into_iter().filter(|(_, file)| !file.is_empty()) {
            report.error(path.key(name), "cannot be combined with credentialName, which has it");
        }
    } else if tls.mode == ClientTlsMode::Mutual {
        for (name, file) in files.into_iter().take(2) {
            if file.is_empty() {
                report.error_with(
                    path.key(name),
                    "required for MUTUAL, but missing",
                    "or give it credentialName",
                );
            }
        }
    } else if !originates {
        let secret = [("credentialName", &tls.credential_name)];
        for (name, _) in files.into_iter().chain(secret).filter(|(_, value)| !value.is_empty()) {
            let reason = "has no effect in this mode";
            report.warning_with(path.key(name), reason, "set mode to SIMPLE or MUTUAL, or remove it");
        }
    }
}

fn tunnel(path: Path<'_>, tunnel: &Tunnel, report: &mut Report<'_>) {
    if tunnel.target_host.is_wildcard() || tunnel.target_host.is_sni_name() {
        report.error(path.key("targetHost"), "must be a name or an address, without wildcard");
    }
    if let Host::Name(_) = &tunnel.target_host
        && tunnel.target_host.is_short()
    {
        let reason = "is a short name, which only the proxy's own DNS can know";
        report.warning(path.key("targetHost"), reason);
    }
}

fn retry_budget(path: Path<'_>, budget: &RetryBudget, report: &mut Report<'_>) {
    if let Some(percent) = budget.percent.filter(|percent| !(0.0..=100.0).contains(percent)) {
        report.error(path.key("percent"), format!("{percent} is not between 0 and 100"));
    }
}

/// What the name of a ConfigMap begins with where a Secret could stand.
const CONFIG_MAP: &str = "configmap://";
/// Ports per policy, the limit of Istio's schema.
const MAX_PORTS: usize = 4096;
