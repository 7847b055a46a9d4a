use std::collections::BTreeSet;
use std::time::{Duration as Time, Instant};

use serde::de::{self, Deserialize, Visitor};

use super::provider::{HttpHeaderValue, ProviderKind};
use super::settings::{CertificateSource, OutboundMode, TlsVersion, Visibility};
use super::support::{MESH, PROXY, Row};
use super::*;
use crate::resource::Level;
use crate::resource::value::Percent;

fn origin() -> Origin {
    Origin { file: "f.yaml".into(), document: 1 }
}

fn mesh(text: &str) -> (MeshConfig, Vec<Finding>) {
    MeshConfig::parse(text, &origin())
}

/// What `text` sets; no error may be in it.
fn good(text: &str) -> MeshConfig {
    let (config, findings) = mesh(text);
    assert!(findings.iter().all(|it| it.level < Level::Error), "{text}: {findings:#?}");
    config
}

#[test]
fn every_field_of_mesh_config_is_read() {
    let text = include_str!("../testdata/mesh-config.yaml");
    let config = good(text);
    assert_eq!((config.proxy_listen_port.get(), config.proxy_http_port.map(Port::get)), (15101, Some(8888)));
    assert_eq!(config.connect_timeout.get(), Time::from_secs(3));
    assert_eq!(config.hbone_idle_timeout.get(), None);
    assert_eq!(config.access_log_file.as_deref(), Some("/dev/stdout"));
    assert_eq!(config.outbound_traffic_policy.mode, OutboundMode::RegistryOnly);
    assert_eq!(config.trust_domain.as_ref().map(TrustDomain::as_str), Some("td.example"));
    assert!(
        matches!(&config.ca_certificates[1].source, CertificateSource::BundleUrl(url) if url.starts_with("https"))
    );
    assert_eq!(config.default_service_export_to, [ExportTo::Own]);
    assert_eq!(config.path_normalization, PathNormalization::MergeSlashes);
    assert_eq!(config.mesh_mtls.min_protocol_version, TlsVersion::V1_3);
    assert_eq!(config.service_entry_visibility.default_visibility, Visibility::Namespace);
    assert_eq!(config.discovery_selectors.len(), 2);
    let kinds: Vec<_> = config.extension_providers.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "http", "grpc", "zip", "ls", "dd", "sd", "oc", "sw", "otel", "prom", "file", "hals", "tals",
            "oals", "sds"
        ]
    );
    let ProviderKind::ExtAuthzHttp(authz) = &config.extension_providers[0].kind else { panic!("kind") };
    assert_eq!((&authz.service[..], authz.port.get(), authz.fail_open), ("ns/authz.example.com", 8000, true));
    assert_eq!(authz.timeout.map(Duration::get), Some(Time::from_millis(500)));
    assert_eq!(authz.include_request_body_in_check.map(|it| it.max_request_bytes), Some(4096));
    let ProviderKind::OpenTelemetry(otel) = &config.extension_providers[8].kind else { panic!("kind") };
    let header = &otel.http.as_ref().expect("given").headers[0];
    assert_eq!(header.value, HttpHeaderValue::Variable("TOKEN".into()));
    let proxy = &config.default_config;
    assert_eq!(proxy.drain_duration.map(Duration::get), Some(Time::from_secs(30)));
    assert_eq!(proxy.concurrency, Some(0));
    assert_eq!(
        proxy.tracing.as_ref().and_then(|it| it.sampling).map(Percent::parts_per_million),
        Some(500_000)
    );
    assert_eq!(proxy.gateway_topology.map(|it| it.num_trusted_proxies), Some(2));
    // No field of the tables is missing from the file, so every one of them has been read.
    let (tree, _) = document::yaml_tree(text).expect("valid");
    assert_eq!(given(&tree), rows(MESH));
    assert_eq!(given(tree.get("defaultConfig").expect("given")), rows(PROXY));
}

