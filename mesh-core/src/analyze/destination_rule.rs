//! `DestinationRules`: hosts that exist, subsets that have workloads, and TLS that trusts somebody in particular.

use super::hosts::{Lookup, Service};
use super::index::Index;
use super::workloads::{Labels, selects};
use super::{Code, Message};
use crate::resource::networking::DestinationRuleSpec;
use crate::resource::networking::destination_rule::{ClientTls, ClientTlsMode, Subset};
use crate::resource::{Object, Spec, quote};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    for object in index.objects {
        if let Spec::DestinationRule(rule) = &object.spec {
            host(index, object, rule, messages);
            trust(object, rule, messages);
        }
    }
}

fn host(index: &Index<'_>, object: &Object, rule: &DestinationRuleSpec, messages: &mut Vec<Message>) {
    let is_known = if rule.host.is_wildcard() {
        index.hosts.covers_any(&rule.host)
    } else {
        match index.hosts.resolve(&rule.host, &object.meta.namespace) {
            Lookup::Found(Service { real_name: Some(real), .. }) => {
                let reason =
                    format!("{} is an alias, and has the rules of {real}", quote(&rule.host.to_string()));
                let message = Message::new(Code::UnknownDestinationRuleHost, object, "spec.host", reason);
                messages.push(message.hint(format!("write {real} if that one is meant")));
                true
            }
            Lookup::Found(service) => {
                let unselected = |(at, subset)| unselected(index, object, service, (at, subset));
                messages.extend(rule.subsets.iter().enumerate().filter_map(unselected));
                true
            }
            Lookup::Unknown => true,
            Lookup::Missing => false,
        }
    };
    if !is_known {
        let reason = format!("there is no service {}", quote(&rule.host.to_string()));
        let message = Message::new(Code::UnknownDestinationRuleHost, object, "spec.host", reason);
        messages.push(match index.hosts.elsewhere(&rule.host) {
            Some(elsewhere) => message.hint(format!("write {elsewhere} if that one is meant")),
            None => message,
        });
    }
}

/// Says so if a subset has no workload.
fn unselected(
    index: &Index<'_>,
    object: &Object,
    service: &Service<'_>,
    (at, subset): (usize, &Subset),
) -> Option<Message> {
    // Where a workload runs is not known before it runs.
    let by_place = |(key, value): &(&String, &String)| {
        !value.is_empty() && PLACES.iter().any(|place| key.starts_with(place))
    };
    let labels: Labels = subset.labels.iter().filter(|label| !by_place(label)).map(clone).collect();
    if labels.is_empty() || index.has_unknown_workloads() || has_endpoint(service, &labels)? {
        return None;
    }
    if let Some(selector) = service.selector {
        let mut both = labels.clone();
        both.extend(selector.iter().map(clone));
        let mut members = index.workloads.select(Some(&service.object.meta.namespace), &both);
        if selects(&labels, &both) && members.next().is_some() {
            return None;
        }
    }
    let field = format_args!("spec.subsets[{at}].labels");
    let reason = format!(
        "no workload of {} belongs to subset {}",
        quote(&service.object.meta.name),
        quote(&subset.name)
    );
    let message = Message::new(Code::DestinationRuleSubsetNotSelectPods, object, field, reason);
    Some(message.hint("requests for it are answered with 503"))
}

/// Whether an endpoint of a `ServiceEntry` has these labels; `None` if that cannot be told.
fn has_endpoint(service: &Service<'_>, labels: &Labels) -> Option<bool> {
    match &service.object.spec {
        Spec::ServiceEntry(entry) if !entry.endpoints.is_empty() => {
            Some(entry.endpoints.iter().any(|endpoint| selects(labels, &endpoint.labels)))
        }
        _ => service.selector.map(|_| false),
    }
}

fn clone((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

fn trust(object: &Object, rule: &DestinationRuleSpec, messages: &mut Vec<Message>) {
    let own = rule.traffic_policy.iter().map(|policy| ("spec.trafficPolicy".to_owned(), policy));
    let subsets = rule.subsets.iter().enumerate().filter_map(|(at, subset)| {
        Some((format!("spec.subsets[{at}].trafficPolicy"), subset.traffic_policy.as_ref()?))
    });
    for (path, policy) in own.chain(subsets) {
        if let Some(reason) = policy.tls.as_ref().and_then(|tls| trusts_anybody(tls, rule)) {
            let code = Code::NoServerCertificateVerificationDestinationLevel;
            messages.push(Message::new(code, object, format_args!("{path}.tls"), reason).hint(WHOM_TO_TRUST));
        }
        for (at, port) in policy.port_level_settings.iter().enumerate() {
            if let Some(reason) = port.tls.as_ref().and_then(|tls| trusts_anybody(tls, rule)) {
                let code = Code::NoServerCertificateVerificationPortLevel;
                let field = format_args!("{path}.portLevelSettings[{at}].tls");
                messages.push(Message::new(code, object, field, reason).hint(WHOM_TO_TRUST));
            }
        }
    }
}

/// Why a server could be somebody else than who is meant.
fn trusts_anybody(tls: &ClientTls, rule: &DestinationRuleSpec) -> Option<String> {
    let mode = match tls.mode {
        ClientTlsMode::Simple => "SIMPLE",
        ClientTlsMode::Mutual => "MUTUAL",
        ClientTlsMode::Disable | ClientTlsMode::IstioMutual => return None,
    };
    if tls.insecure_skip_verify == Some(true) {
        return Some(format!("{mode} with insecureSkipVerify takes whatever certificate the server has"));
    }
    if !tls.ca_certificates.is_empty() {
        return None;
    }
    // Without a selector only gateways fetch Secrets for a rule.
    match (tls.credential_name.is_empty(), &rule.workload_selector) {
        (true, _) => {
            Some(format!("{mode} without caCertificates trusts every authority that the system trusts"))
        }
        (false, None) => {
            Some(format!("{mode} with credentialName but no workloadSelector only verifies at gateways"))
        }
        (false, Some(_)) => None,
    }
}

const WHOM_TO_TRUST: &str = "set caCertificates, or credentialName and spec.workloadSelector";

/// What keys of labels begin with that come from a workload's node or cluster.
const PLACES: [&str; 3] = ["topology.kubernetes.io/", "topology.istio.io/", "kubernetes.io/hostname"];
