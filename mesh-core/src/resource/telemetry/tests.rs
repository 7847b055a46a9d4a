use std::time::Duration as Time;

use super::*;
use crate::resource::rows::{assert_rows, yaml};
use crate::resource::{Level, Spec};

fn document(spec: &str) -> String {
    format!("apiVersion: telemetry.istio.io/v1alpha1\nkind: Telemetry\nmetadata: {{name: x}}\nspec: {spec}\n")
}

#[test]
#[expect(clippy::too_many_lines, reason = "a document with every field, and what becomes of each")]
fn every_field_is_read() {
    let parsed = yaml(&document(
        "
  selector: {matchLabels: {app: web}}
  tracing:
  - match: {mode: SERVER}
    providers: [{name: otel}]
    randomSamplingPercentage: 12.5
    disableSpanReporting: true
    useRequestIdForTraceSampling: false
    enableIstioTags: false
    disableContextPropagation: true
    customTags:
      a: {literal: {value: x}}
      b: {environment: {name: HOME, defaultValue: /}}
      c: {header: {name: x-id}}
      d: {formatter: {value: '%REQ(:PATH)%'}}
      e: {}
  metrics:
  - providers: [{name: prometheus}]
    reportingInterval: 10s
    overrides:
    - match: {metric: REQUEST_COUNT, mode: CLIENT}
      disabled: false
      tagOverrides: {path: {value: request.path}, old: {operation: REMOVE}}
    - match: {customMetric: mine}
    - match: {metric: ALL_METRICS}
      disabled: true
    - {}
  accessLogging:
  - match: {mode: CLIENT}
    providers: [{name: envoy}]
    disabled: false
    filter: {expression: response.code >= 400}
",
    ));
    let fields: Vec<_> = parsed.findings.iter().map(|it| it.field.clone()).collect();
    assert_eq!(
        fields,
        ["spec.metrics[0].reportingInterval", "spec.metrics[0].overrides[1].match.customMetric"]
    );
    let Spec::Telemetry(spec) = &parsed.objects[0].spec else { panic!("kind") };
    let tracing = &spec.tracing[0];
    assert_eq!(tracing.r#match.mode, WorkloadMode::Server);
    assert_eq!(tracing.random_sampling_percentage.map(Percent::parts_per_million), Some(125_000));
    assert_eq!((tracing.disable_span_reporting, tracing.enable_istio_tags), (Some(true), Some(false)));
    let tags: Vec<_> = tracing.custom_tags.values().cloned().collect();
    assert_eq!(
        tags,
        [
            CustomTag::Literal("x".into()),
            CustomTag::Environment { name: "HOME".into(), default_value: "/".into() },
            CustomTag::Header { name: "x-id".into(), default_value: String::new() },
            CustomTag::Formatter("%REQ(:PATH)%".into()),
            CustomTag::Unset,
        ]
    );
    let metrics = &spec.metrics[0];
    assert_eq!(metrics.reporting_interval.map(Duration::get), Some(Time::from_secs(10)));
    let matched: Vec<_> = metrics.overrides.iter().map(|it| it.r#match.metric.clone()).collect();
    assert_eq!(
        matched,
        [
            MetricMatch::Standard(Metric::RequestCount),
            MetricMatch::Custom("mine".into()),
            MetricMatch::All,
            MetricMatch::All
        ]
    );
    assert_eq!(metrics.overrides[0].tag_overrides["path"], TagOverride::Upsert("request.path".into()));
    assert_eq!(metrics.overrides[0].tag_overrides["old"], TagOverride::Remove);
    assert_eq!((metrics.overrides[0].disabled, metrics.overrides[3].disabled), (Some(false), None));
    let logging = &spec.access_logging[0];
    assert_eq!(logging.filter.as_ref().map(|it| &it.expression[..]), Some("response.code >= 400"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, one row per rule")]
fn rules_are_checked() {
    use Level::{Error, Warning};
    assert_rows(
        document,
        &[
            (
                "{tracing: [{providers: [{name: ''}]}]}",
                Error,
                "spec.tracing[0].providers[0].name",
                "must not be empty",
            ),
            (
                "{tracing: [{providers: [{}]}]}",
                Error,
                "spec.tracing[0].providers[0]",
                "the field name is required",
            ),
            (
                "{tracing: [{providers: [{name: a}, {name: b}]}]}",
                Warning,
                "spec.tracing[0].providers[1]",
                "one provider",
            ),
            ("{tracing: [{}, {}]}", Warning, "spec.tracing[1]", "only the first counts"),
            (
                "{tracing: [{match: {mode: BOTH}}]}",
                Error,
                "spec.tracing[0].match.mode",
                "unknown value \"BOTH\"",
            ),
            (
                "{tracing: [{randomSamplingPercentage: 101}]}",
                Error,
                "spec.tracing[0].randomSamplingPercentage",
                "no percentage",
            ),
            (
                "{tracing: [{customTags: {a: {literal: {value: x}, header: {name: y}}}}]}",
                Error,
                "spec.tracing[0].customTags.a.header",
                "one source",
            ),
            (
                "{tracing: [{customTags: {a: {literal: {value: ''}}}}]}",
                Error,
                "spec.tracing[0].customTags.a",
                "value must not be empty",
            ),
            (
                "{tracing: [{customTags: {a: {header: {}}}}]}",
                Error,
                "spec.tracing[0].customTags.a.header",
                "the field name is required",
            ),
            (
                "{tracing: [{customTags: {'': {literal: {value: x}}}}]}",
                Error,
                "spec.tracing[0].customTags[\"\"]",
                "must have a name",
            ),
            (
                "{metrics: [{overrides: [{match: {metric: REQUESTS}}]}]}",
                Error,
                "spec.metrics[0].overrides[0].match.metric",
                "unknown value",
            ),
            (
                "{metrics: [{overrides: [{match: {metric: REQUEST_SIZE, customMetric: a}}]}]}",
                Error,
                "spec.metrics[0].overrides[0].match.customMetric",
                "cannot be combined",
            ),
            (
                "{metrics: [{overrides: [{match: {customMetric: ''}}]}]}",
                Error,
                "spec.metrics[0].overrides[0].match.customMetric",
                "must not be empty",
            ),
            (
                "{metrics: [{overrides: [{tagOverrides: {a: {}}}]}]}",
                Error,
                "spec.metrics[0].overrides[0].tagOverrides.a",
                "value is required for UPSERT",
            ),
            (
                "{metrics: [{overrides: [{tagOverrides: {a: {operation: REMOVE, value: x}}}]}]}",
                Error,
                "spec.metrics[0].overrides[0].tagOverrides.a.value",
                "is not for REMOVE",
            ),
            (
                "{metrics: [{overrides: [{tagOverrides: {'': {value: x}}}]}]}",
                Error,
                "spec.metrics[0].overrides[0].tagOverrides[\"\"]",
                "must have a name",
            ),
            (
                "{metrics: [{overrides: [{tagOverrides: {le: {value: request.path}}}]}]}",
                Error,
                "spec.metrics[0].overrides[0].tagOverrides.le",
                "Prometheus keeps the name le for itself",
            ),
            (
                "{metrics: [{overrides: [{tagOverrides: {__name__: {operation: REMOVE}}}]}]}",
                Error,
                "spec.metrics[0].overrides[0].tagOverrides.__name__",
                "Prometheus keeps the name __* for itself",
            ),
            (
                "{metrics: [{overrides: [{tagOverrides: {'a-b': {value: request.path}}}]}]}",
                Warning,
                "spec.metrics[0].overrides[0].tagOverrides.a-b",
                "is called a_b in metrics",
            ),
            (
                "{metrics: [{overrides: [{match: {customMetric: mine}}]}]}",
                Warning,
                "spec.metrics[0].overrides[0].match.customMetric",
                "there is no metric mine",
            ),
            ("{metrics: [{reportingInterval: 1us}]}", Error, "spec.metrics[0].reportingInterval", ""),
            (
                "{metrics: [{reportingInterval: 10s}]}",
                Warning,
                "spec.metrics[0].reportingInterval",
                "changes nothing",
            ),
            (
                "{accessLogging: [{providers: [{name: ''}]}]}",
                Error,
                "spec.accessLogging[0].providers[0].name",
                "must not be empty",
            ),
            (
                "{accessLogging: [{filter: {expression: ''}}]}",
                Warning,
                "spec.accessLogging[0].filter.expression",
                "nothing is filtered",
            ),
            ("{accesLogging: []}", Error, "spec.accesLogging", "unknown field"),
            (
                "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: s}]}",
                Error,
                "spec",
                "only one of",
            ),
        ],
    );
}

#[test]
fn proxy_configs_are_read_and_checked() {
    let document = |spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1beta1\nkind: ProxyConfig\nmetadata: {{name: x}}\nspec: {spec}\n"
        )
    };
    let parsed = yaml(&document(
        "{selector: {matchLabels: {a: b}}, concurrency: 0, environmentVariables: {A: b}, image: {imageType: debug}}",
    ));
    let Spec::ProxyConfig(spec) = &parsed.objects[0].spec else { panic!("kind") };
    assert_eq!((spec.concurrency, &spec.environment_variables["A"][..]), (Some(0), "b"));
    assert_eq!(spec.image.as_ref().map(|it| &it.image_type[..]), Some("debug"));
    let [finding] = &parsed.findings[..] else { panic!("{:?}", parsed.findings) };
    assert!(finding.level == Level::Warning && finding.reason.contains("has no effect"), "{finding}");
    assert_rows(
        document,
        &[
            ("{concurrency: -1}", Level::Error, "spec.concurrency", "out of range"),
            (
                &format!("{{environmentVariables: {{A: {}}}}}", "x".repeat(2049)),
                Level::Error,
                "spec.environmentVariables.A",
                "more than 2048",
            ),
            ("{selector: {}}", Level::Warning, "spec.selector", "selects every workload"),
            ("{environment: {}}", Level::Error, "spec.environment", "unknown field"),
        ],
    );
}
