//! RateLimit: ranges, and what makes sense together.

use std::time::Duration;

use super::super::Meta;
use super::super::rate_limit::{
    EachConnection, GlobalLimit, LimitKey, RateLimitSpec, RequestLimit, RequestMatch,
};
use super::super::value::{HeaderKey, Host, StringMatch};
use super::Report;
use super::security::{at_most, targets};

pub(super) fn rate_limit(spec: &RateLimitSpec, meta: &Meta, report: &mut Report<'_>) {
    targets(spec.selector.as_ref(), None, &spec.target_refs, meta, report);
    let classes = spec.target_refs.iter().enumerate().filter(|(_, target)| target.kind == "GatewayClass");
    for (index, _) in classes {
        let reason = "a limit is for one Gateway, not for all of a class";
        report.error_with(format_args!("spec.targetRefs[{index}].kind"), reason, "name the Gateway");
    }
    if spec.selector.is_none() && spec.target_refs.is_empty() {
        let hint = "give targetRefs (Gateway, Service, ServiceEntry) or selector";
        report.error_with("spec", "says nobody's requests", hint);
    }
    let counts = !spec.rules.is_empty() || spec.connections.is_some() || spec.global.is_some();
    let of_connections = !spec.open_connections.is_empty() || spec.each_connection.is_some();
    if !counts && !of_connections && spec.request_body.is_none() {
        let hint = "give rules, connections, openConnections, eachConnection, requestBody or global";
        report.error_with("spec", "limits nothing", hint);
    }
    connections_of_clients(spec, report);
    if let Some(limit) = &spec.request_body {
        let most = if limit.buffer { MOST_BUFFERED } else { MOST_BYTES };
        if !(1..=most).contains(&limit.max_bytes) {
            let reason = format!("{} is not between 1 and {most}", limit.max_bytes);
            report.error("spec.requestBody.maxBytes", reason);
        }
    }
    if let Some(limit) = &spec.global {
        global(limit, report);
    }
    at_most(64, "spec.rules", spec.rules.len(), report);
    for (index, rule) in spec.rules.iter().enumerate() {
        let field = format!("spec.rules[{index}]");
        check(&field, rule, report);
        let mut earlier = spec.rules.iter().take(index);
        if !rule.name.is_empty() && earlier.any(|earlier| earlier.name == rule.name) {
            report.error(format_args!("{field}.name"), "an earlier rule has the same name");
        }
    }
    if let Some(limit) = &spec.connections {
        let numbers = Numbers {
            named: "count",
            count: limit.count,
            per: limit.per(),
            burst: limit.burst,
            max_keys: limit.max_keys,
        };
        numbers.check("spec.connections", &limit.by, report);
        keys_of_connections("spec.connections", &limit.by, report);
    }
}

/// What is about connections of clients is for those who take them in.
fn connections_of_clients(spec: &RateLimitSpec, report: &mut Report<'_>) {
    let open = (!spec.open_connections.is_empty()).then_some("spec.openConnections");
    let each = spec.each_connection.as_ref().map(|_| "spec.eachConnection");
    let targets = spec.target_refs.iter();
    if let Some(target) = targets.map(|it| it.kind.as_str()).find(|kind| *kind != "Gateway") {
        let reason = format!("is about connections that a Gateway takes in, not about those to a {target}");
        for field in [open, each].into_iter().flatten() {
            report.error_with(field, &reason, "name a Gateway in targetRefs, or select its pods");
        }
    }
    at_most(8, "spec.openConnections", spec.open_connections.len(), report);
    for (index, limit) in spec.open_connections.iter().enumerate() {
        let field = format!("spec.openConnections[{index}]");
        keys_of_connections(&field, &limit.by, report);
        within(&format!("{field}.max"), Some(limit.max), MOST_OPEN, report);
    }
    if let Some(each) = &spec.each_connection {
        each_connection(each, report);
    }
}

fn each_connection(each: &EachConnection, report: &mut Report<'_>) {
    let field = "spec.eachConnection";
    if *each == EachConnection::default() {
        report.error_with(
            field,
            "says nothing",
            "give maxRequests, maxDuration, idleTimeout or maxConcurrentStreams",
        );
    }
    within(&format!("{field}.maxRequests"), each.max_requests, MOST, report);
    within(&format!("{field}.maxConcurrentStreams"), each.max_concurrent_streams, MOST_STREAMS, report);
    let times = [("maxDuration", each.max_duration, DAY), ("idleTimeout", each.idle_timeout, HOUR)];
    for (name, time, most) in times {
        if time.is_some_and(|time| !(SECOND..=most).contains(&time.get())) {
            let reason = format!("is not between 1s and {}h", most.as_secs() / HOUR.as_secs());
            report.error(format_args!("{field}.{name}"), reason);
        }
    }
}

fn keys_of_connections(field: &str, by: &[LimitKey], report: &mut Report<'_>) {
    for (index, _) in by.iter().enumerate().filter(|(_, key)| !key.is_of_connections()) {
        let reason = "is known of requests, not of connections";
        report.error_with(format_args!("{field}.by[{index}]"), reason, "one of identity, address");
    }
}

fn within(field: &str, number: Option<u32>, most: u32, report: &mut Report<'_>) {
    if let Some(number) = number.filter(|number| !(1..=most).contains(number)) {
        report.error(field, format!("{number} is not between 1 and {most}"));
    }
}

