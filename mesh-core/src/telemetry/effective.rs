//! What Telemetries that are for one workload come to together.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Side;
use super::expression::Expression;
use super::label::label_name;
use super::rule::{LogProvider, Rule, is_prometheus};
use crate::log_service::LogService;
use crate::resource::mesh_config::MeshConfig;
use crate::resource::mesh_config::provider::LogFormat;
use crate::resource::telemetry::{AccessLogging, CustomTag, Metric, MetricMatch, ProviderRef, WorkloadMode};
use crate::resource::value::Percent;
use crate::trace::{Collector, Forms};

/// What is told about one side of the requests of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Spans; `None` leaves the headers that carry traces as they came.
    pub tracing: Option<Tracing>,
    /// Metrics that are alike, and how they differ from the usual; none of a group are made.
    pub metrics: Vec<Group>,
    /// Lines of the access log.
    pub log: Log,
}

/// How spans are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    /// Where they go; `None` passes traces on and tells nobody.
    pub collector: Option<Arc<Collector>>,
    /// How many of the requests are traced that nobody has decided about yet.
    pub sampling: Percent,
    /// Whether the request's id decides.
    pub by_id: bool,
    /// Whether headers that carry traces are brought up to date.
    pub passes_on: bool,
    /// The headers that carry them.
    pub forms: Forms,
    /// Whether spans have Istio's own tags.
    pub istio_tags: bool,
    /// Other tags.
    pub tags: Vec<(String, CustomTag)>,
    /// Bytes of a path in a span.
    pub most: usize,
}

/// Metrics that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Which ones.
    pub metrics: Families,
    /// How their labels differ from the usual.
    pub tags: BTreeMap<String, Tag>,
}

/// Some of Istio's metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Families(u16);

/// How a label differs from the usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tag {
    /// It is not there.
    Remove,
    /// It is this.
    Set(Arc<Expression>),
}

/// Which requests the access log has, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// Whether it has none.
    pub disabled: bool,
    /// Those for which it holds.
    pub filter: Option<Arc<Expression>>,
    /// Another format than the mesh's.
    pub format: Option<Arc<LogFormat>>,
    /// The services that are told as well, or instead.
    pub services: Vec<ToService>,
    /// Whether it is written whatever `accessLogFile` says, because somebody has named a provider.
    pub asked: bool,
}

/// A service that is told what an access log would have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToService {
    /// Which one.
    pub service: Arc<LogService>,
    /// It is told of those for which this holds.
    pub filter: Option<Arc<Expression>>,
}

impl Families {
    /// All of them.
    pub const ALL: Self = Self(0x3ff);

    /// Whether it is among them.
    pub const fn has(self, metric: Metric) -> bool {
        self.0 >> metric as u16 & 1 == 1
    }

    fn insert(&mut self, metric: Metric) {
        self.0 |= 1 << metric as u16;
    }
}

impl Default for Effective {
    fn default() -> Self {
        let usual = Group { metrics: Families::ALL, tags: BTreeMap::new() };
        Self { tracing: None, metrics: vec![usual], log: Log::default() }
    }
}

impl Effective {
    /// Of the rules that are for a workload, the most general first.
    pub(super) fn of(mesh: &MeshConfig, rules: &[&Rule], side: Side) -> Self {
        Self {
            tracing: tracing(mesh, rules, side),
            metrics: metrics(mesh, rules, side),
            log: log(mesh, rules, side),
        }
    }

    /// Whether metrics are as without any Telemetry.
    pub fn has_usual_metrics(&self) -> bool {
        matches!(&self.metrics[..], [one] if one.metrics == Families::ALL && one.tags.is_empty())
    }
}

fn is_for(mode: WorkloadMode, side: Side) -> bool {
    matches!(
        (mode, side),
        (WorkloadMode::ClientAndServer, _)
            | (WorkloadMode::Client, Side::Client)
            | (WorkloadMode::Server, Side::Server)
    )
}

