//! GatewayClass and Gateway.

use std::collections::BTreeMap;

use super::super::super::LabelSelector;
use super::super::super::gateway_api::{
    AddressKind, ClientValidation, DefaultGateways, GatewayClassSpec, GatewaySpec, GatewayTls, GroupName,
    Infrastructure, Listener, ListenerNamespacesFrom, ListenerSetSpec, Protocol, RouteNamespacesFrom,
    TlsMode,
};
use super::super::{Report, child, is_label_value, is_qualified_name};
use super::{hostname_is_no_address, options, unique, within};

pub(in super::super) fn gateway_class(spec: &GatewayClassSpec, report: &mut Report<'_>) {
    if spec.description.chars().count() > 64 {
        report.error("spec.description", "has more than 64 characters");
    }
}

pub(in super::super) fn gateway(spec: &GatewaySpec, report: &mut Report<'_>) {
    listeners(&spec.listeners, report);
    addresses(spec, report);
    infrastructure(&spec.infrastructure, report);
    let allowed = &spec.allowed_listeners.namespaces;
    let by_selector = allowed.from == ListenerNamespacesFrom::Selector;
    selector("spec.allowedListeners.namespaces", by_selector, allowed.selector.as_ref(), report);
    if spec.default_scope == Some(DefaultGateways::All) {
        let reason = "default Gateways are not supported: only routes that name it attach";
        report.warning("spec.defaultScope", reason);
    }
    tls(&spec.tls, report);
}

pub(in super::super) fn listener_set(spec: &ListenerSetSpec, report: &mut Report<'_>) {
    let parent = &spec.parent_ref;
    if parent.group != GroupName::gateway_api() || *parent.kind != *"Gateway" {
        let reason = format!("{} is not a kind that listeners can be added to", parent.kind);
        report.warning_with("spec.parentRef.kind", reason, "only Gateway is");
    }
    listeners(&spec.listeners, report);
}

fn listeners(listeners: &[Listener], report: &mut Report<'_>) {
    within(1..=64, "spec.listeners", listeners.len(), report);
    unique("spec.listeners", "name", listeners.iter().map(|it| &*it.name), report);
    let places = listeners.iter().map(|it| (it.port, &it.protocol, it.hostname.as_ref()));
    unique("spec.listeners", "port, protocol and hostname", places, report);
    for (index, it) in listeners.iter().enumerate() {
        listener(&format!("spec.listeners[{index}]"), it, report);
    }
}

fn listener(field: &str, listener: &Listener, report: &mut Report<'_>) {
    let Listener { hostname, protocol, tls, allowed_routes, .. } = listener;
    let name = protocol.as_str();
    if let Some(hostname) = hostname {
        if matches!(protocol, Protocol::Tcp | Protocol::Udp) {
            let reason = format!("{name} has no host names");
            report.error(format_args!("{field}.hostname"), reason);
        }
        hostname_is_no_address(&format!("{field}.hostname"), hostname, report);
    }
    match (protocol, tls) {
        (Protocol::Http | Protocol::Tcp | Protocol::Udp, Some(_)) => {
            let hint =
                if *protocol == Protocol::Http { "write protocol HTTPS" } else { "write protocol TLS" };
            report.error_with(format_args!("{field}.tls"), format!("is not for protocol {name}"), hint);
        }
        (Protocol::Https, Some(tls)) if tls.mode == TlsMode::Passthrough => {
            let reason = "HTTPS ends at the gateway";
            report.error_with(format_args!("{field}.tls.mode"), reason, "write protocol TLS");
        }
        (Protocol::Https, None) => {
            let reason = "an HTTPS listener without tls has no certificate and serves nobody";
            report.warning(format_args!("{field}.tls"), reason);
        }
        (Protocol::Tls, None) => report.error(format_args!("{field}.tls"), "required for protocol TLS"),
        (Protocol::Other(_), _) => {
            report.warning(format_args!("{field}.protocol"), format!("{name} is not supported"));
        }
        _ => {}
    }
    if let Some(tls) = tls {
        let refs = format!("{field}.tls.certificateRefs");
        within(0..=64, &refs, tls.certificate_refs.len(), report);
        options(&format!("{field}.tls.options"), &tls.options, report);
        let bare = tls.certificate_refs.is_empty() && tls.options.is_empty();
        if tls.mode == TlsMode::Terminate && bare {
            report.error(refs, "required to terminate TLS, but missing");
        }
    }
    within(0..=8, &format!("{field}.allowedRoutes.kinds"), allowed_routes.kinds.len(), report);
    let namespaces = &allowed_routes.namespaces;
    let by_selector = namespaces.from == RouteNamespacesFrom::Selector;
    selector(&format!("{field}.allowedRoutes.namespaces"), by_selector, namespaces.selector.as_ref(), report);
}