fn check(field: &str, rule: &RequestLimit, report: &mut Report<'_>) {
    let numbers = Numbers {
        named: "requests",
        count: rule.requests,
        per: rule.per(),
        burst: rule.burst,
        max_keys: rule.max_keys,
    };
    numbers.check(field, &rule.by, report);
    for (index, key) in rule.by.iter().enumerate() {
        if matches!(key, LimitKey::Header(name) if name.is_pseudo()) {
            report.error_with(
                format_args!("{field}.by[{index}]"),
                "is no header",
                "host, method and path have words of their own",
            );
        }
    }
    at_most(64, &format!("{field}.match"), rule.r#match.len(), report);
    for (index, it) in rule.r#match.iter().enumerate() {
        matches(&format!("{field}.match[{index}]"), it, report);
    }
}

fn matches(field: &str, it: &RequestMatch, report: &mut Report<'_>) {
    if *it == RequestMatch::default() {
        report.error_with(field, "must ask for something", "remove it to match every request");
    }
    let texts = [("uri", &it.uri), ("method", &it.method), ("authority", &it.authority)];
    let texts =
        texts.into_iter().filter_map(|(name, want)| Some((format!("{field}.{name}"), want.as_ref()?)));
    let headers = it.headers.iter().map(|(name, want)| match name {
        HeaderKey::Name(name) => (super::child(&format!("{field}.headers"), name.as_str()), want),
        HeaderKey::Claim(_) => (format!("{field}.headers"), want),
    });
    for (field, want) in texts.chain(headers) {
        if let StringMatch::Regex(regex) = want {
            report.regex(format_args!("{field}.regex"), regex);
        }
    }
    if it.headers.keys().any(|name| matches!(name, HeaderKey::Claim(_))) {
        report.error(format_args!("{field}.headers"), "claims of tokens are not looked at here");
    }
}

fn global(limit: &GlobalLimit, report: &mut Report<'_>) {
    if !matches!(limit.service, Host::Name(_)) {
        let hint = "the name of a Service, or a host of a ServiceEntry";
        report.error_with("spec.global.service", "is no name of one service", hint);
    }
    if limit.domain.is_empty() {
        report.error("spec.global.domain", "must not be empty");
    }
    if limit.timeout.is_some_and(|timeout| timeout.get() > MOST_WAIT) {
        report.error("spec.global.timeout", "is longer than 10s: every request would wait so long");
    }
    if limit.descriptors.is_empty() {
        report.error("spec.global.descriptors", "must not be empty: nothing would be asked");
    }
    at_most(32, "spec.global.descriptors", limit.descriptors.len(), report);
    for (index, descriptor) in limit.descriptors.iter().enumerate() {
        let field = format!("spec.global.descriptors[{index}]");
        if descriptor.entries.is_empty() {
            report.error(format_args!("{field}.entries"), "must not be empty");
        }
        at_most(16, &format!("{field}.entries"), descriptor.entries.len(), report);
        for (index, it) in descriptor.r#match.iter().enumerate() {
            matches(&format!("{field}.match[{index}]"), it, report);
        }
        for (index, entry) in descriptor.entries.iter().enumerate() {
            let field = format!("{field}.entries[{index}]");
            if entry.key.is_empty() {
                report.error(format_args!("{field}.key"), "must not be empty");
            }
            if entry.value.is_empty() == entry.from.is_none() {
                let reason = "exactly one of value and from must be given";
                report.error_with(&field, reason, "value is a text, from names what of the request is meant");
            }
        }
    }
}

/// The numbers of a limit.
struct Numbers {
    named: &'static str,
    count: u32,
    per: Duration,
    burst: Option<u32>,
    max_keys: Option<u32>,
}

impl Numbers {
    fn check(&self, field: &str, by: &[LimitKey], report: &mut Report<'_>) {
        at_most(8, &format!("{field}.by"), by.len(), report);
        if !(1..=MOST).contains(&self.count) {
            let reason = format!("{} is not between 1 and {MOST}", self.count);
            let hint = "to refuse everything is what an AuthorizationPolicy is for";
            report.error_with(format_args!("{field}.{}", self.named), reason, hint);
        }
        if self.per > DAY {
            report.error(format_args!("{field}.per"), "is longer than a day (24h)");
        }
        let most = self.count.saturating_mul(MOST_BURST);
        if let Some(burst) = self.burst.filter(|burst| !(1..=most).contains(burst)) {
            let reason = format!("{burst} is not between 1 and {most}");
            report.error(format_args!("{field}.burst"), reason);
        }
        if let Some(keys) = self.max_keys {
            if !(1..=MOST_KEYS).contains(&keys) {
                let reason = format!("{keys} is not between 1 and {MOST_KEYS}");
                report.error(format_args!("{field}.maxKeys"), reason);
            } else if by.is_empty() {
                let reason = "has no effect: without by there is one count";
                report.warning(format_args!("{field}.maxKeys"), reason);
            }
        }
    }
}

/// Requests wait for a rate limit service.
const MOST_WAIT: Duration = Duration::from_secs(10);
/// More is no limit.
const MOST_BYTES: u32 = 1 << 30;
/// Each request that is under way may hold so much memory.
const MOST_BUFFERED: u32 = 16 << 20;
const SECOND: Duration = Duration::from_secs(1);
/// What connections get without a word.
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// No process has more file descriptors.
const MOST_OPEN: u32 = 1_000_000;
/// Each may hold a window and a buffer of some hundred kilobytes.
const MOST_STREAMS: u32 = 1_000;
/// More in a day would not be a limit, and times stay far from the end of their type.
const MOST: u32 = 1_000_000_000;
/// A burst beyond so many times the rate would take days to come back.
const MOST_BURST: u32 = 1_000;
/// About 50 bytes each.
const MOST_KEYS: u32 = 1_000_000;
