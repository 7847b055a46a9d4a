//! One service: how it answers, whom, and which of its workloads does.

use super::{Choices, Dashboard, Panel, Row, Shape, Unit, Variable};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    name: "service",
    title: "Mesh: service",
    description: "How services answer: seen from their clients, by client, by workload and version.",
    variables: &[
        Variable {
            name: "namespace",
            label: "Namespace",
            choices: Choices::OfSeries(
                "destination_service_namespace",
                "{__name__=~\"istio_requests_total|istio_tcp_connections_opened_total\"}",
            ),
        },
        Variable {
            name: "service",
            label: "Service",
            choices: Choices::OfSeries(
                "destination_service",
                "{__name__=~\"istio_requests_total|istio_tcp_connections_opened_total\",destination_service_namespace=~\"$namespace\"}",
            ),
        },
    ],
    rows: &[
        Row { title: "Seen from its clients", panels: CLIENTS },
        Row { title: "By client", panels: BY_CLIENT },
        Row { title: "By workload", panels: BY_WORKLOAD },
    ],
};

const CLIENTS: &[Panel] = &[
    Panel {
        title: "Requests",
        description: "HTTP and gRPC requests for the service.",
        shape: Shape::Stat,
        unit: Unit::RequestsPerSecond,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",destination_service=~\"$service\"}[$__rate_interval]))",
            "",
        )],
    },
    Panel {
        title: "Success",
        description: "Share of requests that were not answered with 5xx.",
        shape: Shape::Stat,
        unit: Unit::Share,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",destination_service=~\"$service\",response_code!~\"5.*\"}[$__rate_interval])) / sum(rate(istio_requests_total{reporter=~\"source|waypoint\",destination_service=~\"$service\"}[$__rate_interval]))",
            "",
        )],
    },
    Panel {
        title: "Connections",
        description: "Connections to the service, where nobody reads requests.",
        shape: Shape::Stat,
        unit: Unit::PerSecond,
        questions: &[(
            "sum(rate(istio_tcp_connections_opened_total{reporter=\"source\",destination_service=~\"$service\"}[$__rate_interval]))",
            "",
        )],
    },
    Panel {
        title: "Clients",
        description: "Workloads that use the service.",
        shape: Shape::Stat,
        unit: Unit::Count,
        questions: &[(
            "count(count({__name__=~\"istio_requests_total|istio_tcp_connections_opened_total\",destination_service=~\"$service\"}) by (source_workload, source_workload_namespace))",
            "",
        )],
    },
    Panel {
        title: "Requests by status",
        description: "By what they were answered, and over what.",
        shape: Shape::Graph,
        unit: Unit::RequestsPerSecond,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",destination_service=~\"$service\"}[$__rate_interval])) by (response_code, request_protocol)",
            "{{response_code}} {{request_protocol}}",
        )],
    },
    Panel {
        title: "Duration",
        description: "Time from the start of a request to the end of its answer.",
        shape: Shape::Graph,
        unit: Unit::Milliseconds,
        questions: &[
            (
                "histogram_quantile(0.50, sum(rate(istio_request_duration_milliseconds_bucket{reporter=~\"source|waypoint\",destination_service=~\"$service\"}[$__rate_interval])) by (le))",
                "P50",
            ),
            (
                "histogram_quantile(0.90, sum(rate(istio_request_duration_milliseconds_bucket{reporter=~\"source|waypoint\",destination_service=~\"$service\"}[$__rate_interval])) by (le))",
                "P90",
            ),
            (
                "histogram_quantile(0.99, sum(rate(istio_request_duration_milliseconds_bucket{reporter=~\"source|waypoint\",destination_service=~\"$service\"}[$__rate_interval])) by (le))",
                "P99",
            ),
        ],
    },
    Panel {
        title: "Sizes",
        description: "What most requests and answers are smaller than.",
        shape: Shape::Graph,
        unit: Unit::Bytes,
        questions: &[
            (
                "histogram_quantile(0.95, sum(rate(istio_request_bytes_bucket{reporter=~\"source|waypoint\",destination_service=~\"$service\"}[$__rate_interval])) by (le))",
                "P95 of requests",
            ),
            (
                "histogram_quantile(0.95, sum(rate(istio_response_bytes_bucket{reporter=~\"source|waypoint\",destination_service=~\"$service\"}[$__rate_interval])) by (le))",
                "P95 of answers",
            ),
        ],
    },
    Panel {
        title: "gRPC messages",
        description: "Messages of gRPC calls.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[
            (
                "sum(rate(istio_request_messages_total{reporter=~\"source|waypoint\",destination_service=~\"$service\"}[$__rate_interval]))",
                "to the service",
            ),
            (
                "sum(rate(istio_response_messages_total{reporter=~\"source|waypoint\",destination_service=~\"$service\"}[$__rate_interval]))",
                "from the service",
            ),
        ],
    },
    Panel {
        title: "Bytes of connections",
        description: "Of connections to the service.",
        shape: Shape::Graph,
        unit: Unit::BytesPerSecond,
        questions: &[
            (
                "sum(rate(istio_tcp_received_bytes_total{reporter=\"source\",destination_service=~\"$service\"}[$__rate_interval]))",
                "to the service",
            ),
            (
                "sum(rate(istio_tcp_sent_bytes_total{reporter=\"source\",destination_service=~\"$service\"}[$__rate_interval]))",
                "from the service",
            ),
        ],
    },
    Panel {
        title: "Why requests failed",
        description: "By Envoy's response flags.",
        shape: Shape::Graph,
        unit: Unit::RequestsPerSecond,
        questions: &[(
            "sum(rate(istio_requests_total{destination_service=~\"$service\",response_flags!=\"-\"}[$__rate_interval])) by (response_flags, reporter)",
            "{{response_flags}} ({{reporter}})",
        )],
    },
];

