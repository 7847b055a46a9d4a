//! `telemetry.istio.io` Telemetry: what is reported about requests, and where to.
//!
//! What is absent here is inherited: from the namespace's Telemetry, then the mesh's, then `MeshConfig`. So absent is
//! not the same as the default, and stays visible.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::security::{PolicyTargetReference, WorkloadSelector};
use super::strict::Invalid;
use super::value::{Duration, Percent};

/// `Telemetry.spec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-validations" = [{"rule": "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1", "message": "only one of selector, targetRef and targetRefs may be given"}])))]
#[serde(rename_all = "camelCase", default)]
pub struct TelemetrySpec {
    /// The workloads it is for; absent means the whole namespace, or the whole mesh in the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// The older, single form of [`Self::target_refs`].
    pub target_ref: Option<PolicyTargetReference>,
    /// The gateways, waypoints or services it is for, at most 16; excludes a selector.
    #[cfg_attr(feature = "schema", schemars(length(max = 16)))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// Spans. Of more than one entry with the same mode the first counts.
    pub tracing: Vec<Tracing>,
    /// Metrics, applied in order.
    pub metrics: Vec<Metrics>,
    /// Access logs, applied in order.
    pub access_logging: Vec<AccessLogging>,
}

/// Names a provider of `MeshConfig.extensionProviders`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProviderRef {
    /// Its name there.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub name: String,
}

/// Which side of a request reports it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WorkloadMode {
    /// Both.
    #[default]
    ClientAndServer,
    /// The one that sends it.
    Client,
    /// The one that answers it.
    Server,
}

/// Which side an entry is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct ModeSelector {
    /// Absent means both.
    pub mode: WorkloadMode,
}

/// How spans are made and where they go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// Which side it is for.
    pub r#match: ModeSelector,
    /// Where spans go; of more than one the first counts.
    pub providers: Vec<ProviderRef>,
    /// How many of the requests that nobody has decided about yet are traced.
    pub random_sampling_percentage: Option<Percent>,
    /// Whether no spans are sent. Headers are passed on even so.
    pub disable_span_reporting: Option<bool>,
    /// Tags to put on each span; they take the place of inherited ones.
    pub custom_tags: BTreeMap<String, CustomTag>,
    /// Whether the decision is read off the request's id.
    pub use_request_id_for_trace_sampling: Option<bool>,
    /// Whether Istio's own tags are put on each span.
    pub enable_istio_tags: Option<bool>,
    /// Whether headers that carry the trace are left as they came.
    pub disable_context_propagation: Option<bool>,
}

/// Where a tag's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(with = "RawCustomTag"))]
#[serde(try_from = "RawCustomTag")]
pub enum CustomTag {
    /// It is this.
    Literal(String),
    /// It is that of a variable of the proxy's environment.
    Environment {
        /// The variable.
        name: String,
        /// If there is none; absent leaves the tag out.
        default_value: String,
    },
    /// It is that of a request header.
    Header {
        /// The header.
        name: String,
        /// If there is none; absent leaves the tag out.
        default_value: String,
    },
    /// It is made by an access-log format string.
    Formatter(String),
    /// Nothing is given: the tag has no value and is left out.
    Unset,
}

/// How metrics are made and where they go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Metrics {
    /// Where they go; none means the inherited ones.
    pub providers: Vec<ProviderRef>,
    /// Changes to what is made, applied in order.
    pub overrides: Vec<MetricsOverride>,
    /// How often TCP metrics are brought up to date while a connection lasts; absent means 5 s.
    pub reporting_interval: Option<Duration>,
}

/// A change to metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsOverride {
    /// Which metrics; absent means all.
    pub r#match: MetricSelector,
    /// Whether they are not made.
    pub disabled: Option<bool>,
    /// Changes to their labels, by the label's name.
    pub tag_overrides: BTreeMap<String, TagOverride>,
}

/// Chooses metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(with = "RawMetricSelector"))]
#[serde(try_from = "RawMetricSelector")]
pub struct MetricSelector {
    /// Which ones.
    pub metric: MetricMatch,
    /// Of which side.
    pub mode: WorkloadMode,
}

/// One metric, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum MetricMatch {
    /// All there are.
    #[default]
    All,
    /// One of Istio's.
    Standard(Metric),
    /// One that has another name.
    Custom(String),
}

/// Istio's metrics, by what follows `istio_` in their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are the names of the metrics")]
pub enum Metric {
    RequestCount,
    RequestDuration,
    RequestSize,
    ResponseSize,
    TcpOpenedConnections,
    TcpClosedConnections,
    TcpSentBytes,
    TcpReceivedBytes,
    GrpcRequestMessages,
    GrpcResponseMessages,
}

/// A change to a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(with = "RawTagOverride"))]
#[serde(try_from = "RawTagOverride")]
pub enum TagOverride {
    /// It gets the value of this CEL expression.
    Upsert(String),
    /// It is left out.
    Remove,
}

/// Which requests are logged and where to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct AccessLogging {
    /// Which side it is for.
    pub r#match: ModeSelector,
    /// Where lines go; none means the inherited ones.
    pub providers: Vec<ProviderRef>,
    /// Whether nothing is logged.
    pub disabled: Option<bool>,
    /// Only requests that this holds for.
    pub filter: Option<LogFilter>,
}

