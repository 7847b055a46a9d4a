//! The metrics as a scrape sees them: Istio's names and labels, in the text format that Prometheus reads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_core::process::ProcessFigures;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::process;
use super::series::Series;
use super::{Direction, Event, Flag, Reporter, request};

/// What a scrape shows besides the reporter's own counters.
#[derive(Clone, Debug, Default)]
pub struct NodeFigures {
    /// Pods whose traffic is captured.
    pub active_pods: u64,
    /// Pods that wait for their capture, or for which it failed.
    pub pending_pods: u64,
    /// Whether the node answers that it is ready.
    pub ready: bool,
    /// One for each identity the node holds or wants.
    pub certificates: Vec<CertificateFigure>,
}

/// The certificate of one identity.
#[derive(Clone, Debug)]
pub struct CertificateFigure {
    /// The SPIFFE id.
    pub identity: String,
    /// When it expires; `None` while there is none.
    pub not_after: Option<SystemTime>,
}

impl Reporter {
    /// The text of a scrape: an `OpenMetrics` exposition with its end mark, which is classic Prometheus text as well.
    pub fn scrape(self: &Arc<Self>, node: NodeFigures) -> String {
        let mut registry = Registry::default();
        let scrape = Scrape { reporter: self.clone(), node, process: process::read() };
        registry.register_collector(Box::new(scrape));
        for extra in self.extra.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            registry.register_collector(Box::new(Extra(extra.clone())));
        }
        let mut text = String::new();
        encode(&mut text, &registry).expect("a String takes all");
        text.truncate(text.trim_end_matches(END).len());
        request::append(&mut text, &self.requests);
        text.push_str(END);
        text
    }
}

/// Turns the text of a scrape into classic Prometheus text, for readers that do not take `OpenMetrics`: there a counter's
/// family is named like its samples, with `_total`.
pub fn classic_text(open_metrics: &str) -> String {
    let mut classic = String::with_capacity(open_metrics.len() + 1024);
    let mut lines = open_metrics.lines().filter(|line| *line != END.trim_end()).peekable();
    while let Some(line) = lines.next() {
        let is_counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        let declared =
            line.strip_prefix("# HELP ").filter(|_| lines.peek().is_some_and(|next| is_counter(next)));
        let (mark, declared) =
            match declared.or_else(|| line.strip_prefix("# TYPE ").filter(|_| is_counter(line))) {
                Some(declared) => (line.get(.."# TYPE ".len()).unwrap_or_default(), declared),
                None => ("", line),
            };
        classic.push_str(mark);
        match declared.split_once(' ').filter(|_| !mark.is_empty()) {
            Some((name, rest)) => classic.extend([name, "_total ", rest]),
            None => classic.push_str(request::without_exemplar(declared)),
        }
        classic.push('\n');
    }
    classic
}

/// All that is known at the time of one scrape.
#[derive(Debug)]
struct Scrape {
    reporter: Arc<Reporter>,
    node: NodeFigures,
    process: ProcessFigures,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.connections(encoder)?;
        self.reporter.protocols.encode(encoder)?;
        self.open_sockets(encoder)?;
        self.events(encoder)?;
        self.reporter.verdicts.encode(encoder)?;
        self.reporter.encode_checks(encoder)?;
        self.node(encoder)?;
        self.certificates(encoder)?;
        self.process(encoder)
    }
}