#[test]
fn every_field_has_a_row() {
    let rows = |rows: &[Row]| rows.iter().map(|(field, ..)| *field).collect::<BTreeSet<_>>();
    assert_eq!(rows(MESH), fields::<MeshConfig>());
    assert_eq!(rows(PROXY), fields::<ProxyConfig>());
    assert_eq!((rows(MESH).len(), rows(PROXY).len()), (MESH.len(), PROXY.len()));
}

#[test]
fn nothing_is_istios_defaults() {
    for text in ["", "{}", "# x\n", "trustDomain: ''\naccessLogFile: ''\nproxyHttpPort: 0\n"] {
        assert_eq!(good(text), MeshConfig::default(), "{text:?}");
    }
    let config = MeshConfig::default();
    assert_eq!((config.proxy_inbound_listen_port.get(), config.connect_timeout.get().as_secs()), (15006, 10));
    assert_eq!(config.hbone_idle_timeout.get(), Some(Time::from_secs(3600)));
    assert!(config.enable_auto_mtls && config.enable_tracing && config.verify_certificate_at_client);
    assert_eq!(config.outbound_traffic_policy.mode, OutboundMode::AllowAny);
}

#[test]
fn what_has_no_effect_is_named() {
    let level = |text: &str| {
        let (_, findings) = mesh(text);
        findings.iter().map(|it| (it.level, it.field.clone())).collect::<Vec<_>>()
    };
    let warning = |field: &str| vec![(Level::Warning, format!("data.mesh.{field}"))];
    let info = |field: &str| vec![(Level::Info, format!("data.mesh.{field}"))];
    let cases = [
        ("trustDomain: a.b\naccessLogFile: /dev/stdout\nrootNamespace: istio-system\n", vec![]),
        ("enableAutoMtls: true\n", vec![]),
        ("enableAutoMtls: false\n", warning("enableAutoMtls")),
        ("enableTracing: true\n", vec![]),
        ("outboundTrafficPolicy: {mode: ALLOW_ANY}\n", vec![]),
        ("outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n", vec![]),
        ("defaultProviders: {metrics: [prometheus]}\n", vec![]),
        ("enablePrometheusMerge: true\n", info("enablePrometheusMerge")),
        ("defaultConfig: {}\n", vec![]),
        ("defaultConfig: {discoveryAddress: 'a:1'}\n", info("defaultConfig.discoveryAddress")),
        ("defaultConfig: {tracing: {}}\n", vec![]),
        ("defaultConfig: {drainDuration: 1s}\n", warning("defaultConfig.drainDuration")),
        ("defaultConfig: {statusPort: 15020}\n", vec![]),
        (
            "extensionProviders: [{name: a, envoyHttpAls: {service: s, port: 1, logName: l, additionalRequestHeadersToLog: [x]}}]\n",
            vec![],
        ),
        (
            "extensionProviders: [{name: a, envoyHttpAls: {service: s, port: 1, additionalResponseHeadersToLog: [x]}}]\n",
            warning("extensionProviders[0].envoyHttpAls.additionalResponseHeadersToLog"),
        ),
        ("extensionProviders: [{name: a, envoyOtelAls: {service: s, port: 1}}]\n", vec![]),
        (
            "extensionProviders: [{name: a, datadog: {service: s, port: 1}}]\n",
            warning("extensionProviders[0]"),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(level(text), expected, "{text}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, one row per rule")]
fn a_bad_field_costs_itself_only() {
    let rest = "trustDomain: kept.example\naccessLogFile: /dev/stdout\n";
    let rows: &[(&str, &str, &str)] = &[
        ("trustDomian: a", "data.mesh.trustDomian", "unknown field"),
        ("trust_domain_aliases: [a]", "data.mesh.trust_domain_aliases", "unknown field"),
        ("connectTimeout: 5", "data.mesh.connectTimeout", "expected duration"),
        ("connectTimeout: 0s", "data.mesh.connectTimeout", "shorter than 1ms"),
        ("proxyListenPort: 0", "data.mesh.proxyListenPort", "port 0"),
        ("proxyListenPort: 70000", "data.mesh.proxyListenPort", "70000"),
        ("accessLogEncoding: XML", "data.mesh.accessLogEncoding", "unknown value"),
        ("expressPath: off", "data.mesh.expressPath", "unknown value"),
        ("outboundTrafficPolicy: REGISTRY_ONLY", "data.mesh.outboundTrafficPolicy", "expected object"),
        (
            "outboundTrafficPolicy: {mode: REGISTRYONLY}",
            "data.mesh.outboundTrafficPolicy.mode",
            "unknown value",
        ),
        ("trustDomainAliases: [ok, A]", "data.mesh.trustDomainAliases[1]", "\"A\""),
        ("defaultServiceExportTo: ['*', '.']", "data.mesh.defaultServiceExportTo", "must stand alone"),
        (
            "defaultVirtualServiceExportTo: ['~']",
            "data.mesh.defaultVirtualServiceExportTo",
            "for services only",
        ),
        ("caCertificates: [{pem: x}]", "data.mesh.caCertificates[0].pem", "is not a certificate"),
        ("caCertificates: [{}]", "data.mesh.caCertificates[0]", "is required"),
        (
            "caCertificates: [{spiffeBundleUrl: http://a}]",
            "data.mesh.caCertificates[0].spiffeBundleUrl",
            "https",
        ),
        ("extensionProviders: [{name: a}]", "data.mesh.extensionProviders[0]", "what kind"),
        ("extensionProviders: [{prometheus: {}}]", "data.mesh.extensionProviders[0]", "name is required"),
        (
            "extensionProviders: [{name: a, prometheus: {}, sds: {name: b, service: c, port: 1}}]",
            "data.mesh.extensionProviders[0]",
            "more than one kind",
        ),
        (
            "extensionProviders: [{name: a, prometheus: {}}, {name: a, prometheus: {}}]",
            "data.mesh.extensionProviders[1]",
            "used twice",
        ),
        (
            "extensionProviders: [{name: a, zipkin: {service: s}}]",
            "data.mesh.extensionProviders[0].zipkin",
            "port is required",
        ),
        (
            "extensionProviders: [{name: a, zipkin: {service: 'a b', port: 1}}]",
            "data.mesh.extensionProviders[0]",
            "is not HOST",
        ),
        (
            "extensionProviders: [{name: a, zipkin: {service: a, port: 1, accessToken: b}}]",
            "data.mesh.extensionProviders[0].zipkin.accessToken",
            "unknown field",
        ),
        (
            "extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: s, port: 1, statusOnError: abc}}]",
            "data.mesh.extensionProviders[0]",
            "is not an HTTP status",
        ),
        (
            "extensionProviders: [{name: a, envoyExtAuthzHttp: {service: s, port: 1, pathPrefix: abc}}]",
            "data.mesh.extensionProviders[0]",
            "begin with /",
        ),
        (
            "extensionProviders: [{name: a, opentelemetry: {service: s, port: 1, http: {}, grpc: {}}}]",
            "data.mesh.extensionProviders[0]",
            "only one of http and grpc",
        ),
        (
            "extensionProviders: [{name: a, envoyFileAccessLog: {}}]",
            "data.mesh.extensionProviders[0]",
            "path is required",
        ),
        (
            "defaultProviders: {tracing: [nobody]}",
            "data.mesh.defaultProviders.tracing[0]",
            "no provider \"nobody\"",
        ),
        (
            "discoverySelectors: [{matchExpressions: [{key: a, operator: In}]}]",
            "data.mesh.discoverySelectors[0].matchExpressions[0]",
            "values must not be empty",
        ),
        ("defaultConfig: {concurrency: two}", "data.mesh.defaultConfig.concurrency", "expected integer"),
        (
            "defaultConfig: {serviceCluster: a, tracingServiceName: CANONICAL_NAME_ONLY}",
            "data.mesh.defaultConfig.tracingServiceName",
            "combined",
        ),
        (
            "defaultConfig: {tracing: {zipkin: {}, datadog: {}}}",
            "data.mesh.defaultConfig.tracing",
            "one place",
        ),
        (
            "defaultConfig: {privateKeyProvider: {}}",
            "data.mesh.defaultConfig.privateKeyProvider",
            "cryptomb or qat",
        ),
        ("enableTracing: true\nenableTracing: true", "data.mesh.enableTracing", "given twice"),
    ];
    for (bad, field, reason) in rows {
        let (config, findings) = mesh(&format!("{bad}\n{rest}"));
        let found = findings
            .iter()
            .any(|it| it.level == Level::Error && it.field == *field && it.reason.contains(reason));
        assert!(found, "{bad}: wants {field}: {reason}, has {findings:#?}");
        assert_eq!(config.trust_domain.as_ref().map(TrustDomain::as_str), Some("kept.example"), "{bad}");
        assert_eq!(config.access_log_file.as_deref(), Some("/dev/stdout"), "{bad}");
        let aliases = usize::from(bad.starts_with("trustDomainAliases"));
        // An unknown field is no reason to do without the provider that has it.
        let kept = usize::from(reason.contains("twice") || reason.contains("unknown field"));
        let expected = MeshConfig {
            trust_domain: config.trust_domain.clone(),
            access_log_file: config.access_log_file.clone(),
            trust_domain_aliases: config.trust_domain_aliases.iter().take(aliases).cloned().collect(),
            extension_providers: config.extension_providers.iter().take(kept).cloned().collect(),
            enable_tracing: true,
            default_config: ProxyConfig {
                service_cluster: config.default_config.service_cluster.clone(),
                tracing: config.default_config.tracing.clone(),
                ..ProxyConfig::default()
            },
            ..MeshConfig::default()
        };
        assert_eq!(config, expected, "{bad}: the rest is at its default");
    }
    for (text, reason) in
        [("just text", "expected object"), ("a: [", "not valid YAML"), ("[]", "expected object")]
    {
        let (config, findings) = mesh(text);
        assert_eq!(config, MeshConfig::default());
        assert!(
            findings.iter().any(|it| it.field == "data.mesh" && it.reason.contains(reason)),
            "{findings:?}"
        );
    }
}

#[test]
fn many_bad_fields_cost_themselves_only() {
    let (config, findings) = mesh(
        "trustDomain: td\nconnectTimeout: x\ndnsRefreshRate: y\nenableTracing: 5\nextensionProviders: [{name: a}, {name: ok, prometheus: {}}]\nfoo: bar\n",
    );
    let errors: Vec<_> =
        findings.iter().filter(|it| it.level == Level::Error).map(|it| &it.field[..]).collect();
    assert_eq!(
        errors,
        [
            "data.mesh.connectTimeout",
            "data.mesh.dnsRefreshRate",
            "data.mesh.enableTracing",
            "data.mesh.extensionProviders[0]",
            "data.mesh.foo"
        ]
    );
    assert_eq!(config.trust_domain.as_ref().map(TrustDomain::as_str), Some("td"));
    assert_eq!(config.extension_providers.len(), 1);
}

#[test]
fn a_pods_settings_go_before_the_meshs() {
    let read = |text: &str| {
        let (config, findings) = ProxyConfig::parse_annotation(text, &origin());
        assert!(findings.iter().all(|it| it.level < Level::Error), "{findings:?}");
        config
    };
    let base = read(
        "{concurrency: 2, drainDuration: 45s, proxyMetadata: {A: a, B: b}, serviceCluster: x, proxyHeaders: {server: {value: s}, requestId: {disabled: true}}}",
    );
    let pod = read(
        "{concurrency: 0, proxyMetadata: {B: c}, tracingServiceName: CANONICAL_NAME_ONLY, proxyHeaders: {server: {disabled: true}}}",
    );
    let both = pod.or(base);
    assert_eq!(
        (both.concurrency, both.drain_duration.map(Duration::get)),
        (Some(0), Some(Time::from_secs(45)))
    );
    let metadata: Vec<_> = both.proxy_metadata.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(metadata, ["A=a", "B=c"]);
    assert_eq!(both.service_cluster, None, "the pod names the service in another way");
    let headers = both.proxy_headers.expect("given");
    assert_eq!(headers.server.map(|it| (it.disabled, it.value)), Some((Some(true), String::new())));
    assert_eq!(headers.request_id.and_then(|it| it.disabled), Some(true));
}

#[test]
fn an_annotation_cannot_cost_the_pod() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: {proxy.istio.io/config: '{concurency: 2, tracing: {}}'}}\nspec: {containers: [{name: c}]}\n";
    let parsed = crate::resource::rows::yaml(text);
    assert_eq!(parsed.objects.len(), 1);
    let lines: Vec<_> = parsed.findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "f.yaml:1 Warning metadata.annotations[\"proxy.istio.io/config\"].concurency: unknown field \"concurency\" (did you mean \"concurrency\"?)",
            "f.yaml:1 Warning metadata.annotations[\"proxy.istio.io/config\"].tracing: is not supported yet and changes nothing",
        ]
    );
}

