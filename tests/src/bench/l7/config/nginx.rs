//! nginx, as a proxy and as the origin behind all proxies.

use std::fmt::Write as _;

use super::{Place, Setup};
use crate::bench::l7::table::{HTTP_PORT, Route, RouteTable, Upstream};

/// One worker. It has no metrics for each route, and no HTTP/2 towards services but gRPC.
pub(in crate::bench::l7) fn setup(table: &RouteTable, place: Place<'_>) -> Setup {
    let config = preamble(place) + &common(table, place) + &servers(table, place) + "}\n";
    start(config, place)
}

/// Answers everything with 1,000 bytes, on every service's address, and says which headers it has seen.
pub(in crate::bench::l7) fn origin(table: &RouteTable, place: Place<'_>) -> Setup {
    let mut config = preamble(place) + "  access_log off;\n  server {\n";
    // Writing to a string cannot fail.
    for service in &table.services {
        let _ = writeln!(config, "    listen {}:{HTTP_PORT} backlog=4096;", service.address.ip());
    }
    let _ = writeln!(config, "    listen 127.0.0.1:{} http2 backlog=4096;", place.h2_port());
    for (answered, seen) in [("x-saw-route", "x_route"), ("x-saw-internal", "x_internal")] {
        // Without the header that was to be seen, nginx leaves out the whole line.
        let _ = writeln!(config, "    add_header {answered} $http_{seen};");
    }
    let body = "x".repeat(1000);
    let _ =
        writeln!(config, "    location / {{ default_type text/plain; return 200 \"{body}\"; }}\n  }}\n}}");
    start(config, place)
}

fn start(config: String, place: Place<'_>) -> Setup {
    Setup::new(vec![("nginx.conf", config)], &["-e", "stderr", "-c", &place.file("nginx.conf")])
}

