//! One workload: what comes to it, and what it asks of others.

use super::{Choices, Dashboard, Panel, Row, Shape, Unit, Variable};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    name: "workload",
    title: "Mesh: workload",
    description: "What comes to workloads, and what they ask of others.",
    variables: &[
        Variable {
            name: "namespace",
            label: "Namespace",
            choices: Choices::OfAnswer(
                "workload_namespace",
                "count(label_replace({__name__=~\"istio_requests_total|istio_tcp_connections_opened_total\"}, \"workload_namespace\", \"$1\", \"source_workload_namespace\", \"(.+)\") or label_replace({__name__=~\"istio_requests_total|istio_tcp_connections_opened_total\"}, \"workload_namespace\", \"$1\", \"destination_workload_namespace\", \"(.+)\")) by (workload_namespace)",
            ),
        },
        Variable {
            name: "workload",
            label: "Workload",
            choices: Choices::OfAnswer(
                "workload",
                "count(label_replace({__name__=~\"istio_requests_total|istio_tcp_connections_opened_total\",source_workload_namespace=~\"$namespace\"}, \"workload\", \"$1\", \"source_workload\", \"(.+)\") or label_replace({__name__=~\"istio_requests_total|istio_tcp_connections_opened_total\",destination_workload_namespace=~\"$namespace\"}, \"workload\", \"$1\", \"destination_workload\", \"(.+)\")) by (workload)",
            ),
        },
    ],
    rows: &[Row { title: "What comes", panels: INBOUND }, Row { title: "What it asks", panels: OUTBOUND }],
};

const INBOUND: &[Panel] = &[
    Panel {
        title: "Requests in",
        description: "HTTP and gRPC requests to the workload.",
        shape: Shape::Stat,
        unit: Unit::RequestsPerSecond,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"destination|waypoint\",destination_workload=~\"$workload\",destination_workload_namespace=~\"$namespace\"}[$__rate_interval]))",
            "",
        )],
    },
    Panel {
        title: "Success",
        description: "Share of requests that it has not answered with 5xx.",
        shape: Shape::Stat,
        unit: Unit::Share,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"destination|waypoint\",destination_workload=~\"$workload\",destination_workload_namespace=~\"$namespace\",response_code!~\"5.*\"}[$__rate_interval])) / sum(rate(istio_requests_total{reporter=~\"destination|waypoint\",destination_workload=~\"$workload\",destination_workload_namespace=~\"$namespace\"}[$__rate_interval]))",
            "",
        )],
    },
    Panel {
        title: "With an identity",
        description: "Share of requests to it for which it has proven who it is.",
        shape: Shape::Stat,
        unit: Unit::Share,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"destination|waypoint\",destination_workload=~\"$workload\",destination_workload_namespace=~\"$namespace\",destination_principal=~\"spiffe.*\"}[$__rate_interval])) / sum(rate(istio_requests_total{reporter=~\"destination|waypoint\",destination_workload=~\"$workload\",destination_workload_namespace=~\"$namespace\"}[$__rate_interval]))",
            "",
        )],
    },
    Panel {
        title: "Connections in",
        description: "Connections to the workload.",
        shape: Shape::Stat,
        unit: Unit::PerSecond,
        questions: &[(
            "sum(rate(istio_tcp_connections_opened_total{reporter=\"destination\",destination_workload=~\"$workload\",destination_workload_namespace=~\"$namespace\"}[$__rate_interval]))",
            "",
        )],
    },
    Panel {
        title: "Requests by client",
        description: "By who asks and what the answer was.",
        shape: Shape::Graph,
        unit: Unit::RequestsPerSecond,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"destination|waypoint\",destination_workload=~\"$workload\",destination_workload_namespace=~\"$namespace\"}[$__rate_interval])) by (source_workload, source_workload_namespace, response_code)",
            "{{source_workload}}.{{source_workload_namespace}} {{response_code}}",
        )],
    },
    Panel {
        title: "Duration",
        description: "As the workload's own side has seen it.",
        shape: Shape::Graph,
        unit: Unit::Milliseconds,
        questions: &[
            (
                "histogram_quantile(0.50, sum(rate(istio_request_duration_milliseconds_bucket{reporter=~\"destination|waypoint\",destination_workload=~\"$workload\",destination_workload_namespace=~\"$namespace\"}[$__rate_interval])) by (le))",
                "P50",
            ),
            (
                "histogram_quantile(0.90, sum(rate(istio_request_duration_milliseconds_bucket{reporter=~\"destination|waypoint\",destination_workload=~\"$workload\",destination_workload_namespace=~\"$namespace\"}[$__rate_interval])) by (le))",
                "P90",
            ),
            (
                "histogram_quantile(0.99, sum(rate(istio_request_duration_milliseconds_bucket{reporter=~\"destination|waypoint\",destination_workload=~\"$workload\",destination_workload_namespace=~\"$namespace\"}[$__rate_interval])) by (le))",
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
                "histogram_quantile(0.95, sum(rate(istio_request_bytes_bucket{reporter=~\"destination|waypoint\",destination_workload=~\"$workload\",destination_workload_namespace=~\"$namespace\"}[$__rate_interval])) by (le))",
                "P95 of requests",
            ),
            (
                "histogram_quantile(0.95, sum(rate(istio_response_bytes_bucket{reporter=~\"destination|waypoint\",destination_workload=~\"$workload\",destination_workload_namespace=~\"$namespace\"}[$__rate_interval])) by (le))",
                "P95 of answers",
            ),
        ],
    },
    Panel {
        title: "Bytes of connections in",
        description: "Of connections to the workload.",
        shape: Shape::Graph,
        unit: Unit::BytesPerSecond,
        questions: &[
            (
                "sum(rate(istio_tcp_received_bytes_total{reporter=\"destination\",destination_workload=~\"$workload\",destination_workload_namespace=~\"$namespace\"}[$__rate_interval])) by (source_workload, source_workload_namespace)",
                "from {{source_workload}}.{{source_workload_namespace}}",
            ),
            (
                "sum(rate(istio_tcp_sent_bytes_total{reporter=\"destination\",destination_workload=~\"$workload\",destination_workload_namespace=~\"$namespace\"}[$__rate_interval])) by (source_workload, source_workload_namespace)",
                "to {{source_workload}}.{{source_workload_namespace}}",
            ),
        ],
    },
];