/// Chooses requests to log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct LogFilter {
    /// A CEL expression; parsing does not look inside.
    pub expression: String,
}

/// As users write [`CustomTag`].
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct RawCustomTag {
    literal: Option<RawText>,
    environment: Option<RawVariable>,
    header: Option<RawVariable>,
    formatter: Option<RawText>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct RawText {
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    value: String,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
struct RawVariable {
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    name: String,
    #[serde(default)]
    default_value: String,
}

impl TryFrom<RawCustomTag> for CustomTag {
    type Error = Invalid;

    fn try_from(raw: RawCustomTag) -> Result<Self, Invalid> {
        let given = [
            ("literal", raw.literal.is_some()),
            ("environment", raw.environment.is_some()),
            ("header", raw.header.is_some()),
            ("formatter", raw.formatter.is_some()),
        ];
        if let Some((second, _)) = given.into_iter().filter(|(_, given)| *given).nth(1) {
            return Err(Invalid::new("a tag has one source").field(second).hint("remove all but one"));
        }
        let text = |text: RawText| named("value", text.value);
        let variable = |it: RawVariable| named("name", it.name).map(|name| (name, it.default_value));
        Ok(match (raw.literal, raw.environment, raw.header, raw.formatter) {
            (Some(literal), ..) => Self::Literal(text(literal)?),
            (_, Some(environment), ..) => {
                let (name, default_value) = variable(environment)?;
                Self::Environment { name, default_value }
            }
            (_, _, Some(header), _) => {
                let (name, default_value) = variable(header)?;
                Self::Header { name, default_value }
            }
            (.., Some(formatter)) => Self::Formatter(text(formatter)?),
            (None, None, None, None) => Self::Unset,
        })
    }
}

fn named(field: &str, text: String) -> Result<String, Invalid> {
    if text.is_empty() { Err(Invalid::new(format!("{field} must not be empty"))) } else { Ok(text) }
}

/// As users write [`MetricSelector`].
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("not" = {"required": ["metric", "customMetric"]})))]
#[serde(rename_all = "camelCase")]
struct RawMetricSelector {
    metric: Option<RawMetric>,
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    custom_metric: Option<String>,
    #[serde(default)]
    mode: WorkloadMode,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum RawMetric {
    AllMetrics,
    RequestCount,
    RequestDuration,
    RequestSize,
    ResponseSize,
    TcpOpenedConnections,
    TcpClosedConnections,
    TcpSentBytes,
    TcpReceivedBytes,
    GrpcRequestMessages,
    GrpcResponseMessages,
}

impl TryFrom<RawMetricSelector> for MetricSelector {
    type Error = Invalid;

    fn try_from(raw: RawMetricSelector) -> Result<Self, Invalid> {
        let metric = match (raw.metric, raw.custom_metric) {
            (Some(_), Some(_)) => {
                return Err(Invalid::new("cannot be combined with metric").field("customMetric"));
            }
            (Some(metric), None) => metric.into(),
            (None, Some(name)) if name.is_empty() => {
                return Err(Invalid::new("must not be empty").field("customMetric"));
            }
            (None, Some(name)) => MetricMatch::Custom(name),
            (None, None) => MetricMatch::All,
        };
        Ok(Self { metric, mode: raw.mode })
    }
}

impl From<RawMetric> for MetricMatch {
    fn from(raw: RawMetric) -> Self {
        Self::Standard(match raw {
            RawMetric::AllMetrics => return Self::All,
            RawMetric::RequestCount => Metric::RequestCount,
            RawMetric::RequestDuration => Metric::RequestDuration,
            RawMetric::RequestSize => Metric::RequestSize,
            RawMetric::ResponseSize => Metric::ResponseSize,
            RawMetric::TcpOpenedConnections => Metric::TcpOpenedConnections,
            RawMetric::TcpClosedConnections => Metric::TcpClosedConnections,
            RawMetric::TcpSentBytes => Metric::TcpSentBytes,
            RawMetric::TcpReceivedBytes => Metric::TcpReceivedBytes,
            RawMetric::GrpcRequestMessages => Metric::GrpcRequestMessages,
            RawMetric::GrpcResponseMessages => Metric::GrpcResponseMessages,
        })
    }
}

/// As users write [`TagOverride`].
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct RawTagOverride {
    #[serde(default)]
    operation: RawOperation,
    value: Option<String>,
}

#[derive(Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
enum RawOperation {
    #[default]
    Upsert,
    Remove,
}

impl TryFrom<RawTagOverride> for TagOverride {
    type Error = Invalid;

    fn try_from(raw: RawTagOverride) -> Result<Self, Invalid> {
        match (raw.operation, raw.value.filter(|value| !value.is_empty())) {
            (RawOperation::Upsert, Some(value)) => Ok(Self::Upsert(value)),
            (RawOperation::Upsert, None) => Err(Invalid::new("value is required for UPSERT, the default")),
            (RawOperation::Remove, None) => Ok(Self::Remove),
            (RawOperation::Remove, Some(_)) => Err(Invalid::new("is not for REMOVE").field("value")),
        }
    }
}

#[cfg(test)]
mod tests;
