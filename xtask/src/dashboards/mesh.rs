//! The whole mesh: how much flows, how well, how fast, and how much of it is protected.

use super::{Choices, Dashboard, Panel, Row, Shape, Unit, Variable};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    name: "mesh",
    title: "Mesh",
    description: "What flows through the mesh, by service. Requests where they are read, connections everywhere.",
    variables: &[Variable {
        name: "namespace",
        label: "Namespace of the service",
        choices: Choices::OfSeries(
            "destination_service_namespace",
            "{__name__=~\"istio_requests_total|istio_tcp_connections_opened_total\"}",
        ),
    }],
    rows: &[
        Row { title: "At a glance", panels: GLANCE },
        Row { title: "Requests", panels: REQUESTS },
        Row { title: "Connections", panels: CONNECTIONS },
    ],
};

const GLANCE: &[Panel] = &[
    Panel {
        title: "Requests",
        description: "HTTP and gRPC requests, as their clients' side or a waypoint has counted them.",
        shape: Shape::Stat,
        unit: Unit::RequestsPerSecond,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",destination_service_namespace=~\"$namespace\"}[$__rate_interval]))",
            "",
        )],
    },
    Panel {
        title: "Success",
        description: "Share of requests that were not answered with 5xx.",
        shape: Shape::Stat,
        unit: Unit::Share,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",destination_service_namespace=~\"$namespace\",response_code!~\"5.*\"}[$__rate_interval])) / sum(rate(istio_requests_total{reporter=~\"source|waypoint\",destination_service_namespace=~\"$namespace\"}[$__rate_interval]))",
            "",
        )],
    },
    Panel {
        title: "4xx",
        description: "Requests that were answered with 4xx.",
        shape: Shape::Stat,
        unit: Unit::RequestsPerSecond,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",destination_service_namespace=~\"$namespace\",response_code=~\"4.*\"}[$__rate_interval]))",
            "",
        )],
    },
    Panel {
        title: "5xx",
        description: "Requests that were answered with 5xx, or not at all.",
        shape: Shape::Stat,
        unit: Unit::RequestsPerSecond,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",destination_service_namespace=~\"$namespace\",response_code=~\"5.*|0\"}[$__rate_interval]))",
            "",
        )],
    },
    Panel {
        title: "Protected requests",
        description: "Share of requests that came with mutual TLS, or never left their node.",
        shape: Shape::Stat,
        unit: Unit::Share,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=\"destination\",destination_service_namespace=~\"$namespace\",connection_security_policy=\"mutual_tls\"}[$__rate_interval])) / sum(rate(istio_requests_total{reporter=\"destination\",destination_service_namespace=~\"$namespace\"}[$__rate_interval]))",
            "",
        )],
    },
    Panel {
        title: "Protected connections",
        description: "Share of connections that came with mutual TLS, or never left their node.",
        shape: Shape::Stat,
        unit: Unit::Share,
        questions: &[(
            "sum(rate(istio_tcp_connections_opened_total{reporter=\"destination\",destination_service_namespace=~\"$namespace\",connection_security_policy=\"mutual_tls\"}[$__rate_interval])) / sum(rate(istio_tcp_connections_opened_total{reporter=\"destination\",destination_service_namespace=~\"$namespace\"}[$__rate_interval]))",
            "",
        )],
    },
    Panel {
        title: "Denied",
        description: "Connections that policy has refused or ended.",
        shape: Shape::Stat,
        unit: Unit::PerSecond,
        questions: &[("sum(rate(mesh_connections_denied_total[$__rate_interval]))", "")],
    },
    Panel {
        title: "Versions",
        description: "Components of the mesh, by version.",
        shape: Shape::Stat,
        unit: Unit::Count,
        questions: &[(
            "sum(istio_build{component!=\"ztunnel\"}) by (component, tag)",
            "{{component}} {{tag}}",
        )],
    },
];