/// Without a master the only process is the one worker, whose processor time is easily told.
fn preamble(place: Place<'_>) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|kind| format!("  {kind}_temp_path {};\n", place.file(kind))).concat();
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\nworker_rlimit_nofile 16384;\npid {};\nerror_log stderr;\n\
         events {{ worker_connections 8192; }}\nhttp {{\n  keepalive_requests 1000000000;\n  keepalive_timeout 1h;\n  \
         http2_max_concurrent_streams 1024;\n{temporary}",
        place.file("pid")
    )
}

fn common(table: &RouteTable, place: Place<'_>) -> String {
    let pass = match table.upstream {
        Upstream::Http1 | Upstream::Tcp => "proxy",
        Upstream::Grpc => "grpc",
    };
    let mut text = format!("  server_names_hash_max_size 8192;\n  {pass}_connect_timeout 1s;\n");
    if table.upstream == Upstream::Http1 {
        text.push_str("  proxy_http_version 1.1;\n  proxy_buffering off;\n  proxy_request_buffering off;\n");
    }
    if let Some(extras) = &table.extras {
        let (tries, seconds) = (extras.retries + 1, extras.timeout_s);
        let _ = write!(
            text,
            "  {pass}_next_upstream error timeout http_503;\n  {pass}_next_upstream_tries {tries};\n  \
             {pass}_read_timeout {seconds}s;\n  log_format gateway {LOG_FORMAT};\n  \
             access_log {} gateway buffer=64k flush=1s;\n",
            place.file("access.log")
        );
    } else {
        let _ = write!(text, "  {pass}_next_upstream off;\n  {pass}_read_timeout 1h;\n  access_log off;\n");
    }
    for service in &table.services {
        let _ = writeln!(
            text,
            "  upstream {} {{ server {}; keepalive 512; keepalive_requests 1000000000; keepalive_timeout 1h; }}",
            service.name, service.address
        );
    }
    text
}

fn servers(table: &RouteTable, place: Place<'_>) -> String {
    let listen = |default: &str| {
        format!(
            "    listen 127.0.0.1:{}{default};\n    listen 127.0.0.1:{}{default} http2;\n",
            place.port,
            place.h2_port()
        )
    };
    let mut text = format!("  server {{\n{}    return 404;\n  }}\n", listen(" default_server"));
    for host in &table.hosts {
        let _ = writeln!(text, "  server {{\n{}    server_name {};", listen(""), host.name);
        text.extend(host.routes.iter().map(|it| location(table, it)));
        text.push_str("  }\n");
    }
    text
}

fn location(table: &RouteTable, route: &Route) -> String {
    let (pass, scheme) = match table.upstream {
        Upstream::Http1 | Upstream::Tcp => ("proxy", "http"),
        Upstream::Grpc => ("grpc", "grpc"),
    };
    let mut text = format!(
        "    location {} {{ {pass}_pass {scheme}://{}; {pass}_set_header Host $host; \
         {pass}_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        route.prefix,
        table.service_of(route)
    );
    if table.upstream == Upstream::Http1 {
        text.push_str(" proxy_set_header Connection \"\";");
    }
    if let Some(extras) = &table.extras {
        let _ = write!(text, " {pass}_set_header x-route {};", route.name);
        let _ = write!(text, " {pass}_set_header x-request-id $request_id;");
        for name in &extras.removed {
            let _ = write!(text, " {pass}_set_header {name} \"\";");
        }
        for (name, value) in &extras.answered {
            let _ = write!(text, " add_header {name} {value};");
        }
    }
    text + " }\n"
}

/// As much as Istio's.
const LOG_FORMAT: &str = concat!(
    "'[$time_iso8601] \"$request\" $status $request_length $bytes_sent $request_time $upstream_response_time ",
    "\"$proxy_add_x_forwarded_for\" \"$http_user_agent\" \"$request_id\" \"$host\" \"$upstream_addr\" ",
    "$proxy_host $server_addr:$server_port $remote_addr:$remote_port'"
);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(table: &RouteTable) -> Setup {
        setup(table, Place { dir: Path::new("/run/b"), port: 21120 })
    }

    #[test]
    fn a_plain_route_does_nothing_else() {
        let setup = of(&RouteTable::plain());
        let config = setup.file("nginx.conf");
        for part in [
            "server_name host-0.example;",
            "location /r0/ { proxy_pass http://service-0;",
            "worker_processes 1;",
        ] {
            assert!(config.contains(part), "{part}: {config}");
        }
        for extra in ["log_format", "x-route", "add_header", "grpc"] {
            assert!(!config.contains(extra), "{extra}: {config}");
        }
        assert_eq!(config.matches('{').count(), config.matches('}').count());
    }

    #[test]
    fn a_realistic_route_does_everything() {
        let setup = of(&RouteTable::realistic());
        let config = setup.file("nginx.conf");
        assert_eq!(config.matches("location ").count(), 500);
        for part in [
            "proxy_set_header x-route route-49-9;",
            "proxy_set_header x-internal \"\";",
            "add_header x-frame-options DENY;",
            "proxy_next_upstream_tries 3;",
            "access_log /run/b/access.log gateway",
        ] {
            assert!(config.contains(part), "{part}");
        }
    }

    #[test]
    fn grpc_goes_by_its_own_directives() {
        let setup = of(&RouteTable::grpc());
        let config = setup.file("nginx.conf");
        assert!(config.contains("location /bench.Echo/ { grpc_pass grpc://service-0;"), "{config}");
        assert!(!config.contains("proxy_pass") && config.contains("grpc_read_timeout"));
    }

    #[test]
    fn the_origin_serves_every_address() {
        let setup = origin(&RouteTable::sized(3, 1), Place { dir: Path::new("/run/b"), port: 21090 });
        let config = setup.file("nginx.conf");
        assert!(
            config.contains("listen 127.0.1.3:21080 ") && config.contains("listen 127.0.0.1:21091 http2")
        );
        assert!(config.contains("add_header x-saw-route $http_x_route;"));
    }
}
