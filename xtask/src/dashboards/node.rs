//! The proxies themselves: nodes, waypoints and gateways.

use super::{Choices, Dashboard, Panel, Row, Shape, Unit, Variable};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    name: "node",
    title: "Mesh: nodes and other proxies",
    description: "How nodes, waypoints and gateways are: what they hold, refuse and use.",
    variables: &[Variable {
        name: "proxy",
        label: "Proxy",
        choices: Choices::OfSeries("instance", "istio_build{component=~\"node|proxy\"}"),
    }],
    rows: &[
        Row { title: "State", panels: STATE },
        Row { title: "Traffic", panels: TRAFFIC },
        Row { title: "What is refused", panels: REFUSED },
        Row { title: "Certificates", panels: CERTIFICATES },
        Row { title: "What it costs", panels: COST },
    ],
};

const STATE: &[Panel] = &[
    Panel {
        title: "Ready",
        description: "Proxies that are ready.",
        shape: Shape::Stat,
        unit: Unit::Count,
        questions: &[("sum(mesh_node_ready{instance=~\"$proxy\"})", "")],
    },
    Panel {
        title: "Captured pods",
        description: "Pods whose traffic the mesh has.",
        shape: Shape::Stat,
        unit: Unit::Count,
        questions: &[("sum(workload_manager_active_proxy_count{instance=~\"$proxy\"})", "")],
    },
    Panel {
        title: "Waiting pods",
        description: "Pods whose capture is not there yet, or has failed. They do not start.",
        shape: Shape::Stat,
        unit: Unit::Count,
        questions: &[("sum(workload_manager_pending_proxy_count{instance=~\"$proxy\"})", "")],
    },
    Panel {
        title: "Missing certificates",
        description: "Identities that are wanted and have no certificate.",
        shape: Shape::Stat,
        unit: Unit::Count,
        questions: &[("sum(mesh_certificates_missing{instance=~\"$proxy\"})", "")],
    },
    Panel {
        title: "Next certificate to end",
        description: "It is to be renewed when half of it is over.",
        shape: Shape::Stat,
        unit: Unit::Lasts,
        questions: &[("min(mesh_certificate_expiry_timestamp_seconds{instance=~\"$proxy\"}) - time()", "")],
    },
    Panel {
        title: "Roots of trust",
        description: "Certificates that peers may be under; more than one while the root changes.",
        shape: Shape::Stat,
        unit: Unit::Count,
        questions: &[("max(mesh_trust_bundle_roots{instance=~\"$proxy\"})", "")],
    },
    Panel {
        title: "Panics",
        description: "Tasks that have ended in a bug. Must stay 0.",
        shape: Shape::Stat,
        unit: Unit::Count,
        questions: &[("sum(mesh_panics_total{instance=~\"$proxy\"})", "")],
    },
    Panel {
        title: "Stalls",
        description: "Data threads that did not answer in time.",
        shape: Shape::Stat,
        unit: Unit::Count,
        questions: &[("sum(mesh_thread_stalls_total{instance=~\"$proxy\"})", "")],
    },
];

const TRAFFIC: &[Panel] = &[
    Panel {
        title: "Open connections",
        description: "By the side that they are reported from.",
        shape: Shape::Graph,
        unit: Unit::Count,
        questions: &[(
            "sum(istio_tcp_sockets_open{instance=~\"$proxy\"}) by (instance, reporter)",
            "{{instance}} {{reporter}}",
        )],
    },
    Panel {
        title: "New connections",
        description: "By the side that they are reported from.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[(
            "sum(rate(istio_tcp_connections_opened_total{instance=~\"$proxy\"}[$__rate_interval])) by (instance, reporter)",
            "{{instance}} {{reporter}}",
        )],
    },
    Panel {
        title: "Tunnels taken",
        description: "New tunnels from peers: the mesh's own protocol, and HBONE.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[
            (
                "sum(rate(mesh_tunnels_taken_mesh_total{instance=~\"$proxy\"}[$__rate_interval])) by (instance)",
                "{{instance}} mesh/1",
            ),
            (
                "sum(rate(mesh_tunnels_taken_hbone_total{instance=~\"$proxy\"}[$__rate_interval])) by (instance)",
                "{{instance}} HBONE",
            ),
        ],
    },
    Panel {
        title: "In the kernel",
        description: "What the eBPF programs have counted.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[(
            "sum(rate(mesh_ebpf_events_total{instance=~\"$proxy\"}[$__rate_interval])) by (event)",
            "{{event}}",
        )],
    },
    Panel {
        title: "DNS",
        description: "Questions of pods, and those that were passed on.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[
            (
                "sum(rate(istio_dns_requests_total{instance=~\"$proxy\"}[$__rate_interval])) by (instance)",
                "{{instance}} asked",
            ),
            (
                "sum(rate(istio_dns_upstream_requests_total{instance=~\"$proxy\"}[$__rate_interval])) by (instance)",
                "{{instance}} passed on",
            ),
            (
                "sum(rate(istio_dns_upstream_failures_total{instance=~\"$proxy\"}[$__rate_interval])) by (instance)",
                "{{instance}} failed",
            ),
        ],
    },
    Panel {
        title: "Traces",
        description: "Spans that collectors have taken, and those that nobody has.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[
            (
                "sum(rate(mesh_spans_sent_total{instance=~\"$proxy\"}[$__rate_interval])) by (instance)",
                "{{instance}} sent",
            ),
            (
                "sum(rate(mesh_spans_dropped_total{instance=~\"$proxy\"}[$__rate_interval])) by (reason)",
                "dropped: {{reason}}",
            ),
        ],
    },
];

