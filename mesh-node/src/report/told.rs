//! What Telemetries make of what is told about requests, compiled once for all requests that are told about alike.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::model::{Snapshot, Workload};
use mesh_core::resource::mesh_config::provider::LogFormat;
use mesh_core::resource::telemetry::{CustomTag, Metric};
use mesh_core::telemetry::{
    Attributes, Chosen, Effective, Expression, Families, Group, Side, Tag, Telemetries,
};
use mesh_core::trace::cut;
use tracing::warn;

use super::entries::Ledger;
use super::labels::{Changes, FLAGS};
use super::request::MAX_VALUE;
use super::request::attributes::View;
use super::request::{AccessFormat, FormatError, RequestFacts};

/// The Telemetries of a configuration, and what they come to for whoever was asked about so far.
#[derive(Debug, Default)]
pub struct Telemetry {
    rules: Telemetries,
    /// What cannot be used of them.
    notes: BTreeSet<String>,
    known: Mutex<HashMap<(Chosen, Side), Arc<Told>>>,
}

/// What is told about requests, and how.
#[derive(Debug, Default)]
pub struct Told {
    /// What the Telemetries say.
    pub effective: Effective,
    /// Formats of tags of spans, by the tag's name.
    formats: Vec<(String, AccessFormat)>,
    /// The format of log lines, if it is not the mesh's.
    line: Option<AccessFormat>,
    /// Whether metrics are not as usual.
    reshapes: bool,
    /// Whether headers or trailers of answers are asked for.
    reads_answers: bool,
    /// The services that are told what access logs have.
    pub(super) ledgers: Vec<Ledger>,
}

impl Telemetry {
    /// Those of a configuration. What cannot be used is said once, not again with each change of something else.
    pub fn of(snapshot: &Snapshot, before: &Self) -> Self {
        let rules = Telemetries::of(snapshot);
        let notes: BTreeSet<_> = rules.notes().into_iter().collect();
        notes.difference(&before.notes).for_each(|note| warn!("{note}."));
        Self { rules, notes, known: Mutex::default() }
    }

    /// The resources themselves.
    pub fn rules(&self) -> &Telemetries {
        &self.rules
    }

    /// What a Telemetry says about the connections of a workload, if there is any.
    pub fn of_connection(&self, workload: Option<&Workload>, side: Side) -> Option<Arc<Told>> {
        if self.rules.is_empty() {
            return None;
        }
        let workload = workload?;
        Some(self.told(self.rules.of_workload(&workload.namespace, &workload.labels), side))
    }

    /// What these come to.
    pub fn told(&self, chosen: Chosen, side: Side) -> Arc<Told> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || Arc::new(Told::new(self.rules.effective(chosen, side)));
        Arc::clone(known.entry((chosen, side)).or_insert_with(made))
    }
}

impl Told {
    fn new(effective: Effective) -> Self {
        let tags = effective.tracing.iter().flat_map(|tracing| &tracing.tags);
        let formats = tags.filter_map(|(name, tag)| match tag {
            CustomTag::Formatter(format) => {
                let format = AccessFormat::parse(format).inspect(|it| name_unknown(it, name));
                let format = format.inspect_err(|error| warn!(tag = name, %error, "A tag is left out."));
                Some((name.clone(), format.ok()?))
            }
            _ => None,
        });
        let line = effective.log.format.as_deref().and_then(|format| {
            let line = line(format).inspect(|it| name_unknown(it, "a provider of access logs"));
            line.inspect_err(|error| warn!(%error, "A provider's format of access logs is not used.")).ok()
        });
        let formats: Vec<_> = formats.collect();
        let ledgers: Vec<_> = effective.log.services.iter().map(Ledger::new).collect();
        Self {
            reshapes: !effective.has_usual_metrics(),
            reads_answers: formats
                .iter()
                .map(|(_, format)| format)
                .chain(&line)
                .any(AccessFormat::reads_answers)
                || ledgers.iter().any(Ledger::reads_answers)
                || expressions(&effective).any(|it| it.mentions(ANSWER)),
            formats,
            line,
            ledgers,
            effective,
        }
    }

