//! The request metrics as a scrape sees them.
//!
//! Written by hand: labels are kept as text, and a sample is a few copies. With hundreds of label sets of some sixty
//! samples each, an encoder that takes labels apart and escapes them each time would be most of a scrape's cost.

use std::fmt::Write as _;
use std::sync::Arc;

use super::series::{Distribution, LIMITS, RequestMap, Totals};

/// Appends the families of the request metrics; none if there was no request.
pub(in crate::report) fn append(text: &mut String, requests: &RequestMap) {
    let all = requests.totals();
    if all.is_empty() {
        return;
    }
    let labels: usize = all.iter().map(|(labels, _)| labels.len()).sum();
    text.reserve((labels + all.len() * AROUND_LABELS) * SAMPLES);
    for (name, help, count) in COUNTERS {
        family(text, name, help, "counter");
        for (labels, totals) in &all {
            let count = count(totals);
            if count > 0 {
                sample(text, [name, "_total{", labels.trim_end_matches(',')], count);
            }
        }
    }
    for (name, help, scale, distribution) in HISTOGRAMS {
        family(text, name, help, "histogram");
        for (labels, totals) in &all {
            let values = distribution(totals);
            if values.count() > 0 {
                histogram(text, name, labels, (values, scale));
            }
        }
    }
}

fn family(text: &mut String, name: &str, help: &str, kind: &str) {
    text.extend(["# HELP ", name, " ", help, ".\n# TYPE ", name, " ", kind, "\n"]);
}

fn histogram(text: &mut String, name: &str, labels: &Arc<str>, (values, scale): (&Distribution, u64)) {
    let mut count = 0;
    for (limit, bucket) in LIMITS.iter().zip(values.buckets) {
        count += bucket;
        text.extend([name, "_bucket{", labels, "le=\"", limit]);
        sample(text, ["\"", "", ""], count);
    }
    let labels = labels.trim_end_matches(',');
    sample(text, [name, "_count{", labels], count);
    text.extend([name, "_sum{", labels, "} "]);
    let (whole, rest) = (values.sum / scale, values.sum % scale);
    let written = if rest == 0 { writeln!(text, "{whole}") } else { writeln!(text, "{whole}.{rest:03}") };
    written.expect("a String takes all");
}

fn sample(text: &mut String, parts: [&str; 3], value: u64) {
    text.extend(parts);
    writeln!(text, "}} {value}").expect("a String takes all");
}

type Counter = (&'static str, &'static str, fn(&Totals) -> u64);

const COUNTERS: [Counter; 3] = [
    ("istio_requests", "HTTP requests", |totals| totals.requests),
    ("istio_request_messages", "Messages of gRPC requests", |totals| totals.request_messages),
    ("istio_response_messages", "Messages of gRPC responses", |totals| totals.response_messages),
];

/// Name, help, what a shown unit is in counted ones (1 or 1,000), and which.
type HistogramFamily = (&'static str, &'static str, u64, fn(&Totals) -> &Distribution);

const HISTOGRAMS: [HistogramFamily; 3] = [
    ("istio_request_duration_milliseconds", "Time from a request's start to its end", 1_000, |totals| {
        &totals.duration
    }),
    ("istio_request_bytes", "Bytes of requests' bodies", 1, |totals| &totals.received),
    ("istio_response_bytes", "Bytes of responses' bodies", 1, |totals| &totals.sent),
];

/// Samples of one label set, rounded up.
const SAMPLES: usize = 70;
/// Bytes of a sample that are not labels.
const AROUND_LABELS: usize = 64;