const BY_CLIENT: &[Panel] = &[
    Panel {
        title: "Requests by client",
        description: "By the workload that asks, and whether the request came protected.",
        shape: Shape::Graph,
        unit: Unit::RequestsPerSecond,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=\"destination\",destination_service=~\"$service\"}[$__rate_interval])) by (source_workload, source_workload_namespace, connection_security_policy)",
            "{{source_workload}}.{{source_workload_namespace}} ({{connection_security_policy}})",
        )],
    },
    Panel {
        title: "Success by client",
        description: "Share of each client's requests that were not answered with 5xx.",
        shape: Shape::Graph,
        unit: Unit::Share,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"destination|waypoint\",destination_service=~\"$service\",response_code!~\"5.*\"}[$__rate_interval])) by (source_workload, source_workload_namespace) / sum(rate(istio_requests_total{reporter=~\"destination|waypoint\",destination_service=~\"$service\"}[$__rate_interval])) by (source_workload, source_workload_namespace)",
            "{{source_workload}}.{{source_workload_namespace}}",
        )],
    },
    Panel {
        title: "Duration by client",
        description: "The 95th percentile.",
        shape: Shape::Graph,
        unit: Unit::Milliseconds,
        questions: &[(
            "histogram_quantile(0.95, sum(rate(istio_request_duration_milliseconds_bucket{reporter=~\"source|waypoint\",destination_service=~\"$service\"}[$__rate_interval])) by (le, source_workload, source_workload_namespace))",
            "{{source_workload}}.{{source_workload_namespace}}",
        )],
    },
    Panel {
        title: "Connections by client",
        description: "By the workload that connects, and whether it came protected.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[(
            "sum(rate(istio_tcp_connections_opened_total{reporter=\"destination\",destination_service=~\"$service\"}[$__rate_interval])) by (source_workload, source_workload_namespace, connection_security_policy)",
            "{{source_workload}}.{{source_workload_namespace}} ({{connection_security_policy}})",
        )],
    },
];

const BY_WORKLOAD: &[Panel] = &[
    Panel {
        title: "Requests by version",
        description: "By the version that has answered.",
        shape: Shape::Graph,
        unit: Unit::RequestsPerSecond,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"destination|waypoint\",destination_service=~\"$service\"}[$__rate_interval])) by (destination_canonical_service, destination_canonical_revision)",
            "{{destination_canonical_service}} {{destination_canonical_revision}}",
        )],
    },
    Panel {
        title: "Duration by workload",
        description: "The 95th percentile, as the workload's own side has seen it.",
        shape: Shape::Graph,
        unit: Unit::Milliseconds,
        questions: &[(
            "histogram_quantile(0.95, sum(rate(istio_request_duration_milliseconds_bucket{reporter=~\"destination|waypoint\",destination_service=~\"$service\"}[$__rate_interval])) by (le, destination_workload, destination_workload_namespace))",
            "{{destination_workload}}.{{destination_workload_namespace}}",
        )],
    },
    Panel {
        title: "Success by workload",
        description: "Share of requests that the workload has not answered with 5xx.",
        shape: Shape::Graph,
        unit: Unit::Share,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"destination|waypoint\",destination_service=~\"$service\",response_code!~\"5.*\"}[$__rate_interval])) by (destination_workload, destination_workload_namespace) / sum(rate(istio_requests_total{reporter=~\"destination|waypoint\",destination_service=~\"$service\"}[$__rate_interval])) by (destination_workload, destination_workload_namespace)",
            "{{destination_workload}}.{{destination_workload_namespace}}",
        )],
    },
];
