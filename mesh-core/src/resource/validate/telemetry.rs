//! Telemetry: the checks of Istio's schema and of its validating webhook.

use super::super::Meta;
use super::super::telemetry::{
    MetricMatch, MetricsOverride, ProviderRef, TagOverride, TelemetrySpec, Tracing,
};
use super::security::targets;
use super::{Report, child};
use crate::telemetry::{Expression, label_name};

pub(super) fn telemetry(spec: &TelemetrySpec, meta: &Meta, report: &mut Report<'_>) {
    targets(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs, meta, report);
    for (index, it) in spec.tracing.iter().enumerate() {
        tracing(&format!("spec.tracing[{index}]"), it, report);
        let mut earlier = spec.tracing.iter().take(index.min(MANY));
        if earlier.any(|earlier| earlier.r#match == it.r#match) {
            let reason = "an earlier entry is for the same side; only the first counts";
            report.warning(format_args!("spec.tracing[{index}]"), reason);
        }
    }
    for (index, it) in spec.metrics.iter().enumerate() {
        let field = format!("spec.metrics[{index}]");
        providers(&field, &it.providers, report);
        if it.reporting_interval.is_some() {
            let reason = "changes nothing: metrics of connections are brought up to date every 5 s";
            report.warning(format_args!("{field}.reportingInterval"), reason);
        }
        for (index, it) in it.overrides.iter().enumerate() {
            override_of_metrics(&format!("{field}.overrides[{index}]"), it, report);
        }
    }
    for (index, it) in spec.access_logging.iter().enumerate() {
        let field = format!("spec.accessLogging[{index}]");
        providers(&field, &it.providers, report);
        if it.filter.as_ref().is_some_and(|filter| filter.expression.trim().is_empty()) {
            let reason = "empty: nothing is filtered out";
            report.warning(format_args!("{field}.filter.expression"), reason);
        } else if let Some(Err(error)) =
            it.filter.as_ref().map(|filter| Expression::parse(&filter.expression))
        {
            let reason = format!("nothing is filtered out: {error}");
            report.warning(format_args!("{field}.filter.expression"), reason);
        }
    }
}

fn override_of_metrics(field: &str, change: &MetricsOverride, report: &mut Report<'_>) {
    if let MetricMatch::Custom(name) = &change.r#match.metric
        && !name.is_empty()
    {
        let reason = format!("changes nothing: there is no metric {name}");
        report.warning(format_args!("{field}.match.customMetric"), reason);
    }
    let field = format!("{field}.tagOverrides");
    for (name, change) in &change.tag_overrides {
        match label_name(name) {
            Err(error) => {
                report.error_with(child(&field, name), error.to_string(), "give the tag another name");
            }
            Ok(label) if label != *name => {
                report.warning(child(&field, name), format!("is called {label} in metrics"));
            }
            Ok(_) => {}
        }
        if let TagOverride::Upsert(text) = change
            && let Err(error) = Expression::parse(text)
        {
            report.warning(child(&field, name), format!("the label stays as it is: {error}"));
        }
    }
}

fn tracing(field: &str, tracing: &Tracing, report: &mut Report<'_>) {
    providers(field, &tracing.providers, report);
    if tracing.providers.len() > 1 {
        let reason = "spans go to one provider; only the first counts";
        report.warning(format_args!("{field}.providers[1]"), reason);
    }
    if tracing.custom_tags.contains_key("") {
        report.error(child(&format!("{field}.customTags"), ""), "a tag must have a name");
    }
}

fn providers(field: &str, providers: &[ProviderRef], report: &mut Report<'_>) {
    for (index, _) in providers.iter().enumerate().filter(|(_, provider)| provider.name.is_empty()) {
        report.error(format_args!("{field}.providers[{index}].name"), "must not be empty");
    }
}

/// Entries that others are compared with; there are three modes to tell apart.
const MANY: usize = 16;
