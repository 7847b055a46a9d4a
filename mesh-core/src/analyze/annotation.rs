//! Annotations in Istio's domain: those that exist, and where they are read.

use std::collections::BTreeMap;

use super::index::Index;
use super::{Code, Message};
use crate::resource::{Object, Spec, entry_path};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    let known: BTreeMap<&str, &Row> =
        KNOWN.iter().flat_map(|row| row.names.iter().map(move |name| (*name, row))).collect();
    for object in index.objects {
        // What users write is `Gateway`, of whichever group.
        let kind = object.meta.kind.strip_prefix("Kubernetes").unwrap_or(object.meta.kind);
        let annotations = &object.meta.annotations;
        judge(&known, (object, kind, "metadata.annotations"), annotations, messages);
        if let Some(annotations) = of_template(object) {
            judge(&known, (object, "Pod", "spec.template.metadata.annotations"), annotations, messages);
        }
    }
}

/// Annotations of the pods that an object makes.
fn of_template(object: &Object) -> Option<&BTreeMap<String, String>> {
    let Spec::Deployment(deployment) = &object.spec else { return None };
    deployment.spec.template.metadata.as_ref()?.annotations.as_ref()
}

fn judge(
    known: &BTreeMap<&str, &Row>,
    (object, kind, path): (&Object, &str, &str),
    annotations: &BTreeMap<String, String>,
    messages: &mut Vec<Message>,
) {
    for name in annotations.keys().filter(|name| is_istio(name)) {
        let field = entry_path(path, name);
        let Some(row) = known.get(name.as_str()) else {
            let reason = "there is no such annotation";
            messages.push(Message::new(Code::UnknownAnnotation, object, field, reason));
            continue;
        };
        if !row.on.is_empty() && !row.on.contains(&kind) {
            let reason = format!("has no effect on a {kind}, only on {}", row.on.join(", "));
            let message = Message::new(Code::MisplacedAnnotation, object, &field, reason);
            let is_for_pods = row.on.contains(&"Pod") && kind == "Deployment";
            let hint = "write it under spec.template.metadata.annotations";
            messages.push(if is_for_pods { message.hint(hint) } else { message });
        }
        if row.is_deprecated {
            messages.push(Message::new(Code::DeprecatedAnnotation, object, field, "is deprecated"));
        }
    }
}

/// Whether the part before the slash is in Istio's domain. Those for internal use are parsing's business.
fn is_istio(name: &str) -> bool {
    let domain = name.split_once('/').map_or("", |(domain, _)| domain);
    name == INGRESS_CLASS
        || (domain == "istio.io" || domain.ends_with(".istio.io")) && domain != "internal.istio.io"
}

/// Annotations that are read in the same places.
struct Row {
    /// Kinds; none means any.
    on: &'static [&'static str],
    is_deprecated: bool,
    names: &'static [&'static str],
}

/// The only one outside Istio's domain that Istio reads.
const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";

