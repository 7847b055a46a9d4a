//! `HAProxy`: routes are maps from host and path, as its manual advises for more than a few.

use std::fmt::Write as _;

use super::{Place, Setup};
use crate::bench::l7::table::{Extras, Route, RouteTable, Upstream};

/// One thread. It keeps counters for each backend without being told to, and writes its log to standard output.
pub(in crate::bench::l7) fn setup(table: &RouteTable, place: Place<'_>) -> Setup {
    if table.upstream == Upstream::Tcp {
        return Setup::new(
            vec![("haproxy.cfg", bytes(table, place))],
            &["-db", "-f", &place.file("haproxy.cfg")],
        );
    }
    let config = global(table) + &frontend(table, place) + &backends(table);
    let mut files = vec![("haproxy.cfg", config), (SERVICES, map(table, |route| table.service_of(route)))];
    if table.extras.is_some() {
        files.push((ROUTES, map(table, |route| &route.name)));
    }
    Setup::new(files, &["-db", "-f", &place.file("haproxy.cfg")])
}

/// What is told to speed bytes up is what its manual advises for them.
fn bytes(table: &RouteTable, place: Place<'_>) -> String {
    let servers = table.services.iter().map(|it| format!("  server {} {}\n", it.name, it.address));
    format!(
        "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1h\n  \
         timeout server 1h\n  option splice-auto\nlisten gateway\n  bind 127.0.0.1:{}\n{}",
        place.port,
        servers.collect::<String>()
    )
}

fn global(table: &RouteTable) -> String {
    let seconds = table.extras.as_ref().map_or(3600, |extras| extras.timeout_s);
    format!(
        "global\n  nbthread 1\n  maxconn 4096\n\
         defaults\n  mode http\n  timeout connect 1s\n  timeout client 1h\n  timeout server {seconds}s\n  \
         http-reuse always\n  option forwardfor\n"
    )
}

fn frontend(table: &RouteTable, place: Place<'_>) -> String {
    let services = place.file(SERVICES);
    // HTTP/2 is told by the first bytes of a connection.
    let mut text = format!(
        "frontend gateway\n  bind 127.0.0.1:{}\n  http-request set-var(txn.service) base,map_beg({services})\n  \
         http-request deny deny_status 404 unless {{ var(txn.service) -m found }}\n",
        place.port
    );
    if let Some(extras) = &table.extras {
        text.push_str(&extended(extras, place));
    }
    text + "  use_backend %[var(txn.service)]\n"
}

fn extended(extras: &Extras, place: Place<'_>) -> String {
    let mut text = format!(
        "  log stdout format raw local0\n  option httplog\n  unique-id-format %[uuid()]\n  \
         unique-id-header x-request-id\n  http-request set-header x-route %[base,map_beg({})]\n",
        place.file(ROUTES)
    );
    // Writing to a string cannot fail.
    for name in &extras.removed {
        let _ = writeln!(text, "  http-request del-header {name}");
    }
    for (name, value) in &extras.answered {
        let _ = writeln!(text, "  http-response set-header {name} {value}");
    }
    text
}

fn backends(table: &RouteTable) -> String {
    let retries = table.extras.as_ref().map_or(0, |extras| extras.retries);
    let protocol = match table.upstream {
        Upstream::Http1 | Upstream::Tcp => "",
        Upstream::Grpc => " proto h2",
    };
    let mut text = String::new();
    for service in &table.services {
        let _ = writeln!(text, "backend {}\n  retries {retries}", service.name);
        if retries > 0 {
            text.push_str("  retry-on conn-failure empty-response 503\n");
        }
        let _ = writeln!(text, "  server s {}{protocol} pool-purge-delay 1h", service.address);
    }
    text
}

fn map<'a>(table: &'a RouteTable, value: impl Fn(&'a Route) -> &'a str) -> String {
    let line = |(host, prefix, value): (&str, &str, &str)| format!("{host}{prefix} {value}\n");
    table.routes().map(|(host, route)| line((&host.name, &route.prefix, value(route)))).collect()
}

const SERVICES: &str = "services.map";

const ROUTES: &str = "routes.map";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(table: &RouteTable) -> Setup {
        setup(table, Place { dir: Path::new("/run/b"), port: 21110 })
    }

    #[test]
    fn a_plain_route_does_nothing_else() {
        let setup = of(&RouteTable::plain());
        assert_eq!(setup.file(SERVICES), "host-0.example/r0/ service-0\n");
        let config = setup.file("haproxy.cfg");
        assert!(
            config.contains("bind 127.0.0.1:21110\n") && config.contains("base,map_beg(/run/b/services.map)")
        );
        for extra in ["httplog", "set-header", "retry-on", "proto h2"] {
            assert!(!config.contains(extra), "{config}");
        }
    }

    #[test]
    fn a_realistic_route_does_everything() {
        let setup = of(&RouteTable::realistic());
        assert_eq!(setup.file(ROUTES).lines().count(), 500);
        assert!(setup.file(ROUTES).contains("host-49.example/r9/ route-49-9\n"));
        let config = setup.file("haproxy.cfg");
        for part in [
            "set-header x-route %[base,map_beg(/run/b/routes.map)]",
            "http-request del-header x-internal",
            "http-response set-header x-frame-options DENY",
            "retries 2\n  retry-on",
            "timeout server 10s",
            "log stdout",
        ] {
            assert!(config.contains(part), "{part}: {config}");
        }
    }

    #[test]
    fn grpc_is_http2_upstream() {
        let setup = of(&RouteTable::grpc());
        assert!(setup.file("haproxy.cfg").contains("server s 127.0.1.1:21081 proto h2"));
    }
}