fn tracing(mesh: &MeshConfig, rules: &[&Rule], side: Side) -> Option<Tracing> {
    let defaults = mesh.default_config.tracing.clone().unwrap_or_default();
    let mut provider = mesh.default_providers.tracing.first().cloned();
    let (mut reports, mut by_id, mut passes_on) = (true, true, true);
    let mut istio_tags = defaults.enable_istio_tags.unwrap_or(true);
    let mut tags = &defaults.custom_tags;
    let mut sampling = defaults.sampling;
    for entry in rules.iter().filter_map(|rule| first_of_side(rule, side)) {
        if let Some(named) = entry.providers.first() {
            provider = Some(named.name.clone());
        }
        if !entry.custom_tags.is_empty() {
            tags = &entry.custom_tags;
        }
        sampling = entry.random_sampling_percentage.or(sampling);
        reports = entry.disable_span_reporting.map_or(reports, |it| !it);
        by_id = entry.use_request_id_for_trace_sampling.unwrap_or(by_id);
        istio_tags = entry.enable_istio_tags.unwrap_or(istio_tags);
        passes_on = entry.disable_context_propagation.map_or(passes_on, |it| !it);
    }
    let collector = match &provider {
        Some(name) => Collector::find(mesh, name).ok(),
        None => Collector::by_default(mesh),
    };
    // Nobody asks for spans: traces of others are none of our business.
    if collector.is_none() && provider.is_none() && rules.iter().all(|rule| rule.spec.tracing.is_empty()) {
        return None;
    }
    let most = usize::try_from(defaults.max_path_tag_length).ok().filter(|most| *most > 0);
    Some(Tracing {
        forms: collector.as_ref().map_or(Forms { w3c: true, b3: false, single: false }, |it| it.forms),
        most: most.unwrap_or(MAX_PATH),
        collector: collector.filter(|_| reports).map(Arc::new),
        sampling: sampling.unwrap_or_else(one_percent),
        by_id,
        passes_on,
        istio_tags,
        tags: tags.iter().map(|(name, tag)| (name.clone(), tag.clone())).collect(),
    })
}