#[test]
fn tokens_are_not_shown() {
    let config = good(
        "extensionProviders: [{name: a, lightstep: {service: s, port: 1, accessToken: hunter2}}]\ndefaultConfig: {tracing: {lightstep: {address: 'a:1', accessToken: hunter2}}}\n",
    );
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn hostile_settings_cost_little() {
    let many = |item: &str| format!("{item}, ").repeat(1_000_000 / (item.len() + 2));
    let cases = [
        ("bad aliases", format!("trustDomainAliases: [{}]", many("A"))),
        (
            "bad items of different lists",
            format!("extensionProviders: [{}]\ntrustDomainAliases: [A]", many("{name: a}")),
        ),
        ("providers of one name", format!("extensionProviders: [{}]", many("{name: a, prometheus: {}}"))),
        ("unknown providers", format!("defaultProviders: {{tracing: [{}]}}", many("x"))),
        ("selectors", format!("discoverySelectors: [{}]", many("{matchLabels: {a: b}}"))),
        ("nesting", format!("defaultConfig: {}", "{a: ".repeat(200_000))),
        ("too long", "#".repeat(1_100_000)),
    ];
    for (name, text) in cases {
        let start = Instant::now();
        let (_, findings) = mesh(&text);
        let took = start.elapsed();
        assert!(findings.len() <= 50 && !findings.is_empty(), "{name}: {}", findings.len());
        assert!(findings.iter().all(|finding| finding.to_string().len() < 2_000), "{name}");
        assert!(took < Time::from_secs(10), "{name} took {took:?}");
    }
}

fn given(tree: &Tree) -> BTreeSet<String> {
    let Tree::Map(entries) = tree else { panic!("a mapping") };
    entries.iter().map(|(key, _)| key.clone()).collect()
}

fn rows(rows: &[Row]) -> BTreeSet<String> {
    // Two ways to name the service exclude each other, so the file has one of them.
    rows.iter().map(|(field, ..)| (*field).to_owned()).filter(|field| field != "tracingServiceName").collect()
}

/// The fields that `T` asks its deserializer for.
fn fields<T: for<'de> Deserialize<'de>>() -> BTreeSet<&'static str> {
    let mut names = BTreeSet::new();
    let result = T::deserialize(Fields(&mut names));
    assert!(result.is_err(), "Fields gives no value");
    names
}

struct Fields<'a>(&'a mut BTreeSet<&'static str>);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("no struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.extend(fields);
        Err(de::Error::custom("only the fields are wanted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