    /// The value of a tag that has a format.
    pub fn formatted(&self, tag: &str, facts: &RequestFacts<'_>) -> Option<String> {
        let (_, format) = self.formats.iter().find(|(name, _)| name == tag)?;
        Some(format.text(facts))
    }

    /// Whether headers or trailers of answers are asked for.
    pub fn reads_answers(&self) -> bool {
        self.reads_answers
    }

    /// Whether metrics are not as without any Telemetry.
    pub(super) fn reshapes(&self) -> bool {
        self.reshapes
    }

    /// Whether a metric is counted, of a connection.
    pub(super) fn counts(&self, metric: Metric) -> bool {
        self.effective.metrics.iter().any(|group| group.metrics.has(metric))
    }

    /// How labels of metrics of a connection differ from the usual, and of which metrics.
    pub(super) fn changes(&self, connection: &dyn Attributes) -> Vec<(Families, Changes)> {
        if !self.reshapes {
            return Vec::new();
        }
        let is_for_connections = |group: &&Group| OF_CONNECTIONS.iter().any(|it| group.metrics.has(*it));
        let groups = self.effective.metrics.iter().filter(is_for_connections);
        let changed = groups.filter(|group| !group.tags.is_empty());
        changed.map(|group| (group.metrics, changes(group, connection))).collect()
    }

    /// Whether there is an access log whatever the mesh's settings say.
    pub(super) fn asks_for_log(&self) -> bool {
        self.effective.log.asked
    }

    /// Whether the access log has a line about a connection.
    pub(super) fn logs_connection(&self, connection: &dyn Attributes) -> bool {
        let log = &self.effective.log;
        !log.disabled && log.filter.as_ref().is_none_or(|filter| filter.holds(connection))
    }

    /// Whether the access log has a line about a request.
    pub(super) fn logs(&self, facts: &RequestFacts<'_>) -> bool {
        let log = &self.effective.log;
        !log.disabled && log.filter.as_ref().is_none_or(|filter| filter.holds(&View(facts)))
    }

    /// The format of log lines, if it is not the mesh's.
    pub(super) fn line(&self) -> Option<&AccessFormat> {
        self.line.as_ref()
    }
}

/// Says which operators of a format say nothing here.
pub(crate) fn name_unknown(format: &AccessFormat, of: &str) {
    for operator in format.unknown() {
        warn!(of, "A format has the operator %{operator}%, which nothing here can tell: it says \"-\".");
    }
}

/// What labels and the log's filter ask for.
fn expressions(effective: &Effective) -> impl Iterator<Item = &Arc<Expression>> {
    let tags = effective.metrics.iter().flat_map(|group| group.tags.values());
    let set = tags.filter_map(|tag| match tag {
        Tag::Set(expression) => Some(expression),
        Tag::Remove => None,
    });
    set.chain(&effective.log.filter)
}

/// The attribute of an answer's headers.
pub(super) const ANSWER: [&str; 2] = ["response", "headers"];

/// The flag is not known before a connection ends, and without it series could not be told apart: it stays.
fn changes(group: &Group, connection: &dyn Attributes) -> Changes {
    let tags = group.tags.iter().filter(|(name, _)| *name != FLAGS);
    let value = |tag: &Tag| match tag {
        Tag::Remove => None,
        Tag::Set(expression) => {
            let value = expression.text(connection).unwrap_or_else(|| "unknown".to_owned());
            Some(Arc::from(cut(&value, MAX_VALUE)))
        }
    };
    tags.map(|(name, tag)| (Arc::from(name.as_str()), value(tag))).collect()
}

/// Metrics of connections that a Telemetry can name.
const OF_CONNECTIONS: [Metric; 4] = [
    Metric::TcpOpenedConnections,
    Metric::TcpClosedConnections,
    Metric::TcpSentBytes,
    Metric::TcpReceivedBytes,
];

fn line(format: &LogFormat) -> Result<AccessFormat, FormatError> {
    match (&format.text, &format.labels) {
        (_, Some(labels)) => {
            let object = serde_json::to_string(labels).map_err(|_| FormatError::NotAnObject)?;
            AccessFormat::parse_json(&object)
        }
        (text, None) => AccessFormat::parse(text.as_deref().unwrap_or_default()),
    }
}