/// A selector that is there belongs to `from: Selector`, and the other way round.
fn selector(field: &str, wanted: bool, selector: Option<&LabelSelector>, report: &mut Report<'_>) {
    match selector {
        None if wanted => {
            report.warning(format_args!("{field}.selector"), "missing: no namespace is selected");
        }
        Some(_) if !wanted => {
            let reason = "has no effect unless from is Selector";
            report.warning(format_args!("{field}.selector"), reason);
        }
        _ => {}
    }
}

fn addresses(spec: &GatewaySpec, report: &mut Report<'_>) {
    within(0..=16, "spec.addresses", spec.addresses.len(), report);
    let given = |wanted: fn(&AddressKind) -> bool| {
        let named = spec.addresses.iter().filter(move |it| wanted(&it.kind) && !it.value.is_empty());
        named.map(|it| &*it.value).collect::<Vec<_>>()
    };
    let kinds =
        [given(|kind| matches!(kind, AddressKind::Ip(_))), given(|kind| *kind == AddressKind::Hostname)];
    for mut values in kinds {
        values.sort_unstable();
        if let Some([value, _]) =
            values.windows(2).find_map(|pair| <[_; 2]>::try_from(pair).ok().filter(|[a, b]| a == b))
        {
            report.error("spec.addresses", format!("\"{value}\" is there twice"));
        }
    }
}

fn infrastructure(infrastructure: &Infrastructure, report: &mut Report<'_>) {
    let keys = |field: &str, map: &BTreeMap<String, String>, report: &mut Report<'_>| {
        for key in map.keys().filter(|key| !is_qualified_name(key)) {
            report.error(child(field, key), "not a valid key");
        }
    };
    let field = "spec.infrastructure.labels";
    within(0..=8, field, infrastructure.labels.len(), report);
    keys(field, &infrastructure.labels, report);
    for (key, _) in infrastructure.labels.iter().filter(|(_, value)| !is_label_value(value)) {
        report.error(child(field, key), "not a valid label value");
    }
    let field = "spec.infrastructure.annotations";
    within(0..=16, field, infrastructure.annotations.len(), report);
    keys(field, &infrastructure.annotations, report);
    for (key, _) in infrastructure.annotations.iter().filter(|(_, value)| value.chars().count() > 4096) {
        report.error(child(field, key), "has more than 4096 characters");
    }
}

fn tls(tls: &GatewayTls, report: &mut Report<'_>) {
    let Some(frontend) = &tls.frontend else { return };
    let validation = |field: &str, validation: &Option<ClientValidation>, report: &mut Report<'_>| {
        if let Some(validation) = validation {
            let field = format!("{field}.validation.caCertificateRefs");
            within(1..=16, &field, validation.ca_certificate_refs.len(), report);
        }
    };
    validation("spec.tls.frontend.default", &frontend.default.validation, report);
    let field = "spec.tls.frontend.perPort";
    within(0..=64, field, frontend.per_port.len(), report);
    unique(field, "port", frontend.per_port.iter().map(|it| it.port), report);
    for (index, it) in frontend.per_port.iter().enumerate() {
        validation(&format!("{field}[{index}].tls"), &it.tls.validation, report);
    }
}