impl Scrape {
    fn connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let series = self.reporter.series.all();
        for (name, help, value) in PLAIN_FAMILIES {
            // With changed labels a series may be that of some of the families only.
            let is_shown = |one: &&Arc<Series>| {
                let has_opened = one.opened.load(Ordering::Relaxed) > 0 && !one.labels.are_changed();
                has_opened || value(one).load(Ordering::Relaxed) > 0
            };
            let samples = series.iter().filter(is_shown);
            let samples =
                samples.map(|one| (one.labels.pairs(Flag::None.label()), value(one).load(Ordering::Relaxed)));
            counters(encoder, name, help, samples)?;
        }
        for (name, help, value) in FLAGGED_FAMILIES {
            let samples = series.iter().flat_map(|one| Flag::ALL.map(|flag| (one, flag)));
            let samples = samples.filter_map(|(one, flag)| {
                let count = value(one, flag).load(Ordering::Relaxed);
                (count > 0).then(|| (one.labels.pairs(flag.label()), count))
            });
            counters(encoder, name, help, samples)?;
        }
        Ok(())
    }

    fn open_sockets(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let open = Direction::ALL.map(|direction| {
            let open = self.reporter.open_of(direction).load(Ordering::Relaxed);
            (vec![("reporter", direction.reporter())], signed(open))
        });
        gauges(encoder, "istio_tcp_sockets_open", "Connections open now", open)
    }

    fn events(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut rest = Event::ALL.as_slice();
        while let Some(first) = rest.first() {
            let family = first.family();
            let (these, others) =
                rest.split_at(rest.iter().take_while(|event| event.family() == family).count());
            let samples = these.iter().map(|event| {
                let labels = Some((family.label(), event.reason())).filter(|(_, reason)| !reason.is_empty());
                (labels.into_iter().collect(), self.reporter.counted(*event))
            });
            counters(encoder, family.name, family.help, samples)?;
            rest = others;
        }
        Ok(())
    }

    fn node(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let tag = self.reporter.version.as_str();
        let names = self.reporter.component.names().iter();
        let builds = names.map(|name| (vec![("component", *name), ("tag", tag)], 1));
        gauges(encoder, "istio_build", "Version of this component", builds)?;
        let plain = [
            ("workload_manager_active_proxy_count", "Pods whose traffic is captured", self.node.active_pods),
            (
                "workload_manager_pending_proxy_count",
                "Pods that wait for their capture",
                self.node.pending_pods,
            ),
            ("mesh_node_ready", "Whether the node is ready: 1 or 0", u64::from(self.node.ready)),
        ];
        plain.into_iter().try_for_each(|(name, help, value)| gauge(encoder, name, help, &signed(value)))
    }

    fn certificates(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let samples = self.node.certificates.iter().filter_map(|certificate| {
            let expiry = certificate.not_after?.duration_since(UNIX_EPOCH).ok()?;
            Some((vec![("identity", certificate.identity.as_str())], signed(expiry.as_secs())))
        });
        let help = "When the certificate of an identity expires, in seconds since 1970";
        gauges(encoder, "mesh_certificate_expiry_timestamp_seconds", help, samples)?;
        let missing =
            self.node.certificates.iter().filter(|certificate| certificate.not_after.is_none()).count();
        let missing = i64::try_from(missing).unwrap_or(i64::MAX);
        gauge(encoder, "mesh_certificates_missing", "Wanted identities without a certificate", &missing)
    }

    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let process = &self.process;
        if let Some(seconds) = process.cpu_seconds {
            let help = sentence("User and system CPU time spent, in seconds");
            let mut family =
                encoder.encode_descriptor("process_cpu_seconds", &help, None, MetricType::Counter)?;
            family.encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
        }
        if let Some(seconds) = process.start_seconds {
            let help = "Start time of the process since 1970, in seconds";
            gauge(encoder, "process_start_time_seconds", help, &seconds)?;
        }
        let plain = [
            ("process_resident_memory_bytes", "Resident memory size in bytes", process.resident),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes", process.virtual_memory),
            ("process_threads", "Number of threads", process.threads),
            ("process_open_fds", "Number of open file descriptors", process.open_fds),
            ("process_max_fds", "Maximum number of open file descriptors", process.max_fds),
        ];
        let known = plain.into_iter().filter_map(|(name, help, value)| Some((name, help, signed(value?))));
        known.into_iter().try_for_each(|(name, help, value)| gauge(encoder, name, help, &value))
    }
}

/// Metrics that another part of the process has registered.
#[derive(Debug)]
struct Extra(Arc<dyn Collector>);

impl Collector for Extra {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }
}

/// Names and values of labels.
pub(super) type Pairs<'a> = Vec<(&'a str, &'a str)>;

/// Encodes a family of counters.
pub(super) fn counters<'a, V: EncodeCounterValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (Pairs<'a>, V)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, &sentence(help), None, MetricType::Counter)?;
    for (labels, value) in samples {
        if labels.is_empty() {
            family.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        } else {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
    }
    Ok(())
}

fn gauges<'a, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (Pairs<'a>, V)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, &sentence(help), None, MetricType::Gauge)?;
    for (labels, value) in samples {
        family.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

/// Encodes a gauge without labels.
pub(super) fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: &impl EncodeGaugeValue,
) -> fmt::Result {
    encoder.encode_descriptor(name, &sentence(help), None, MetricType::Gauge)?.encode_gauge(value)
}

fn sentence(help: &str) -> String {
    format!("{help}.")
}

/// The encoder's gauges are signed.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The last line of an `OpenMetrics` exposition.
const END: &str = "# EOF\n";

type PlainFamily = (&'static str, &'static str, fn(&Series) -> &AtomicU64);
type FlaggedFamily = (&'static str, &'static str, fn(&Series, Flag) -> &AtomicU64);

/// Families whose flag is always `-`: at the time of counting nothing has failed.
const PLAIN_FAMILIES: [PlainFamily; 3] = [
    ("istio_tcp_connections_opened", "TCP connections opened", |series| &series.opened),
    ("istio_tcp_sent_bytes", "Bytes of the response: those the server sent", |series| &series.sent),
    ("istio_tcp_received_bytes", "Bytes of the request: those the server received", |series| {
        &series.received
    }),
];

/// Families that tell how it ended.
const FLAGGED_FAMILIES: [FlaggedFamily; 2] = [
    ("istio_tcp_connections_closed", "TCP connections closed", |series, flag| series.closed(flag)),
    ("istio_tcp_connections_failed", "TCP connections that were never established", |series, flag| {
        series.failed(flag)
    }),
];
