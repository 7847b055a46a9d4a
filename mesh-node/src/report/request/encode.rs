//! The request metrics as a scrape sees them.
//!
//! Written by hand: labels are kept as text, and a sample is a few copies. With hundreds of label sets of some sixty
//! samples each, an encoder that takes labels apart and escapes them each time would be most of a scrape's cost.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::series::{Distribution, Exemplar, LIMITS, RequestMap, Totals};

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
                // What says how long it took is where one looks for what took so long.
                let exemplar = totals.exemplar.filter(|_| scale > 1);
                histogram(text, name, labels, (values, scale, exemplar));
            }
        }
    }
}

fn family(text: &mut String, name: &str, help: &str, kind: &str) {
    text.extend(["# HELP ", name, " ", help, ".\n# TYPE ", name, " ", kind, "\n"]);
}

fn histogram(
    text: &mut String,
    name: &str,
    labels: &Arc<str>,
    (values, scale, exemplar): (&Distribution, u64, Option<Exemplar>),
) {
    let mut count = 0;
    for (place, (limit, bucket)) in LIMITS.iter().zip(values.buckets).enumerate() {
        count += bucket;
        text.extend([name, "_bucket{", labels, "le=\"", limit]);
        sample(text, ["\"", "", ""], count);
        if let Some(exemplar) = exemplar.filter(|exemplar| exemplar.bucket() == place) {
            append_exemplar(text, &exemplar);
        }
    }
    let labels = labels.trim_end_matches(',');
    sample(text, [name, "_count{", labels], count);
    text.extend([name, "_sum{", labels, "} "]);
    let (whole, rest) = (values.sum / scale, values.sum % scale);
    let written = if rest == 0 { writeln!(text, "{whole}") } else { writeln!(text, "{whole}.{rest:03}") };
    written.expect("a String takes all");
}

/// Behind the sample on the last line.
fn append_exemplar(text: &mut String, exemplar: &Exemplar) {
    text.truncate(text.trim_end_matches('\n').len());
    let Exemplar { trace, micros, at } = exemplar;
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (whole, rest) = (micros / 1_000, micros % 1_000);
    let (seconds, millis) = (at.as_secs(), at.subsec_millis());
    writeln!(text, "{EXEMPLAR}\"{trace:032x}\"}} {whole}.{rest:03} {seconds}.{millis:03}")
        .expect("a String takes all");
}

/// A line without its exemplar, which the classic text format does not have.
pub(in crate::report) fn without_exemplar(line: &str) -> &str {
    // A label may hold the same words: an exemplar is known by all of its form.
    let is_one = |rest: &str| {
        let (trace, numbers) = (rest.get(1..33), rest.get(33..).and_then(|rest| rest.strip_prefix("\"} ")));
        trace.is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_hexdigit()))
            && numbers.is_some_and(|it| it.bytes().all(|byte| byte.is_ascii_digit() || b". ".contains(&byte)))
    };
    line.rsplit_once(EXEMPLAR).filter(|(_, rest)| is_one(rest)).map_or(line, |(line, _)| line)
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

/// What an exemplar begins with.
const EXEMPLAR: &str = " # {trace_id=";
/// Samples of one label set, rounded up.
const SAMPLES: usize = 70;
/// Bytes of a sample that are not labels.
const AROUND_LABELS: usize = 64;
