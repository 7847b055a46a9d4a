//! Metrics, in the form that Prometheus scrapes; names as Istio's control plane has them where it has them.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_ca::Ca;
use mesh_proto::names::ResourceType;

use crate::histogram::Histogram;
use crate::hub::Hub;
use crate::tasks;
use crate::topology::Traffic;

/// Everything there is to scrape.
pub fn render(hub: &Hub, ca: &Ca, traffic: &Traffic) -> String {
    let mut text = String::new();
    totals(hub, &mut text);
    process(&mut text);
    topology(traffic, &mut text);
    let clients = hub.clients();
    let count = u64::try_from(clients.len()).unwrap_or(u64::MAX);
    family(&mut text, ("pilot_xds", "gauge", "Subscribers."), [(String::new(), count)]);
    let shelf = hub.shelf();
    let sizes = ResourceType::ALL.map(|kind| {
        let size = u64::try_from(shelf.store(kind).len()).unwrap_or(u64::MAX);
        (of_type(kind), size)
    });
    family(&mut text, ("mesh_control_resources", "gauge", "Resources that are served."), sizes);
    let mut behind: BTreeMap<&str, u64> = BTreeMap::new();
    for (kind, progress, _) in clients.iter().flat_map(|client| &client.types) {
        *behind.entry(short(*kind)).or_default() += u64::from(progress.acknowledged < progress.sent);
    }
    let behind = behind.into_iter().map(|(kind, count)| (format!("{{type=\"{kind}\"}}"), count));
    family(
        &mut text,
        ("mesh_control_subscribers_behind", "gauge", "Subscribers with answers outstanding."),
        behind,
    );
    let expiry = ca.authority().material().not_after();
    let expiry = expiry.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let help = "When the signing certificate ends, in seconds since 1970.";
    family(
        &mut text,
        ("citadel_server_root_cert_expiry_timestamp", "gauge", help),
        [(String::new(), expiry)],
    );
    family(
        &mut text,
        ("mesh_panics_total", "counter", "Tasks that panicked. Must stay 0."),
        [(String::new(), tasks::panics())],
    );
    text
}

/// What this process is, and what it uses.
fn process(text: &mut String) {
    let build = format!("{{component=\"pilot\",tag=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    family(text, ("istio_build", "gauge", "Version of this component."), [(build, 1)]);
    let figures = crate::process::read();
    let exact = [
        (
            "process_cpu_seconds_total",
            "counter",
            "User and system CPU time spent, in seconds.",
            figures.cpu_seconds,
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "Start time of the process since 1970, in seconds.",
            figures.start_seconds,
        ),
    ];
    for (name, kind, help, value) in exact {
        family(text, (name, kind, help), value.map(|value| (String::new(), value)));
    }
    let whole = [
        ("process_resident_memory_bytes", "Resident memory size in bytes.", figures.resident),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", figures.virtual_memory),
        ("process_threads", "Number of threads.", figures.threads),
        ("process_open_fds", "Number of open file descriptors.", figures.open_fds),
        ("process_max_fds", "Maximum number of open file descriptors.", figures.max_fds),
    ];
    for (name, help, value) in whole {
        family(text, (name, "gauge", help), value.map(|value| (String::new(), value)));
    }
}

/// One of each kind, or one without a kind.
fn histograms<'h>(
    text: &mut String,
    (name, help): (&str, &str),
    all: impl IntoIterator<Item = (Option<ResourceType>, &'h Histogram)>,
) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
    for (kind, histogram) in all {
        let shown = histogram.shown();
        let label = kind.map(|kind| format!("type=\"{}\",", short(kind))).unwrap_or_default();
        for (limit, count) in &shown.buckets {
            let _ = writeln!(text, "{name}_bucket{{{label}le=\"{limit}\"}} {count}");
        }
        let count = shown.buckets.last().map_or(0, |(_, count)| *count);
        let of = kind.map(of_type).unwrap_or_default();
        let _ = writeln!(text, "{name}_sum{of} {}\n{name}_count{of} {count}", shown.sum);
    }
}

fn of_type(kind: ResourceType) -> String {
    format!("{{type=\"{}\"}}", short(kind))
}

