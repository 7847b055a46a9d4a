//! What the types of `MeshConfig` cannot say. A value that is wrong is taken out, so that what is left is right.

use std::collections::BTreeSet;

use super::super::tree::{Problem, quote};
use super::super::value::ExportTo;
use super::provider::{ExtAuthzGrpc, ExtAuthzHttp, ProviderKind};
use super::proxy::ProxyTracing;
use super::{ExtensionProvider, MeshConfig, ProxyConfig};

pub(super) fn mesh(config: &mut MeshConfig, problems: &mut Vec<Problem>) {
    let lists = [
        ("defaultServiceExportTo", &mut config.default_service_export_to),
        ("defaultVirtualServiceExportTo", &mut config.default_virtual_service_export_to),
        ("defaultDestinationRuleExportTo", &mut config.default_destination_rule_export_to),
    ];
    for (name, list) in lists {
        export_to(&at(name), list, name == "defaultServiceExportTo", problems);
    }
    providers(&mut config.extension_providers, problems);
    let known: BTreeSet<_> =
        config.extension_providers.iter().map(|it| it.name.as_str()).chain(BUILT_IN).collect();
    let defaults = [
        ("tracing", &mut config.default_providers.tracing),
        ("metrics", &mut config.default_providers.metrics),
        ("accessLogging", &mut config.default_providers.access_logging),
    ];
    for (name, list) in defaults {
        let field = at(&format!("defaultProviders.{name}"));
        retain(list, &field, problems, |name| {
            let reason = format!("there is no provider {} in extensionProviders", quote(name));
            if known.contains(name.as_str()) { Ok(()) } else { Err(reason) }
        });
    }
    proxy(&mut config.default_config, &at("defaultConfig"), problems);
}

pub(super) fn proxy(config: &mut ProxyConfig, field: &str, problems: &mut Vec<Problem>) {
    if config.service_cluster.is_some() && config.tracing_service_name.is_some() {
        let field = format!("{field}.tracingServiceName");
        problems.push(Problem::error(field, "cannot be combined with serviceCluster"));
        config.tracing_service_name = None;
    }
    if let Some(tracing) = &mut config.tracing {
        tracer(tracing, &format!("{field}.tracing"), problems);
    }
}

fn tracer(tracing: &mut ProxyTracing, field: &str, problems: &mut Vec<Problem>) {
    let ProxyTracing { zipkin, lightstep, datadog, stackdriver, open_census_agent, .. } = tracing;
    let given = [
        zipkin.is_some(),
        lightstep.is_some(),
        datadog.is_some(),
        stackdriver.is_some(),
        open_census_agent.is_some(),
    ];
    if given.into_iter().filter(|given| *given).count() > 1 {
        problems.push(Problem::error(field, "spans can go to one place").hint("remove all but one"));
        (*zipkin, *lightstep, *datadog, *stackdriver, *open_census_agent) = (None, None, None, None, None);
    }
}

/// `*`, `.` and `~` stand alone; `~` is for services.
fn export_to(field: &str, list: &mut Vec<ExportTo>, services: bool, problems: &mut Vec<Problem>) {
    let unique: BTreeSet<_> = list.iter().collect();
    let reason = if unique.len() < list.len() {
        "has an entry twice"
    } else if list.len() > 1 && list.iter().any(|it| matches!(it, ExportTo::All | ExportTo::Nobody)) {
        "\"*\" and \"~\" must stand alone"
    } else if !services && list.contains(&ExportTo::Nobody) {
        "\"~\" is for services only"
    } else {
        return;
    };
    problems.push(Problem::error(field, reason));
    list.clear();
}

fn providers(providers: &mut Vec<ExtensionProvider>, problems: &mut Vec<Problem>) {
    let mut names = BTreeSet::new();
    let field = at("extensionProviders");
    retain(providers, &field, problems, |provider| {
        if names.insert(provider.name.clone()) {
            check_provider(provider)
        } else {
            Err(format!("the name {} is used twice", quote(&provider.name)))
        }
    });
    for (index, provider) in providers.iter().enumerate() {
        if let ProviderKind::ExtAuthzHttp(it) = &provider.kind
            && !it.include_headers_in_check.is_empty()
        {
            let field = format!("{field}[{index}].envoyExtAuthzHttp.includeHeadersInCheck");
            let problem = Problem::warning(field, "is deprecated");
            problems.push(problem.hint("write includeRequestHeadersInCheck"));
        }
    }
}

fn check_provider(provider: &ExtensionProvider) -> Result<(), String> {
    let service = match &provider.kind {
        ProviderKind::ExtAuthzHttp(ExtAuthzHttp { service, status_on_error, path_prefix, .. }) => {
            if !(path_prefix.is_empty() || path_prefix.starts_with('/')) {
                return Err("pathPrefix does not begin with /".to_owned());
            }
            status(status_on_error)?;
            service
        }
        ProviderKind::ExtAuthzGrpc(ExtAuthzGrpc { service, status_on_error, .. }) => {
            status(status_on_error)?;
            service
        }
        ProviderKind::Zipkin(it) => &it.service,
        ProviderKind::Lightstep(it) | ProviderKind::Datadog(it) | ProviderKind::SkyWalking(it) => &it.service,
        ProviderKind::OpenCensus(it) => &it.service,
        ProviderKind::OpenTelemetry(it) if it.http.is_some() && it.grpc.is_some() => {
            return Err("only one of http and grpc may be given".to_owned());
        }
        ProviderKind::OpenTelemetry(it) => &it.service,
        ProviderKind::HttpAccessLog(it) | ProviderKind::TcpAccessLog(it) => &it.service,
        ProviderKind::OpenTelemetryAccessLog(it) => &it.service,
        ProviderKind::Sds(it) => &it.service,
        ProviderKind::FileAccessLog(it) if it.path.is_empty() => return Err("path is required".to_owned()),
        ProviderKind::FileAccessLog(it) => {
            let both = it.log_format.as_ref().is_some_and(|it| it.text.is_some() && it.labels.is_some());
            let reason = "logFormat has text and labels; only one may be given";
            return if both { Err(reason.to_owned()) } else { Ok(()) };
        }
        ProviderKind::Stackdriver(_) | ProviderKind::Prometheus => return Ok(()),
    };
    let (namespace, host) = service.rsplit_once('/').unwrap_or(("x", service));
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    if label(namespace) && host.len() <= 253 && host.split('.').all(label) {
        Ok(())
    } else {
        Err(format!("service {} is not HOST or NAMESPACE/HOST", quote(service)))
    }
}

/// The HTTP status of an authorizer that cannot be asked.
fn status(text: &str) -> Result<(), String> {
    let known = text.is_empty() || text.parse::<u16>().is_ok_and(|code| (200..=599).contains(&code));
    if known { Ok(()) } else { Err(format!("statusOnError {} is not an HTTP status", quote(text))) }
}

/// Takes out of `list` what `check` refuses, and says why. Indices are those of what was left before.
fn retain<T>(
    list: &mut Vec<T>,
    field: &str,
    problems: &mut Vec<Problem>,
    mut check: impl FnMut(&T) -> Result<(), String>,
) {
    let mut index = 0;
    list.retain(|item| {
        let result = check(item);
        if let Err(reason) = &result {
            problems.push(Problem::error(format!("{field}[{index}]"), reason.clone()));
        }
        index += 1;
        result.is_ok()
    });
}

fn at(field: &str) -> String {
    format!("{}.{field}", super::FIELD)
}

/// Providers that are there without being configured.
const BUILT_IN: [&str; 3] = ["prometheus", "stackdriver", "envoy"];