const OUTBOUND: &[Panel] = &[
    Panel {
        title: "Requests by service",
        description: "By the service that it asks and what the answer was.",
        shape: Shape::Graph,
        unit: Unit::RequestsPerSecond,
        questions: &[(
            "sum(rate(istio_requests_total{reporter=~\"source|waypoint\",source_workload=~\"$workload\",source_workload_namespace=~\"$namespace\"}[$__rate_interval])) by (destination_service, response_code)",
            "{{destination_service}} {{response_code}}",
        )],
    },
    Panel {
        title: "Duration by service",
        description: "The 95th percentile of what it waits for services.",
        shape: Shape::Graph,
        unit: Unit::Milliseconds,
        questions: &[(
            "histogram_quantile(0.95, sum(rate(istio_request_duration_milliseconds_bucket{reporter=~\"source|waypoint\",source_workload=~\"$workload\",source_workload_namespace=~\"$namespace\"}[$__rate_interval])) by (le, destination_service))",
            "{{destination_service}}",
        )],
    },
    Panel {
        title: "Connections by service",
        description: "By the service that it connects to.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[(
            "sum(rate(istio_tcp_connections_opened_total{reporter=\"source\",source_workload=~\"$workload\",source_workload_namespace=~\"$namespace\"}[$__rate_interval])) by (destination_service)",
            "{{destination_service}}",
        )],
    },
    Panel {
        title: "Bytes by service",
        description: "Of connections that it has opened.",
        shape: Shape::Graph,
        unit: Unit::BytesPerSecond,
        questions: &[
            (
                "sum(rate(istio_tcp_received_bytes_total{reporter=\"source\",source_workload=~\"$workload\",source_workload_namespace=~\"$namespace\"}[$__rate_interval])) by (destination_service)",
                "to {{destination_service}}",
            ),
            (
                "sum(rate(istio_tcp_sent_bytes_total{reporter=\"source\",source_workload=~\"$workload\",source_workload_namespace=~\"$namespace\"}[$__rate_interval])) by (destination_service)",
                "from {{destination_service}}",
            ),
        ],
    },
    Panel {
        title: "To services that are not known",
        description: "To addresses outside of the mesh, and what was refused because of it.",
        shape: Shape::Graph,
        unit: Unit::PerSecond,
        questions: &[(
            "sum(rate(istio_tcp_connections_opened_total{reporter=\"source\",destination_service_name=~\"PassthroughCluster|BlackHoleCluster\",source_workload=~\"$workload\",source_workload_namespace=~\"$namespace\"}[$__rate_interval])) by (destination_service_name)",
            "{{destination_service_name}}",
        )],
    },
];
