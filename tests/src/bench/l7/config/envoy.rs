//! Envoy, as Istio would have it, less what Istio adds of its own.

use serde_json::{Value, json};

use super::{Place, Setup};
use crate::bench::l7::table::{Extras, Host, Route, RouteTable, Service, Upstream};

/// One worker. Per-route statistics stand for Istio's metrics, and the format of the access log is Istio's.
pub(in crate::bench::l7) fn setup(table: &RouteTable, place: Place<'_>) -> Setup {
    let bootstrap = json!({
        "static_resources": {
            "listeners": [{
                "name": "gateway",
                "address": address("127.0.0.1", place.port),
                "filter_chains": [{"filters": [filter(table, place)]}],
            }],
            "clusters": table.services.iter().map(|service| cluster(service, table.upstream)).collect::<Vec<_>>(),
        },
    });
    let file = place.file("envoy.json");
    let words = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "-c", &file];
    Setup::new(vec![("envoy.json", bootstrap.to_string())], &words)
}

fn filter(table: &RouteTable, place: Place<'_>) -> Value {
    if table.upstream != Upstream::Tcp {
        let manager = connection_manager(table, place);
        return json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
    }
    let cluster = table.services.first().map(|service| service.name.as_str());
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": type_url("filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "gateway", "cluster": cluster}})
}

fn connection_manager(table: &RouteTable, place: Place<'_>) -> Value {
    let hosts: Vec<Value> = table.hosts.iter().map(|host| virtual_host(table, host)).collect();
    let mut manager = json!({
        "@type": type_url("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "gateway",
        "codec_type": "AUTO",
        "use_remote_address": true,
        "generate_request_id": table.extras.is_some(),
        "route_config": {"name": "routes", "validate_clusters": false, "virtual_hosts": hosts},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": type_url("filters.http.router.v3.Router"),
                "suppress_envoy_headers": true,
            },
        }],
    });
    if table.extras.is_some() {
        manager["access_log"] = json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": type_url("access_loggers.file.v3.FileAccessLog"),
                "path": place.file("access.log"),
                "log_format": {"text_format_source": {"inline_string": LOG_FORMAT}},
            },
        }]);
    }
    manager
}

fn virtual_host(table: &RouteTable, host: &Host) -> Value {
    let routes: Vec<Value> = host.routes.iter().map(|it| route(table, it)).collect();
    json!({"name": host.name, "domains": [host.name], "routes": routes})
}

fn route(table: &RouteTable, route: &Route) -> Value {
    let timeout = table.extras.as_ref().map_or(0, |extras| extras.timeout_s);
    let mut value = json!({
        "name": route.name,
        "match": {"prefix": route.prefix},
        "route": {"cluster": table.service_of(route), "timeout": format!("{timeout}s")},
    });
    if let Some(extras) = &table.extras {
        extend(&mut value, route, extras);
    }
    value
}

fn extend(value: &mut Value, route: &Route, extras: &Extras) {
    let set = |(name, to): (&str, &str)| json!({"header": {"key": name, "value": to}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"});
    let answered: Vec<Value> = extras.answered.iter().copied().map(set).collect();
    value["stat_prefix"] = route.name.as_str().into();
    value["request_headers_to_add"] = json!([set(("x-route", &route.name))]);
    value["request_headers_to_remove"] = json!(extras.removed);
    value["response_headers_to_add"] = json!(answered);
    value["route"]["retry_policy"] = json!({
        "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        "retriable_status_codes": [503],
        "num_retries": extras.retries,
    });
}

fn cluster(service: &Service, upstream: Upstream) -> Value {
    let (host, port) = (service.address.ip().to_string(), service.address.port());
    let mut cluster = json!({
        "name": service.name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": service.name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(&host, port)}}]}],
        },
    });
    if upstream == Upstream::Grpc {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": type_url("upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    }
    cluster
}

fn address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

fn type_url(name: &str) -> String {
    format!("type.googleapis.com/envoy.extensions.{name}")
}

/// Istio's, on one line.
const LOG_FORMAT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% ",
    "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER% ",
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn bootstrap(table: &RouteTable) -> Value {
        let setup = setup(table, Place { dir: Path::new("/run/b"), port: 21100 });
        serde_json::from_str(setup.file("envoy.json")).unwrap()
    }

    const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

    #[test]
    fn a_plain_route_does_nothing_else() {
        let bootstrap = bootstrap(&RouteTable::plain());
        let manager = bootstrap.pointer(MANAGER).unwrap();
        assert!(manager.get("access_log").is_none() && manager["generate_request_id"] == false);
        let route = &manager["route_config"]["virtual_hosts"][0]["routes"][0];
        assert_eq!(
            *route,
            json!({"name": "route-0-0", "match": {"prefix": "/r0/"},
                "route": {"cluster": "service-0", "timeout": "0s"}})
        );
        let cluster = &bootstrap["static_resources"]["clusters"][0];
        assert!(cluster.get("typed_extension_protocol_options").is_none());
    }

    #[test]
    fn a_realistic_route_does_everything() {
        let bootstrap = bootstrap(&RouteTable::realistic());
        let manager = bootstrap.pointer(MANAGER).unwrap();
        assert_eq!(manager["access_log"][0]["typed_config"]["path"], "/run/b/access.log");
        assert_eq!(manager["route_config"]["virtual_hosts"].as_array().unwrap().len(), 50);
        let route = &manager["route_config"]["virtual_hosts"][49]["routes"][9];
        assert_eq!(route["request_headers_to_add"][0]["header"]["value"], "route-49-9");
        assert_eq!(route["request_headers_to_remove"], json!(["x-internal"]));
        assert_eq!(route["response_headers_to_add"].as_array().unwrap().len(), 2);
        assert_eq!(route["route"]["retry_policy"]["num_retries"], 2);
        assert_eq!(
            (&route["route"]["timeout"], &route["stat_prefix"]),
            (&json!("10s"), &json!("route-49-9"))
        );
    }

    #[test]
    fn grpc_is_http2_upstream() {
        let bootstrap = bootstrap(&RouteTable::grpc());
        let cluster = &bootstrap["static_resources"]["clusters"][0];
        assert!(cluster.get("typed_extension_protocol_options").is_some());
    }
}