/// What has only ever grown.
fn totals(hub: &Hub, text: &mut String) {
    let counters = &hub.counters;
    let totals: [(&str, &str, &AtomicU64); 11] = [
        ("mesh_control_streams_total", "Discovery streams that were opened.", &counters.streams),
        (
            "mesh_control_streams_refused_total",
            "Discovery streams refused or ended for cause.",
            &counters.refused,
        ),
        ("mesh_control_sent_bytes_total", "Bytes of resources sent.", &counters.bytes),
        (
            "pilot_total_xds_internal_errors",
            "Discovery responses that could not be made.",
            &counters.internal_errors,
        ),
        (
            "mesh_control_keys_withheld_total",
            "Keys not told to gateways of their namespace that no Gateway naming them selects.",
            &counters.keys_withheld,
        ),
        ("galley_validation_passed", "Objects that the webhook let in.", &counters.reviews_passed),
        ("galley_validation_failed", "Objects that the webhook refused.", &counters.reviews_failed),
        (
            "mesh_control_debug_refused_total",
            "Requests of the monitoring port for what their caller may not see.",
            &counters.debug_refused,
        ),
        (
            "mesh_control_debug_crowded_total",
            "Connections to the monitoring port that there was no room for.",
            &counters.debug_crowded,
        ),
        ("citadel_server_success_cert_issuance_count", "Certificates issued.", &counters.certificates),
        (
            "citadel_server_csr_sign_err_count",
            "Requests for certificates refused or failed.",
            &counters.certificate_failures,
        ),
    ];
    for (name, help, value) in totals {
        family(text, (name, "counter", help), [(String::new(), value.load(Ordering::Relaxed))]);
    }
    let pushes = ResourceType::ALL.iter().zip(&counters.responses);
    let pushes = pushes.map(|(kind, count)| (of_type(*kind), count.load(Ordering::Relaxed)));
    family(text, ("pilot_xds_pushes", "counter", "Discovery responses sent."), pushes);
    let kinds = ResourceType::ALL.map(of_type).into_iter().chain(["{type=\"unknown\"}".to_owned()]);
    let rejects = kinds.zip(&counters.rejections).map(|(kind, count)| (kind, count.load(Ordering::Relaxed)));
    let help = "Responses of which a subscriber rejected something.";
    family(text, ("pilot_total_xds_rejects", "counter", help), rejects);
    let help = "Seconds from a change to a subscriber's answer to the last response about it.";
    histograms(text, ("pilot_proxy_convergence_time", help), [(None, &counters.convergence)]);
    let kinds = || ResourceType::ALL.into_iter().map(Some);
    let help = "Seconds that a discovery response took to be made.";
    histograms(text, ("pilot_xds_push_time", help), kinds().zip(&counters.push_times));
    let help = "Bytes of the resources of a discovery response.";
    histograms(text, ("pilot_xds_config_size_bytes", help), kinds().zip(&counters.sizes));
    sources(hub, text);
    let help = "Requests for certificates that were one too many of their caller, or of all.";
    let limited = ("mesh_control_certificates_limited_total", "counter", help);
    family(text, limited, [(String::new(), hub.certificates.refused())]);
}

/// What came from the sources.
fn sources(hub: &Hub, text: &mut String) {
    let counts = hub.counters.events.shown();
    let by_event = |all: BTreeMap<(&str, &str), u64>| {
        let labelled = all
            .into_iter()
            .map(|((kind, event), count)| (format!("{{type=\"{kind}\",event=\"{event}\"}}"), count));
        labelled.collect::<Vec<_>>()
    };
    let help = "Services, endpoints, pods, nodes and namespaces that were new, different or gone.";
    family(text, ("pilot_k8s_reg_events", "counter", help), by_event(counts.registry));
    let help = "Other resources that were new, different or gone.";
    family(text, ("pilot_k8s_cfg_events", "counter", help), by_event(counts.config));
    let triggers = counts.triggers.into_iter().map(|(sort, count)| (format!("{{type=\"{sort}\"}}"), count));
    let help = "Changes of what subscribers are told, by what brought them.";
    family(text, ("pilot_push_triggers", "counter", help), triggers);
}

/// What proxies have told of traffic.
fn topology(traffic: &Traffic, text: &mut String) {
    let counters = &traffic.counters;
    let totals: [(&str, &str, &AtomicU64); 4] = [
        ("mesh_control_topology_reports_total", "Reports of traffic taken in.", &counters.reports),
        ("mesh_control_topology_refused_total", "Reports of traffic refused.", &counters.refused),
        (
            "mesh_control_topology_disbelieved_total",
            "Edges told by a proxy that none of their ends belongs to.",
            &counters.disbelieved,
        ),
        ("mesh_control_topology_left_out_total", "Edges that there was no room for.", &counters.left_out),
    ];
    for (name, help, value) in totals {
        family(text, (name, "counter", help), [(String::new(), value.load(Ordering::Relaxed))]);
    }
    let edges = u64::try_from(traffic.store().summary().edges).unwrap_or(u64::MAX);
    let help = "Edges of the graph that have carried something within an hour.";
    family(text, ("mesh_control_topology_edges", "gauge", help), [(String::new(), edges)]);
}

/// The type's name without its package.
pub fn short(kind: ResourceType) -> &'static str {
    kind.url().rsplit('.').next().unwrap_or_default()
}

fn family(
    text: &mut String,
    (name, kind, help): (&str, &str, &str),
    values: impl IntoIterator<Item = (String, impl Display)>,
) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in values {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}
