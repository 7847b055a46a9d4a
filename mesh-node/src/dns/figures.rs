//! What is counted, under the names that Istio's node proxy has for it where it has one.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet},
    metrics::{MetricType, TypedMetric, histogram::Histogram},
};

/// Something that is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Count {
    /// A packet or message of a pod.
    Requests,
    /// A question to a resolver of a pod.
    Upstream,
    /// One of those without an answer in time.
    UpstreamFailures,
    /// A packet that is no query.
    Malformed,
    /// A query that found its pod's places taken.
    Overload,
    /// A packet that is not the answer it pretends to be.
    Stray,
    /// An answer without the case of the question.
    OtherCase,
}

/// The counters of all pods of the node.
#[derive(Debug)]
pub struct Figures {
    counts: [AtomicU64; 7],
    duration: Histogram,
}

impl Default for Figures {
    fn default() -> Self {
        Self { counts: Default::default(), duration: Histogram::new(BUCKETS) }
    }
}

impl Figures {
    pub(super) fn count(&self, what: Count) {
        if let Some(counter) = self.counts.get(what as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How long a resolver took to answer.
    pub(super) fn took(&self, time: Duration) {
        self.duration.observe(time.as_secs_f64());
    }

    fn value(&self, what: Count) -> u64 {
        self.counts.get(what as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, what) in PLAIN {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            family.encode_counter::<NoLabelSet, _, u64>(&self.value(what), None)?;
        }
        let help = "Messages of DNS that were not served, by reason.";
        let mut family = encoder.encode_descriptor("mesh_dns_refused", help, None, MetricType::Counter)?;
        for (reason, what) in REFUSED {
            let value = self.value(what);
            family
                .encode_family(&[("reason", reason)])?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        let name = "istio_dns_upstream_request_duration_seconds";
        let help = "How long resolvers of pods took to answer.";
        self.duration.encode(encoder.encode_descriptor(name, help, None, Histogram::TYPE)?)
    }
}

const PLAIN: [(&str, &str, Count); 3] = [
    ("istio_dns_requests", "Queries of DNS from captured pods.", Count::Requests),
    ("istio_dns_upstream_requests", "Queries passed on to resolvers of pods.", Count::Upstream),
    ("istio_dns_upstream_failures", "Of those, the ones without an answer.", Count::UpstreamFailures),
];
const REFUSED: [(&str, Count); 4] = [
    ("malformed", Count::Malformed),
    ("overload", Count::Overload),
    ("stray_answer", Count::Stray),
    ("other_case", Count::OtherCase),
];
/// Seconds.
const BUCKETS: [f64; 8] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 2.0];
