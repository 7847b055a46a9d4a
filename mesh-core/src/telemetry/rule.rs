//! One Telemetry, its expressions read.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::READ_REQUESTS;
use super::effective::Tag;
use super::expression::Expression;
use super::label::label_name;
use crate::log_service::LogService;
use crate::resource::Meta;
use crate::resource::mesh_config::MeshConfig;
use crate::resource::mesh_config::provider::{LogFormat, ProviderKind};
use crate::resource::telemetry::{AccessLogging, MetricMatch, Metrics, TagOverride, TelemetrySpec, Tracing};
use crate::trace::Collector;

#[derive(Debug, Clone)]
pub(super) struct Rule {
    namespace: Arc<str>,
    name: Arc<str>,
    created: Option<i64>,
    selector: Option<BTreeMap<String, String>>,
    targets: Vec<(String, String)>,
    /// What its annotation says.
    reads: Option<bool>,
    pub(super) spec: Arc<TelemetrySpec>,
    /// By their text; of those that cannot be read, the reason.
    expressions: BTreeMap<String, Result<Arc<Expression>, String>>,
}

impl Rule {
    pub(super) fn of(meta: &Meta, spec: &TelemetrySpec) -> Self {
        let targets = spec.target_ref.iter().chain(&spec.target_refs);
        let labels =
            spec.metrics.iter().flat_map(|it| &it.overrides).flat_map(|it| it.tag_overrides.values());
        let labels = labels.filter_map(|label| match label {
            TagOverride::Upsert(text) => Some(text),
            TagOverride::Remove => None,
        });
        let filters = spec.access_logging.iter().filter_map(|it| it.filter.as_ref());
        let filters = filters.map(|it| &it.expression).filter(|text| !text.trim().is_empty());
        let read = |text: &String| {
            let read = Expression::parse(text).map(Arc::new).map_err(|error| error.to_string());
            (text.clone(), read)
        };
        Self {
            namespace: Arc::clone(&meta.namespace),
            name: Arc::clone(&meta.name),
            created: meta.creation_timestamp,
            selector: spec.selector.as_ref().map(|it| it.match_labels.clone()),
            targets: targets.map(|it| (it.kind.clone(), it.name.clone())).collect(),
            reads: match meta.annotations.get(READ_REQUESTS).map(|it| &**it) {
                Some("enabled") => Some(true),
                Some("disabled") => Some(false),
                _ => None,
            },
            spec: Arc::new(spec.clone()),
            expressions: labels.chain(filters).map(read).collect(),
        }
    }

    /// By which the oldest is the first; one without an age is older than those that have one.
    pub(super) fn age(&self) -> (Option<i64>, &str, &str) {
        (self.created, &self.namespace, &self.name)
    }

    pub(super) fn is_in(&self, namespace: &str) -> bool {
        *self.namespace == *namespace
    }

    /// Whether it is for its whole namespace.
    pub(super) fn is_for_all(&self) -> bool {
        self.targets.is_empty() && self.selector.as_ref().is_none_or(BTreeMap::is_empty)
    }

    pub(super) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let all = |selector: &BTreeMap<String, String>| {
            !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        self.targets.is_empty() && self.selector.as_ref().is_some_and(all)
    }

    pub(super) fn targets(&self, kind: &str, is: impl Fn(&str) -> bool) -> bool {
        self.targets.iter().any(|(known, name)| known == kind && is(name))
    }

    /// Whether requests are to be read only for it. Whoever asks a namespace or a workload to be traced wants that; the mesh's
    /// is for whatever is read anyway, unless it says so.
    pub(super) fn reads_requests(&self, root: &str) -> Option<bool> {
        let traces = |it: &Tracing| it.disable_span_reporting != Some(true);
        let own = !self.is_in(root) || !self.is_for_all();
        self.reads.or_else(|| (own && self.spec.tracing.iter().any(traces)).then_some(true))
    }

    pub(super) fn expression(&self, text: &str) -> Option<&Arc<Expression>> {
        self.expressions.get(text).and_then(|it| it.as_ref().ok())
    }

