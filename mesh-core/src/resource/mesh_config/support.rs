//! What the mesh does about each field: one row per field, so that none is passed over in silence.

use super::super::Level;
use super::super::tree::{Path, Problem, Tree};
use Support::{Acts, Foreign, Later};

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Support {
    /// The mesh does what it says.
    Acts,
    /// A user can expect an effect, and there is none yet.
    Later,
    /// It is about Envoy, or about a proxy that a pod has to itself: there is nothing that it could mean.
    Foreign,
}

/// A field, what becomes of it, and the value that asks for what the mesh does anyway (empty: there is none).
pub(super) type Row = (&'static str, Support, &'static str);

/// Notes which fields of a `MeshConfig` have no effect.
pub(super) fn mesh(tree: &Tree, problems: &mut Vec<Problem>) {
    let root = Path::Root(super::FIELD);
    note(tree, root, (MESH, &[]), problems);
    if let Some(all) = tree.get("extensionProviders") {
        providers(all, Path::Key(&root, "extensionProviders"), problems);
    }
    if let Some(proxy) = tree.get("defaultConfig") {
        note(proxy, Path::Key(&root, "defaultConfig"), (PROXY, TRACED), problems);
    }
}

/// Notes which providers have no effect: all but those that are asked about requests, or told about them; and of those that
/// are told, which fields.
fn providers(tree: &Tree, path: Path<'_>, problems: &mut Vec<Problem>) {
    let Tree::List(all) = tree else { return };
    let acts = |provider: &Tree| PROVIDERS.iter().any(|kind| provider.get(kind).is_some());
    for (index, _) in all.iter().enumerate().filter(|(_, provider)| !acts(provider)) {
        let reason = "is not supported yet and changes nothing";
        let problem = Problem::error(Path::Index(&path, index), reason);
        problems.push(Problem { level: Level::Warning, ..problem });
    }
    for (index, provider) in all.iter().enumerate() {
        let item = Path::Index(&path, index);
        for kind in ["envoyHttpAls", "envoyTcpAls"] {
            if let Some(service) = provider.get(kind) {
                note(service, Path::Key(&item, kind), (ALS, &[]), problems);
            }
        }
    }
}

/// Notes which fields of a pod's own `ProxyConfig` have no effect.
pub(super) fn proxy(tree: &Tree, path: Path<'_>, problems: &mut Vec<Problem>) {
    note(tree, path, (PROXY, &[]), problems);
}

/// `besides` are fields that act here, whatever their rows say.
fn note(tree: &Tree, path: Path<'_>, (rows, besides): (&[Row], &[&str]), problems: &mut Vec<Problem>) {
    let Tree::Map(entries) = tree else { return };
    for (key, value) in entries.iter().filter(|(_, value)| *value != Tree::Null) {
        let Some((_, support, same)) = rows.iter().find(|(field, ..)| field == key) else { continue };
        let (level, reason) = match support {
            Acts => continue,
            _ if besides.contains(&key.as_str()) => continue,
            _ if !same.is_empty() && text(value) == *same => continue,
            Later => (Level::Warning, "is not supported yet and changes nothing"),
            Foreign => (Level::Info, "is about a proxy per pod and means nothing here"),
        };
        problems.push(Problem { level, ..Problem::error(Path::Key(&path, key), reason) });
    }
}

/// A short value in YAML's flow style; long ones equal none of the table's.
fn text(tree: &Tree) -> String {
    match tree {
        Tree::Bool(value) => value.to_string(),
        Tree::Unsigned(value) => value.to_string(),
        Tree::String(text) if text.len() <= 64 => text.clone(),
        Tree::List(items) => match &items[..] {
            [item] => format!("[{}]", text(item)),
            _ => String::new(),
        },
        Tree::Map(entries) => match &entries[..] {
            [(key, value)] if key.len() <= 64 => format!("{{{key}: {}}}", text(value)),
            _ => String::new(),
        },
        _ => String::new(),
    }
}

/// Providers that act.
const PROVIDERS: &[&str] = &[
    "envoyExtAuthzHttp",
    "envoyExtAuthzGrpc",
    "zipkin",
    "opentelemetry",
    "prometheus",
    "envoyFileAccessLog",
    "envoyHttpAls",
    "envoyTcpAls",
    "envoyOtelAls",
];
/// The fields of `envoyHttpAls` and `envoyTcpAls` that have no effect.
const ALS: &[Row] = &[
    ("filterStateObjectsToLog", Foreign, ""),
    ("additionalResponseHeadersToLog", Later, ""),
    ("additionalResponseTrailersToLog", Later, ""),
];
/// What `defaultConfig` says of spans, for all; pods have no say of their own yet.
const TRACED: &[&str] = &["tracing", "tracingServiceName", "zipkinAddress", "meshId"];