/// The entry of a resource that counts for a side.
fn first_of_side(rule: &Rule, side: Side) -> Option<&crate::resource::telemetry::Tracing> {
    rule.spec.tracing.iter().find(|entry| is_for(entry.r#match.mode, side))
}

fn one_percent() -> Percent {
    Percent::whole(1).expect("1 is at most 100")
}

fn metrics(mesh: &MeshConfig, rules: &[&Rule], side: Side) -> Vec<Group> {
    let entries = || rules.iter().flat_map(|rule| rule.spec.metrics.iter().map(move |entry| (rule, entry)));
    let names_ours = |all: &[ProviderRef]| all.iter().any(|it| is_prometheus(mesh, &it.name));
    let by_default = &mesh.default_providers.metrics;
    let is_wanted = by_default.is_empty() || by_default.iter().any(|name| is_prometheus(mesh, name));
    if !is_wanted && !entries().any(|(_, entry)| names_ours(&entry.providers)) {
        return Vec::new();
    }
    let mut states: Vec<(Metric, bool, BTreeMap<String, Tag>)> =
        METRICS.iter().map(|metric| (*metric, false, BTreeMap::new())).collect();
    let ours = entries().filter(|(_, entry)| entry.providers.is_empty() || names_ours(&entry.providers));
    for (rule, change) in ours.flat_map(|(rule, entry)| entry.overrides.iter().map(move |it| (rule, it))) {
        if !is_for(change.r#match.mode, side) {
            continue;
        }
        let is_meant = |metric: Metric| match &change.r#match.metric {
            MetricMatch::All => true,
            MetricMatch::Standard(meant) => *meant == metric,
            MetricMatch::Custom(_) => false,
        };
        let tags = || {
            change
                .tag_overrides
                .iter()
                .filter_map(|(name, tag)| Some((label_name(name).ok()?, rule.tag(tag)?)))
        };
        for (_, disabled, known) in states.iter_mut().filter(|(metric, ..)| is_meant(*metric)) {
            *disabled = change.disabled.unwrap_or(*disabled);
            known.extend(tags());
        }
    }
    let mut groups: Vec<Group> = Vec::new();
    for (metric, _, tags) in states.into_iter().filter(|(_, disabled, _)| !disabled) {
        let alike = groups.iter().position(|group| group.tags == tags);
        let place = alike.unwrap_or_else(|| {
            groups.push(Group { metrics: Families::default(), tags });
            groups.len() - 1
        });
        groups.iter_mut().skip(place).take(1).for_each(|group| group.metrics.insert(metric));
    }
    groups
}

/// Whoever is nearest and names providers decides which there are, as in Istio; where nobody does, it is the proxy's own log.
fn log(mesh: &MeshConfig, rules: &[&Rule], side: Side) -> Log {
    let known = |name: &str| Some((name.to_owned(), LogProvider::find(mesh, name)?));
    let named = |entry: &AccessLogging| -> Vec<_> {
        entry.providers.iter().filter_map(|it| known(&it.name)).collect()
    };
    let mut chosen: Vec<_> =
        mesh.default_providers.access_logging.iter().filter_map(|name| known(name)).collect();
    for rule in rules {
        let own: Vec<_> = log_entries(rule, side).flat_map(named).collect();
        if !own.is_empty() {
            chosen = own;
        }
    }
    let asked = !chosen.is_empty();
    if !asked {
        chosen.push((String::new(), LogProvider::File(None)));
    }
    let mut states: Vec<_> = chosen.into_iter().map(|(name, to)| (name, to, Share::default())).collect();
    for rule in rules {
        for entry in log_entries(rule, side) {
            let share = Share {
                disabled: entry.disabled.unwrap_or(false),
                filter: entry.filter.as_ref().and_then(|it| rule.expression(&it.expression)).cloned(),
            };
            let is_meant =
                |name: &str| entry.providers.is_empty() || entry.providers.iter().any(|it| it.name == name);
            let meant = states.iter_mut().filter(|(name, ..)| is_meant(name));
            meant.for_each(|(_, _, state)| *state = share.clone());
        }
    }
    Log { asked, ..put_together(states) }
}

fn log_entries(rule: &Rule, side: Side) -> impl Iterator<Item = &AccessLogging> {
    rule.spec.access_logging.iter().filter(move |entry| is_for(entry.r#match.mode, side))
}

/// What is said about one provider of access logs.
#[derive(Clone, Default)]
struct Share {
    disabled: bool,
    filter: Option<Arc<Expression>>,
}

fn put_together(states: Vec<(String, LogProvider, Share)>) -> Log {
    let mut log = Log { disabled: true, ..Log::default() };
    let mut files = 0;
    for (_, to, Share { disabled, filter }) in states {
        match to {
            LogProvider::File(format) => {
                files += 1;
                // There is one log of its own that a proxy writes.
                if files == 1 {
                    log = Log { disabled, filter, format, services: log.services, asked: false };
                }
            }
            LogProvider::Service(service) if !disabled => {
                let is_new = log.services.iter().all(|it| it.service != service);
                log.services.extend(is_new.then_some(ToService { service, filter }));
            }
            LogProvider::Service(_) => {}
        }
    }
    log
}

/// All of them.
const METRICS: [Metric; 10] = [
    Metric::RequestCount,
    Metric::RequestDuration,
    Metric::RequestSize,
    Metric::ResponseSize,
    Metric::TcpOpenedConnections,
    Metric::TcpClosedConnections,
    Metric::TcpSentBytes,
    Metric::TcpReceivedBytes,
    Metric::GrpcRequestMessages,
    Metric::GrpcResponseMessages,
];
/// Bytes of a path where `MeshConfig` does not say how many: Envoy's.
const MAX_PATH: usize = 256;