const REFUSED: &[Panel] = &[
    Panel {
        title: "Denied by policy",
        description: "By reason.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[(
            "sum(rate(mesh_connections_denied_total{instance=~\"$proxy\"}[$__rate_interval])) by (reason)",
            "{{reason}}",
        )],
    },
    Panel {
        title: "Handshakes refused",
        description: "TLS handshakes that did not end in a tunnel, by reason.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[(
            "sum(rate(mesh_handshakes_refused_total{instance=~\"$proxy\"}[$__rate_interval])) by (reason)",
            "{{reason}}",
        )],
    },
    Panel {
        title: "Invalid requests",
        description: "Requests that are malformed or ask for what is not here, by reason.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[(
            "sum(rate(mesh_invalid_requests_total{instance=~\"$proxy\"}[$__rate_interval])) by (reason)",
            "{{reason}}",
        )],
    },
    Panel {
        title: "Shed",
        description: "Connections that there was no room for, by reason.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[(
            "sum(rate(mesh_connections_shed_total{instance=~\"$proxy\"}[$__rate_interval])) by (reason)",
            "{{reason}}",
        )],
    },
    Panel {
        title: "Tokens refused",
        description: "Tokens of end users, by reason.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[(
            "sum(rate(mesh_tokens_refused_total{instance=~\"$proxy\"}[$__rate_interval])) by (reason)",
            "{{reason}}",
        )],
    },
    Panel {
        title: "Not written",
        description: "Lines of the access log and label sets that there was no room for.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[
            (
                "sum(rate(mesh_access_log_dropped_total{instance=~\"$proxy\"}[$__rate_interval])) by (instance)",
                "{{instance}} access log",
            ),
            (
                "sum(rate(mesh_label_sets_overflow_total{instance=~\"$proxy\"}[$__rate_interval])) by (instance)",
                "{{instance}} label sets",
            ),
        ],
    },
];

const CERTIFICATES: &[Panel] = &[
    Panel {
        title: "Certificates issued",
        description: "New ones, those that took the place of older ones, and attempts that failed.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[
            (
                "sum(rate(mesh_certificates_issued_total{instance=~\"$proxy\"}[$__rate_interval])) by (instance)",
                "{{instance}} issued",
            ),
            (
                "sum(rate(mesh_certificate_rotations_total{instance=~\"$proxy\"}[$__rate_interval])) by (instance)",
                "{{instance}} rotated",
            ),
            (
                "sum(rate(mesh_certificate_failures_total{instance=~\"$proxy\"}[$__rate_interval])) by (instance)",
                "{{instance}} failed",
            ),
        ],
    },
    Panel {
        title: "Certificates end in",
        description: "Of each identity, the soonest.",
        shape: Shape::Graph,
        unit: Unit::Lasts,
        questions: &[(
            "min(mesh_certificate_expiry_timestamp_seconds{instance=~\"$proxy\"}) by (identity) - time()",
            "{{identity}}",
        )],
    },
];

const COST: &[Panel] = &[
    Panel {
        title: "CPU",
        description: "Cores in use.",
        shape: Shape::Graph,
        unit: Unit::Count,
        questions: &[(
            "sum(rate(process_cpu_seconds_total{instance=~\"$proxy\"}[$__rate_interval])) by (instance)",
            "{{instance}}",
        )],
    },
    Panel {
        title: "Memory",
        description: "Resident.",
        shape: Shape::Graph,
        unit: Unit::Bytes,
        questions: &[(
            "sum(process_resident_memory_bytes{instance=~\"$proxy\"}) by (instance)",
            "{{instance}}",
        )],
    },
    Panel {
        title: "Descriptors",
        description: "Share of the process's limit that is in use.",
        shape: Shape::Graph,
        unit: Unit::Share,
        questions: &[(
            "sum(process_open_fds{instance=~\"$proxy\"}) by (instance) / sum(process_max_fds{instance=~\"$proxy\"}) by (instance)",
            "{{instance}}",
        )],
    },
    Panel {
        title: "Threads",
        description: "Of the process.",
        shape: Shape::Graph,
        unit: Unit::Count,
        questions: &[("sum(process_threads{instance=~\"$proxy\"}) by (instance)", "{{instance}}")],
    },
];