/// The fields of `MeshConfig`.
pub(super) const MESH: &[Row] = &[
    ("proxyListenPort", Foreign, "15001"),
    ("proxyInboundListenPort", Foreign, "15006"),
    ("proxyHttpPort", Later, "0"),
    ("connectTimeout", Acts, ""),
    ("hboneIdleTimeout", Later, ""),
    ("protocolDetectionTimeout", Acts, ""),
    ("tcpKeepalive", Acts, ""),
    ("ingressClass", Later, "istio"),
    ("ingressService", Later, "istio-ingressgateway"),
    ("ingressControllerMode", Later, "OFF"),
    ("ingressSelector", Later, "ingressgateway"),
    ("enableTracing", Acts, ""),
    ("accessLogFile", Acts, ""),
    ("accessLogFormat", Acts, ""),
    ("accessLogEncoding", Acts, ""),
    ("enableEnvoyAccessLogService", Later, "false"),
    ("disableEnvoyListenerLog", Foreign, ""),
    // Its own rows say what becomes of it.
    ("defaultConfig", Acts, ""),
    ("outboundTrafficPolicy", Acts, ""),
    ("inboundTrafficPolicy", Later, "{mode: PASSTHROUGH}"),
    ("configSources", Later, ""),
    ("enableAutoMtls", Later, "true"),
    ("trustDomain", Acts, ""),
    ("trustDomainAliases", Acts, ""),
    ("caCertificates", Later, ""),
    ("defaultServiceExportTo", Acts, ""),
    ("defaultVirtualServiceExportTo", Acts, ""),
    ("defaultDestinationRuleExportTo", Acts, ""),
    // Where this is found decides; whoever compiles it says so if the two differ.
    ("rootNamespace", Acts, ""),
    ("localityLbSetting", Acts, ""),
    ("zoneAwareLbSetting", Acts, ""),
    ("dnsRefreshRate", Later, ""),
    ("h2UpgradePolicy", Acts, ""),
    ("inboundClusterStatName", Foreign, ""),
    ("outboundClusterStatName", Foreign, ""),
    ("certificates", Foreign, ""),
    ("serviceSettings", Later, ""),
    ("serviceScopeConfigs", Later, ""),
    ("enablePrometheusMerge", Foreign, ""),
    ("verifyCertificateAtClient", Later, "true"),
    ("ca", Later, ""),
    // Which of them are acted on, [`providers`] says.
    ("extensionProviders", Acts, ""),
    ("defaultProviders", Acts, ""),
    ("discoverySelectors", Later, ""),
    ("pathNormalization", Acts, ""),
    ("defaultHttpRetryPolicy", Acts, ""),
    ("meshMTLS", Later, ""),
    ("tlsDefaults", Later, ""),
    ("defaultTrafficPolicy", Acts, ""),
    ("serviceEntryVisibility", Later, ""),
    ("expressPath", Acts, ""),
];

/// The fields of `ProxyConfig`.
pub(super) const PROXY: &[Row] = &[
    ("configPath", Foreign, ""),
    ("binaryPath", Foreign, ""),
    ("serviceCluster", Foreign, ""),
    ("tracingServiceName", Later, ""),
    ("drainDuration", Later, ""),
    ("discoveryAddress", Foreign, ""),
    ("discoveryRefreshDelay", Foreign, ""),
    ("zipkinAddress", Later, ""),
    ("statsdUdpAddress", Later, ""),
    ("envoyMetricsServiceAddress", Later, ""),
    ("proxyAdminPort", Foreign, "15000"),
    ("availabilityZone", Foreign, ""),
    ("controlPlaneAuthPolicy", Foreign, ""),
    ("customConfigFile", Foreign, ""),
    ("statNameLength", Foreign, ""),
    ("concurrency", Foreign, ""),
    ("proxyBootstrapTemplatePath", Foreign, ""),
    ("interceptionMode", Foreign, ""),
    ("tracing", Later, ""),
    ("sds", Foreign, ""),
    ("envoyAccessLogService", Later, ""),
    ("envoyMetricsService", Later, ""),
    ("proxyMetadata", Foreign, ""),
    ("runtimeValues", Foreign, ""),
    ("statusPort", Foreign, "15020"),
    ("extraStatTags", Later, ""),
    ("gatewayTopology", Acts, ""),
    ("terminationDrainDuration", Later, ""),
    ("meshId", Later, ""),
    ("readinessProbe", Later, ""),
    ("proxyStatsMatcher", Foreign, ""),
    ("holdApplicationUntilProxyStarts", Foreign, ""),
    ("caCertificatesPem", Later, ""),
    ("image", Foreign, ""),
    ("privateKeyProvider", Foreign, ""),
    ("proxyHeaders", Later, ""),
    ("fileFlushInterval", Later, ""),
    ("fileFlushMinSizeKb", Later, ""),
    ("statsCompression", Later, ""),
    ("connectionSettings", Later, ""),
];
