//! The control plane: who subscribes, how far they are, and the certificate authority.

use super::{Choices, Dashboard, Panel, Row, Shape, Unit, Variable};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    name: "control-plane",
    title: "Mesh: control plane",
    description: "Whom the control plane tells, how far they are, what it signs and what it costs.",
    variables: &[Variable {
        name: "replica",
        label: "Replica",
        choices: Choices::OfSeries("instance", "istio_build{component=\"pilot\"}"),
    }],
    rows: &[
        Row { title: "Discovery", panels: DISCOVERY },
        Row { title: "Certificate authority", panels: AUTHORITY },
        Row { title: "Mesh page", panels: PAGE },
        Row { title: "What it costs", panels: COST },
    ],
};

const DISCOVERY: &[Panel] = &[
    Panel {
        title: "Subscribers",
        description: "Proxies that are connected.",
        shape: Shape::Stat,
        unit: Unit::Count,
        questions: &[("sum(pilot_xds{instance=~\"$replica\"})", "")],
    },
    Panel {
        title: "Behind",
        description: "Subscribers, by type, with answers outstanding.",
        shape: Shape::Stat,
        unit: Unit::Count,
        questions: &[("sum(mesh_control_subscribers_behind{instance=~\"$replica\"})", "")],
    },
    Panel {
        title: "Rejected",
        description: "Responses of which a subscriber has rejected something. Each is worth a look at meshctl proxy-status.",
        shape: Shape::Stat,
        unit: Unit::PerSecond,
        questions: &[("sum(rate(pilot_total_xds_rejects{instance=~\"$replica\"}[$__rate_interval]))", "")],
    },
    Panel {
        title: "Versions",
        description: "Replicas by version.",
        shape: Shape::Stat,
        unit: Unit::Count,
        questions: &[("sum(istio_build{component=\"pilot\",instance=~\"$replica\"}) by (tag)", "{{tag}}")],
    },
    Panel {
        title: "Pushes",
        description: "Responses sent, by type.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[(
            "sum(rate(pilot_xds_pushes{instance=~\"$replica\"}[$__rate_interval])) by (type)",
            "{{type}}",
        )],
    },
    Panel {
        title: "Convergence",
        description: "From a change to the answer of the last response about it, of each subscriber that it is about.",
        shape: Shape::Graph,
        unit: Unit::Seconds,
        questions: &[
            (
                "histogram_quantile(0.50, sum(rate(pilot_proxy_convergence_time_bucket{instance=~\"$replica\"}[$__rate_interval])) by (le))",
                "P50",
            ),
            (
                "histogram_quantile(0.90, sum(rate(pilot_proxy_convergence_time_bucket{instance=~\"$replica\"}[$__rate_interval])) by (le))",
                "P90",
            ),
            (
                "histogram_quantile(0.99, sum(rate(pilot_proxy_convergence_time_bucket{instance=~\"$replica\"}[$__rate_interval])) by (le))",
                "P99",
            ),
        ],
    },
    Panel {
        title: "Resources",
        description: "What is served, by type.",
        shape: Shape::Graph,
        unit: Unit::Count,
        questions: &[(
            "sum(mesh_control_resources{instance=~\"$replica\"}) by (instance, type)",
            "{{instance}} {{type}}",
        )],
    },
    Panel {
        title: "Bytes sent",
        description: "Of resources.",
        shape: Shape::Graph,
        unit: Unit::BytesPerSecond,
        questions: &[(
            "sum(rate(mesh_control_sent_bytes_total{instance=~\"$replica\"}[$__rate_interval])) by (instance)",
            "{{instance}}",
        )],
    },
    Panel {
        title: "Streams",
        description: "Opened, and refused or ended for cause.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[
            (
                "sum(rate(mesh_control_streams_total{instance=~\"$replica\"}[$__rate_interval])) by (instance)",
                "{{instance}} opened",
            ),
            (
                "sum(rate(mesh_control_streams_refused_total{instance=~\"$replica\"}[$__rate_interval])) by (instance)",
                "{{instance}} refused",
            ),
        ],
    },
];

const AUTHORITY: &[Panel] = &[
    Panel {
        title: "Certificates",
        description: "Issued, refused or failed, and those that were one too many of their caller.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[
            (
                "sum(rate(citadel_server_success_cert_issuance_count{instance=~\"$replica\"}[$__rate_interval])) by (instance)",
                "{{instance}} issued",
            ),
            (
                "sum(rate(citadel_server_csr_sign_err_count{instance=~\"$replica\"}[$__rate_interval])) by (instance)",
                "{{instance}} failed",
            ),
            (
                "sum(rate(mesh_control_certificates_limited_total{instance=~\"$replica\"}[$__rate_interval])) by (instance)",
                "{{instance}} too many",
            ),
        ],
    },
    Panel {
        title: "Signing certificate ends in",
        description: "The root is to be rotated before.",
        shape: Shape::Graph,
        unit: Unit::Lasts,
        questions: &[(
            "min(citadel_server_root_cert_expiry_timestamp{instance=~\"$replica\"}) by (instance) - time()",
            "{{instance}}",
        )],
    },
];

const PAGE: &[Panel] = &[
    Panel {
        title: "Reports of traffic",
        description: "Taken, refused, and edges that were not believed or that there was no room for.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[
            (
                "sum(rate(mesh_control_topology_reports_total{instance=~\"$replica\"}[$__rate_interval])) by (instance)",
                "{{instance}} taken",
            ),
            (
                "sum(rate(mesh_control_topology_refused_total{instance=~\"$replica\"}[$__rate_interval])) by (instance)",
                "{{instance}} refused",
            ),
            (
                "sum(rate(mesh_control_topology_disbelieved_total{instance=~\"$replica\"}[$__rate_interval])) by (instance)",
                "{{instance}} disbelieved",
            ),
            (
                "sum(rate(mesh_control_topology_left_out_total{instance=~\"$replica\"}[$__rate_interval])) by (instance)",
                "{{instance}} left out",
            ),
        ],
    },
    Panel {
        title: "Edges",
        description: "Of the graph, within an hour.",
        shape: Shape::Graph,
        unit: Unit::Count,
        questions: &[(
            "sum(mesh_control_topology_edges{instance=~\"$replica\"}) by (instance)",
            "{{instance}}",
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
            "sum(rate(process_cpu_seconds_total{instance=~\"$replica\"}[$__rate_interval])) by (instance)",
            "{{instance}}",
        )],
    },
    Panel {
        title: "Memory",
        description: "Resident.",
        shape: Shape::Graph,
        unit: Unit::Bytes,
        questions: &[(
            "sum(process_resident_memory_bytes{instance=~\"$replica\"}) by (instance)",
            "{{instance}}",
        )],
    },
    Panel {
        title: "Descriptors",
        description: "Share of the process's limit that is in use.",
        shape: Shape::Graph,
        unit: Unit::Share,
        questions: &[(
            "sum(process_open_fds{instance=~\"$replica\"}) by (instance) / sum(process_max_fds{instance=~\"$replica\"}) by (instance)",
            "{{instance}}",
        )],
    },
    Panel {
        title: "Panics",
        description: "Tasks that have ended in a bug. Must stay 0.",
        shape: Shape::Graph,
        unit: Unit::Count,
        questions: &[("sum(mesh_panics_total{instance=~\"$replica\"}) by (instance)", "{{instance}}")],
    },
];