/// What Istio's API defines. Some are for sidecars and do nothing here, but they are no mistake.
const KNOWN: &[Row] = &[
    Row { on: &["Ingress"], is_deprecated: false, names: &[INGRESS_CLASS] },
    Row {
        on: &[],
        is_deprecated: false,
        names: &["galley.istio.io/analyze-suppress", "gateway.istio.io/controller-version"],
    },
    Row { on: &["AuthorizationPolicy"], is_deprecated: false, names: &["istio.io/dry-run"] },
    Row {
        on: &["Gateway"],
        is_deprecated: false,
        names: &[
            "gateway.istio.io/name-override",
            "gateway.istio.io/service-account",
            "networking.istio.io/service-type",
        ],
    },
    Row {
        on: &["GatewayClass", "Gateway"],
        is_deprecated: false,
        names: &["ambient.istio.io/waypoint-inbound-binding"],
    },
    Row { on: &["Namespace"], is_deprecated: false, names: &["topology.istio.io/controlPlaneClusters"] },
    Row {
        on: &["Namespace", "Service", "ServiceEntry"],
        is_deprecated: false,
        names: &["networking.istio.io/traffic-distribution"],
    },
    Row {
        on: &["Pod"],
        is_deprecated: false,
        names: &[
            "ambient.istio.io/bypass-inbound-capture",
            "ambient.istio.io/dns-capture",
            "ambient.istio.io/redirection",
            "inject.istio.io/templates",
            "istio.io/reroute-virtual-interfaces",
            "istio.io/rev",
            "prometheus.istio.io/merge-metrics",
            "proxy.istio.io/config",
            "proxy.istio.io/overrides",
            "readiness.status.sidecar.istio.io/applicationPorts",
            "readiness.status.sidecar.istio.io/failureThreshold",
            "readiness.status.sidecar.istio.io/initialDelaySeconds",
            "readiness.status.sidecar.istio.io/periodSeconds",
            "sidecar.istio.io/agentLogLevel",
            "sidecar.istio.io/bootstrapOverride",
            "sidecar.istio.io/componentLogLevel",
            "sidecar.istio.io/interceptionMode",
            "sidecar.istio.io/logLevel",
            "sidecar.istio.io/nativeSidecar",
            "sidecar.istio.io/proxyCPU",
            "sidecar.istio.io/proxyCPULimit",
            "sidecar.istio.io/proxyImage",
            "sidecar.istio.io/proxyImageType",
            "sidecar.istio.io/proxyMemory",
            "sidecar.istio.io/proxyMemoryLimit",
            "sidecar.istio.io/rewriteAppHTTPProbers",
            "sidecar.istio.io/statsEvictionInterval",
            "sidecar.istio.io/statsFlushInterval",
            "sidecar.istio.io/statsHistogramBins",
            "sidecar.istio.io/statsHistogramBuckets",
            "sidecar.istio.io/status",
            "sidecar.istio.io/userVolume",
            "sidecar.istio.io/userVolumeMount",
            "status.sidecar.istio.io/port",
            "traffic.sidecar.istio.io/excludeInboundPorts",
            "traffic.sidecar.istio.io/excludeInterfaces",
            "traffic.sidecar.istio.io/excludeOutboundIPRanges",
            "traffic.sidecar.istio.io/excludeOutboundPorts",
            "traffic.sidecar.istio.io/includeInboundPorts",
            "traffic.sidecar.istio.io/includeOutboundIPRanges",
            "traffic.sidecar.istio.io/includeOutboundPorts",
        ],
    },
    Row {
        on: &["Pod"],
        is_deprecated: true,
        names: &[
            "sidecar.istio.io/discoveryAddress",
            "sidecar.istio.io/extraStatTags",
            "sidecar.istio.io/inject",
            "sidecar.istio.io/statsCompression",
            "sidecar.istio.io/statsInclusionPrefixes",
            "sidecar.istio.io/statsInclusionRegexps",
            "sidecar.istio.io/statsInclusionSuffixes",
            "traffic.sidecar.istio.io/kubevirtInterfaces",
        ],
    },
    Row {
        on: &["Service"],
        is_deprecated: false,
        names: &["networking.istio.io/exportTo", "traffic.istio.io/nodeSelector"],
    },
    Row {
        on: &["Service"],
        is_deprecated: true,
        names: &["alpha.istio.io/canonical-serviceaccounts", "alpha.istio.io/kubernetes-serviceaccounts"],
    },
    Row {
        on: &["Service", "ServiceEntry", "Namespace"],
        is_deprecated: false,
        names: &["istio.io/use-waypoint-canary-weight"],
    },
    Row {
        on: &["WorkloadEntry"],
        is_deprecated: false,
        names: &[
            "istio.io/autoRegistrationGroup",
            "istio.io/connectedAt",
            "istio.io/disconnectedAt",
            "istio.io/workloadController",
        ],
    },
];