const REQUESTS: &[Panel] = &[
    Panel {
        title: "Services",
        description: "Services that are asked over HTTP or gRPC.",
        shape: Shape::Table,
        unit: Unit::RequestsPerSecond,
        questions: &[
            (
                "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",destination_service_namespace=~\"$namespace\"}[$__rate_interval])) by (destination_service)",
                "Requests a second",
            ),
            (
                "histogram_quantile(0.50, sum(rate(istio_request_duration_milliseconds_bucket{reporter=~\"source|waypoint\",destination_service_namespace=~\"$namespace\"}[$__rate_interval])) by (le, destination_service))",
                "P50 ms",
            ),
            (
                "histogram_quantile(0.90, sum(rate(istio_request_duration_milliseconds_bucket{reporter=~\"source|waypoint\",destination_service_namespace=~\"$namespace\"}[$__rate_interval])) by (le, destination_service))",
                "P90 ms",
            ),
            (
                "histogram_quantile(0.99, sum(rate(istio_request_duration_milliseconds_bucket{reporter=~\"source|waypoint\",destination_service_namespace=~\"$namespace\"}[$__rate_interval])) by (le, destination_service))",
                "P99 ms",
            ),
            (
                "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",destination_service_namespace=~\"$namespace\",response_code!~\"5.*\"}[$__rate_interval])) by (destination_service) / sum(rate(istio_requests_total{reporter=~\"source|waypoint\",destination_service_namespace=~\"$namespace\"}[$__rate_interval])) by (destination_service)",
                "Success",
            ),
        ],
    },
    Panel {
        title: "Requests by status",
        description: "Requests by what they were answered.",
        shape: Shape::Graph,
        unit: Unit::RequestsPerSecond,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",destination_service_namespace=~\"$namespace\"}[$__rate_interval])) by (response_code)",
            "{{response_code}}",
        )],
    },
    Panel {
        title: "Why requests failed",
        description: "Requests that the mesh itself had something to say about, by Envoy's response flags.",
        shape: Shape::Graph,
        unit: Unit::RequestsPerSecond,
        questions: &[(
            "sum(rate(istio_requests_total{response_flags!=\"-\",destination_service_namespace=~\"$namespace\"}[$__rate_interval])) by (response_flags, reporter)",
            "{{response_flags}} ({{reporter}})",
        )],
    },
    Panel {
        title: "Requests through waypoints",
        description: "By the waypoint that has read them and the service that they are for.",
        shape: Shape::Graph,
        unit: Unit::RequestsPerSecond,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=\"waypoint\",destination_service_namespace=~\"$namespace\"}[$__rate_interval])) by (instance, destination_service)",
            "{{destination_service}} at {{instance}}",
        )],
    },
    Panel {
        title: "gRPC messages",
        description: "Messages of gRPC calls, to services and back.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[
            (
                "sum(rate(istio_request_messages_total{reporter=~\"source|waypoint\",destination_service_namespace=~\"$namespace\"}[$__rate_interval])) by (destination_service)",
                "to {{destination_service}}",
            ),
            (
                "sum(rate(istio_response_messages_total{reporter=~\"source|waypoint\",destination_service_namespace=~\"$namespace\"}[$__rate_interval])) by (destination_service)",
                "from {{destination_service}}",
            ),
        ],
    },
];

const CONNECTIONS: &[Panel] = &[
    Panel {
        title: "TCP services",
        description: "Services by connections and bytes.",
        shape: Shape::Table,
        unit: Unit::BytesPerSecond,
        questions: &[
            (
                "sum(rate(istio_tcp_connections_opened_total{reporter=\"source\",destination_service_namespace=~\"$namespace\"}[$__rate_interval])) by (destination_service)",
                "Connections a second",
            ),
            (
                "sum(rate(istio_tcp_received_bytes_total{reporter=\"source\",destination_service_namespace=~\"$namespace\"}[$__rate_interval])) by (destination_service)",
                "Bytes of requests a second",
            ),
            (
                "sum(rate(istio_tcp_sent_bytes_total{reporter=\"source\",destination_service_namespace=~\"$namespace\"}[$__rate_interval])) by (destination_service)",
                "Bytes of answers a second",
            ),
        ],
    },
    Panel {
        title: "Open connections",
        description: "Connections that proxies hold now.",
        shape: Shape::Graph,
        unit: Unit::Count,
        questions: &[("sum(istio_tcp_sockets_open) by (reporter)", "{{reporter}}")],
    },
    Panel {
        title: "Failed connections",
        description: "Connections that were never established, by what was in the way.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[(
            "sum(rate(istio_tcp_connections_failed_total{destination_service_namespace=~\"$namespace\"}[$__rate_interval])) by (response_flags, reporter)",
            "{{response_flags}} ({{reporter}})",
        )],
    },
];
