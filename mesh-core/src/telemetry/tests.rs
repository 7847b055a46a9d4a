use super::*;
use crate::model::{CompileOptions, compile};
use crate::resource::telemetry::Metric;
use crate::resource::{SourceFile, parse};

fn telemetries(text: &str) -> (Telemetries, Snapshot) {
    let objects = parse(&SourceFile { name: "mesh.yaml", text }).objects;
    let snapshot = compile(&objects, &CompileOptions::default()).snapshot;
    (Telemetries::of(&snapshot), snapshot)
}

fn labels(app: &str) -> BTreeMap<String, String> {
    [("app".to_owned(), app.to_owned())].into()
}

const MESH: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - {name: z, zipkin: {service: zipkin.istio-system.svc.cluster.local, port: 9411}}
    - {name: o, opentelemetry: {service: otel.istio-system.svc.cluster.local, port: 4317}}
    - {name: file, envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: '%PROTOCOL%'}}}
    - {name: dd, datadog: {service: dd, port: 8126}}
    defaultConfig: {tracing: {sampling: 10}}
---
";

fn telemetry(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}\n---\n"
    )
}

#[test]
fn the_nearest_says_most_and_leaves_the_rest() {
    let text = [
        MESH.to_owned(),
        telemetry("istio-system", "mesh", "{tracing: [{providers: [{name: z}], customTags: {a: {literal: {value: x}}}, randomSamplingPercentage: 20}]}"),
        telemetry("shop", "all", "{tracing: [{randomSamplingPercentage: 50}]}"),
        telemetry("shop", "web", "{selector: {matchLabels: {app: web}}, tracing: [{match: {mode: SERVER}, providers: [{name: o}], customTags: {b: {literal: {value: y}}}}]}"),
        telemetry("quiet", "all", "{tracing: [{disableSpanReporting: true}]}"),
    ]
    .concat();
    let (all, _) = telemetries(&text);
    let of = |namespace: &str, app: &str, side| {
        let tracing = all.effective(all.of_workload(namespace, &labels(app)), side).tracing.unwrap();
        let name = tracing.collector.map(|it| it.to.name.to_string());
        let tags: String = tracing.tags.iter().map(|(name, _)| name.as_str()).collect();
        (name, tracing.sampling.parts_per_million() / 10_000, tags)
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(of("other", "web", Side::Client), (some("z"), 20, "a".to_owned()));
    assert_eq!(of("shop", "db", Side::Server), (some("z"), 50, "a".to_owned()));
    assert_eq!(of("shop", "web", Side::Client), (some("z"), 50, "a".to_owned()), "its own is for servers");
    assert_eq!(of("shop", "web", Side::Server), (some("o"), 50, "b".to_owned()));
    assert_eq!(of("quiet", "web", Side::Server), (None, 20, "a".to_owned()));
}

#[test]
fn without_anybody_who_asks_for_spans_there_are_none() {
    let (all, _) = telemetries(MESH);
    let of = |all: &Telemetries| all.effective(all.of_workload("shop", &labels("web")), Side::Client).tracing;
    assert_eq!(of(&all), None);
    let (all, _) =
        telemetries(&MESH.replace("sampling: 10", "zipkin: {address: 'zipkin.istio-system:9411'}"));
    let tracing = of(&all).unwrap();
    assert_eq!(tracing.sampling.parts_per_million(), 10_000, "1 %");
    assert!(tracing.collector.is_some());
    let unsupported = telemetry("istio-system", "mesh", "{tracing: [{providers: [{name: dd}]}]}");
    let (all, _) = telemetries(&[MESH, &unsupported].concat());
    assert_eq!(of(&all).unwrap().collector, None);
    assert_eq!(
        all.notes(),
        ["Telemetry istio-system/mesh: no spans are sent: provider dd is neither zipkin nor opentelemetry"]
    );
}

#[test]
fn overrides_of_metrics_are_applied_one_after_the_other() {
    let text = [
        telemetry(
            "istio-system",
            "mesh",
            "{metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {host: {value: request.host}, source_app: {operation: REMOVE}}}, {match: {metric: REQUEST_SIZE, mode: CLIENT}, disabled: true}]}]}",
        ),
        telemetry("shop", "all", "{metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {host: {operation: REMOVE}}}, {tagOverrides: {bad.name: {value: '('}}}]}]}"),
        telemetry("sly", "all", "{metrics: [{reportingInterval: 9s, overrides: [{match: {customMetric: mine}}]}]}"),
        telemetry("off", "all", "{metrics: [{overrides: [{disabled: true}]}]}"),
    ]
    .concat();
    let (all, _) = telemetries(&text);
    let of = |namespace: &str, side| all.effective(all.of_workload(namespace, &labels("web")), side);
    let client = of("other", Side::Client);
    assert!(!client.has_usual_metrics());
    let [counted, rest] = &client.metrics[..] else { panic!("{client:?}") };
    assert!(counted.metrics.has(Metric::RequestCount) && !counted.metrics.has(Metric::RequestSize));
    assert_eq!(counted.tags["source_app"], Tag::Remove);
    assert!(matches!(&counted.tags["host"], Tag::Set(_)));
    assert!(rest.metrics.has(Metric::ResponseSize) && !rest.metrics.has(Metric::RequestSize));
    assert!(of("other", Side::Server).metrics[1].metrics.has(Metric::RequestSize));
    let shop = of("shop", Side::Client);
    assert_eq!(shop.metrics[0].tags["host"], Tag::Remove);
    assert!(!shop.metrics[1].tags.contains_key("bad_name"), "what cannot be read changes nothing");
    assert_eq!(of("off", Side::Client).metrics, []);
    let notes = all.notes().join("\n");
    for expected in [
        "Telemetry shop/all: \"(\" changes nothing: ",
        "Telemetry sly/all: there is no metric mine",
        "Telemetry sly/all: reportingInterval changes nothing",
    ] {
        assert!(notes.contains(expected), "{notes}");
    }
}

#[test]
fn logs_are_filtered_and_have_formats_of_their_own() {
    let text = [
        MESH.to_owned(),
        telemetry(
            "istio-system",
            "mesh",
            "{accessLogging: [{providers: [{name: envoy}], filter: {expression: 'response.code >= 400'}}]}",
        ),
        telemetry("shop", "all", "{accessLogging: [{providers: [{name: file}]}]}"),
        telemetry("off", "all", "{accessLogging: [{disabled: true, match: {mode: CLIENT}}]}"),
        telemetry("else", "all", "{accessLogging: [{disabled: true, providers: [{name: dd}]}]}"),
    ]
    .concat();
    let (all, _) = telemetries(&text);
    let of = |namespace: &str, side| all.effective(all.of_workload(namespace, &labels("web")), side).log;
    assert!(of("other", Side::Client).filter.is_some());
    let shop = of("shop", Side::Client);
    assert_eq!(shop.filter, None, "the nearest entry says it anew");
    assert_eq!(shop.format.unwrap().text.as_deref(), Some("%PROTOCOL%"));
    assert!(of("off", Side::Client).disabled && !of("off", Side::Server).disabled);
    assert!(!of("else", Side::Client).disabled);
    assert_eq!(all.notes().len(), 1, "{:?}", all.notes());
}

#[test]
fn logs_go_to_the_services_that_the_nearest_names() {
    let services = "    - {name: als, envoyHttpAls: {service: als.logs.svc.cluster.local, port: 9001}}
    - {name: otel, envoyOtelAls: {service: otel.logs.svc.cluster.local, port: 4317}}
    defaultProviders: {accessLogging: [als, envoy]}
";
    let mesh = MESH.replace("    defaultConfig", &format!("{services}    defaultConfig"));
    let text = [
        mesh.clone(),
        telemetry("shop", "all", "{accessLogging: [{providers: [{name: otel}], filter: {expression: 'response.code >= 400'}}]}"),
        telemetry("both", "all", "{accessLogging: [{providers: [{name: otel}, {name: otel}, {name: file}]}, {match: {mode: CLIENT}, providers: [{name: otel}], disabled: true}]}"),
        telemetry("filtered", "all", "{accessLogging: [{filter: {expression: 'response.code >= 500'}}]}"),
        telemetry("off", "all", "{accessLogging: [{disabled: true}]}"),
    ]
    .concat();
    let (all, _) = telemetries(&text);
    let of = |namespace: &str, side| {
        let log = all.effective(all.of_workload(namespace, &labels("web")), side).log;
        let name =
            |it: &ToService| format!("{}{}", it.service.to.name, if it.filter.is_some() { "?" } else { "" });
        (log.disabled, log.services.iter().map(name).collect::<Vec<_>>().join(" "))
    };
    let is = |disabled, services: &str| (disabled, services.to_owned());
    assert_eq!(of("other", Side::Client), is(false, "als"), "the mesh's");
    assert_eq!(of("shop", Side::Client), is(true, "otel?"), "instead of the mesh's");
    assert_eq!(of("both", Side::Server), is(false, "otel"), "once, however often it is named");
    assert_eq!(of("both", Side::Client), is(false, ""));
    assert_eq!(of("filtered", Side::Server), is(false, "als?"), "who names none means those there are");
    assert_eq!(of("off", Side::Server), is(true, ""));
    assert_eq!(all.notes(), Vec::<String>::new());
    let (alone, _) = telemetries(&mesh);
    assert!(!alone.is_empty(), "the mesh's own services are told of connections");
    assert!(telemetries(MESH).0.is_empty());
}

#[test]
fn waypoints_and_gateways_are_named_and_only_gateways_are_selected() {
    let text = [
        telemetry("shop", "by-label", "{selector: {matchLabels: {app: web}}, accessLogging: [{disabled: true}]}"),
        telemetry("shop", "by-name", "{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: way}], metrics: [{overrides: [{disabled: true}]}]}"),
        telemetry("shop", "of-service", "{targetRefs: [{kind: Service, group: '', name: web}], tracing: [{randomSamplingPercentage: 7}]}"),
        "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80}]}}".to_owned(),
    ]
    .concat();
    let (all, snapshot) = telemetries(&text);
    let web = snapshot.services().next().unwrap();
    let way = all.effective(all.of_waypoint(("shop", "way"), Some(web)), Side::Server);
    assert!(way.metrics.is_empty() && way.tracing.is_some() && !way.log.disabled);
    let other = all.effective(all.of_waypoint(("shop", "other"), None), Side::Server);
    assert_eq!(other, Effective::default());
    assert!(all.effective(all.of_workload("shop", &labels("web")), Side::Server).log.disabled);
    let own = crate::own::Sightings::of("shop", "gate", labels("web")).own();
    assert!(all.effective(all.of_gateway(&own), Side::Client).log.disabled);
}

#[test]
fn requests_are_read_where_somebody_wants_them_told() {
    let traced = telemetry("shop", "all", "{tracing: [{randomSamplingPercentage: 7}]}");
    let mesh = telemetry("istio-system", "mesh", "{tracing: [{randomSamplingPercentage: 7}]}");
    let told = mesh.replace("name: mesh", "name: mesh, annotations: {mesh.internal/l7-telemetry: enabled}");
    let off = traced.replace("name: all", "name: all, annotations: {mesh.internal/l7-telemetry: disabled}");
    let pod = |label: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: shop, labels: {{{label}}}}}, spec: {{nodeName: n, containers: [{{name: c}}]}}, status: {{podIP: 10.0.0.1}}}}"
        )
    };
    for (telemetry, label, expected) in [
        ("", "a: b", false),
        ("", "mesh.internal/l7-telemetry: enabled", true),
        (&*traced, "a: b", true),
        (&*traced, "mesh.internal/l7-telemetry: disabled", false),
        (&*mesh, "a: b", false),
        (&*told, "a: b", true),
        (&*[told.clone(), off.clone()].concat(), "a: b", false),
    ] {
        let options = CompileOptions { node: "n".into(), ..CompileOptions::default() };
        let text = [telemetry, &pod(label)].concat();
        let objects = parse(&SourceFile { name: "mesh.yaml", text: &text }).objects;
        let snapshot = compile(&objects, &options).snapshot;
        let workload = snapshot.workloads().next().unwrap();
        assert_eq!(Telemetries::of(&snapshot).reads_requests(workload), expected, "{telemetry} {label}");
    }
}