    /// A label that says what cannot be read is left as it was.
    pub(super) fn tag(&self, change: &TagOverride) -> Option<Tag> {
        match change {
            TagOverride::Remove => Some(Tag::Remove),
            TagOverride::Upsert(text) => self.expression(text).map(|it| Tag::Set(Arc::clone(it))),
        }
    }

    /// What cannot be used.
    pub(super) fn notes(&self, mesh: &MeshConfig) -> Vec<String> {
        let say = |what: String| format!("Telemetry {}/{}: {what}", self.namespace, self.name);
        let unread = self
            .expressions
            .iter()
            .filter_map(|(text, read)| Some(format!("{text:?} changes nothing: {}", read.as_ref().err()?)));
        let spans = self.spec.tracing.iter().filter_map(|it| it.providers.first());
        let spans = spans.filter_map(|it| Collector::find(mesh, &it.name).err());
        let spans = spans.map(|error| format!("no spans are sent: {error}"));
        let logs = self.spec.access_logging.iter().flat_map(|it: &AccessLogging| &it.providers);
        let logs = logs.filter(|it| LogProvider::find(mesh, &it.name).is_none());
        let logs = logs.map(|it| {
            format!("access logs are not sent to {}: it is no provider of them that this mesh knows", it.name)
        });
        let metrics = self.spec.metrics.iter().flat_map(|it: &Metrics| &it.providers);
        let metrics = metrics.filter(|it| !is_prometheus(mesh, &it.name));
        let metrics = metrics.map(|it| format!("metrics are not sent to {}: it is no prometheus", it.name));
        let custom =
            self.spec.metrics.iter().flat_map(|it| &it.overrides).filter_map(|it| match &it.r#match.metric {
                MetricMatch::Custom(name) => Some(format!("there is no metric {name}")),
                _ => None,
            });
        let named =
            self.spec.metrics.iter().flat_map(|it| &it.overrides).flat_map(|it| it.tag_overrides.keys());
        let named = named.filter_map(|name| Some((name, label_name(name).err()?)));
        let named = named.map(|(name, error)| format!("metrics have no label {name:?}: {error}"));
        let waits = self.spec.metrics.iter().any(|it| it.reporting_interval.is_some());
        let waits = waits.then(|| WAITS_FOR_NOTHING.to_owned());
        unread
            .chain(spans)
            .chain(logs)
            .chain(metrics)
            .chain(custom)
            .chain(named)
            .chain(waits)
            .map(say)
            .collect()
    }
}

/// What access logs go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LogProvider {
    /// The proxy's own log, with a format if it has one.
    File(Option<Arc<LogFormat>>),
    /// A service.
    Service(Arc<LogService>),
}

impl LogProvider {
    /// The provider of this name, if this mesh writes access logs to it. Istio has one called `envoy`.
    pub(super) fn find(mesh: &MeshConfig, name: &str) -> Option<Self> {
        let Some(known) = mesh.extension_providers.iter().find(|it| it.name == name) else {
            return (name == "envoy").then_some(Self::File(None));
        };
        if let ProviderKind::FileAccessLog(file) = &known.kind {
            let format = file.log_format.as_ref().filter(|it| it.text.is_some() || it.labels.is_some());
            return Some(Self::File(format.cloned().map(Arc::new)));
        }
        LogService::of(known).map(Arc::new).map(Self::Service)
    }
}

/// Whether a provider of this name fetches metrics. Istio has one called `prometheus`.
pub(super) fn is_prometheus(mesh: &MeshConfig, name: &str) -> bool {
    let known = mesh.extension_providers.iter().find(|it| it.name == name);
    known.map_or(name == "prometheus", |it| matches!(it.kind, ProviderKind::Prometheus))
}

/// What becomes of `reportingInterval`.
const WAITS_FOR_NOTHING: &str =
    "reportingInterval changes nothing: metrics of connections are brought up to date every 5 s";
