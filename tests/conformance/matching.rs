//! Which rule is for a request.

use crate::client::{get, post, request};
use crate::row::{Row, Want, not_found, ok, row, says};

pub(crate) fn rows() -> Vec<Row> {
    [uri(), line(), headers(), parameters(), structure(), hosts(), delegates()]
        .into_iter()
        .flatten()
        .collect()
}

fn uri() -> Vec<Row> {
    vec![
        row("match/uri-exact")
            .http("[{match: [{uri: {exact: /a}}], SAY(a)}]")
            .ask(get("/a"), says("a").log("route_name", "null"))
            .ask(get("/a?x=1"), says("a"))
            .ask(get("/a/"), not_found())
            .ask(get("/ab"), not_found())
            .ask(get("/A"), not_found()),
        row("match/uri-prefix")
            .http("[{match: [{uri: {prefix: /shop}}], SAY(shop)}]")
            .ask(get("/shop"), says("shop"))
            .ask(get("/shop/cart"), says("shop"))
            .ask(get("/shopping"), says("shop"))
            .ask(get("/Shop"), not_found())
            .ask(get("/sho"), not_found()),
        row("match/uri-regex")
            .http(r#"[{match: [{uri: {regex: "/v[0-9]+/items"}}], SAY(items)}]"#)
            .ask(get("/v1/items"), says("items"))
            .ask(get("/v12/items?page=2"), says("items"))
            .ask(get("/v1/items/7"), not_found())
            .ask(get("/x/v1/items"), not_found()),
        row("match/uri-ignore-case")
            .http("[{match: [{uri: {exact: /Login}, ignoreUriCase: true}], SAY(login)}, {match: [{uri: {prefix: /Api}, ignoreUriCase: true}], SAY(api)}]")
            .ask(get("/lOGIN"), says("login"))
            .ask(get("/API/x"), says("api"))
            .ask(get("/other"), not_found()),
        row("match/uri-without-query")
            .http(r#"[{match: [{uri: {regex: ".*secret.*"}}], SAY(secret)}, {SAY(rest)}]"#)
            .ask(get("/a?secret"), says("rest"))
            .ask(get("/secret"), says("secret")),
        row("match/uri-escapes")
            .http("[{match: [{uri: {exact: /b}}], SAY(b)}, {match: [{uri: {prefix: /admin}}], SAY(admin)}]")
            .ask(get("/a/../b"), says("b"))
            .ask(get("/a/./../b"), says("b"))
            .ask(get("/%61dmin"), says("admin"))
            .ask(get("/x/..\\admin"), says("admin")),
        row("match/uri-escaped-slash")
            .http("[{match: [{uri: {prefix: /a%2Fb}}], ECHO}]")
            .ask(get("/a%2Fb"), ok().seen("target", "/a%2Fb")),
    ]
}

fn line() -> Vec<Row> {
    vec![
        row("match/method")
            .http("[{match: [{method: {exact: POST}}], SAY(post)}, {match: [{method: {regex: 'PUT|PATCH'}}], SAY(put)}, {match: [{method: {prefix: DEL}}], SAY(delete)}]")
            .ask(post("/", "x"), says("post"))
            .ask(request("PATCH", "/"), says("put"))
            .ask(request("DELETE", "/"), says("delete"))
            .ask(get("/"), not_found()),
        row("match/scheme")
            .http("[{match: [{scheme: {exact: https}}], SAY(secure)}, {match: [{scheme: {exact: http}}], SAY(plain)}]")
            .ask(get("/"), says("plain"))
            .ask(get("/").h2(), says("plain")),
        row("match/authority")
            .config(&vs("NAME", "['*.authority.test']", "[{match: [{authority: {prefix: blue}}], SAY(blue)}, {match: [{authority: {exact: red.authority.test}}], SAY(red)}]"))
            .ask(get("/").to("blue.authority.test"), says("blue"))
            .ask(get("/").to("red.authority.test"), says("red"))
            .ask(get("/").to("green.authority.test"), not_found()),
        row("match/port")
            .http("[{match: [{port: 80}], SAY(eighty)}, {match: [{port: 8080}], SAY(other)}, {SAY(rest)}]")
            .ask(get("/"), says("eighty")),
        row("match/port-other")
            .http("[{match: [{port: 80}], SAY(eighty)}, {SAY(rest)}]")
            .act(async |case| {
                let reply = case.send(get("/").port(case.stand.bare)).await?;
                anyhow::ensure!(reply.text() == "rest", "{reply}");
                Ok(())
            }),
        row("match/gateways")
            .http("[{match: [{gateways: [mesh]}], SAY(mesh)}, {match: [{gateways: [istio-system/other]}], SAY(other)}, {match: [{gateways: [istio-system/edge]}], SAY(edge)}]")
            .ask(get("/"), says("edge")),
        row("match/source-labels")
            .http("[{match: [{sourceLabels: {app: nobody}}], SAY(nobody)}, {match: [{sourceLabels: {istio: ingressgateway}}], SAY(gateway)}]")
            .ask(get("/"), says("gateway")),
        row("match/source-namespace")
            .http("[{match: [{sourceNamespace: conf}], SAY(conf)}, {match: [{sourceNamespace: istio-system}], SAY(system)}]")
            .ask(get("/"), says("system")),
    ]
}

fn headers() -> Vec<Row> {
    vec![
        row("match/headers-exact")
            .http("[{match: [{headers: {end-user: {exact: jason}}}], SAY(jason)}]")
            .ask(get("/").with("End-User", "jason"), says("jason"))
            .ask(get("/").with("end-user", "Jason"), not_found())
            .ask(get("/"), not_found()),
        row("match/headers-prefix-regex")
            .http("[{match: [{headers: {x-a: {prefix: b}, cookie: {regex: '^(.*?;)?(user=jason)(;.*)?$'}}}], SAY(both)}]")
            .ask(get("/").with("x-a", "bc").with("cookie", "a=1;user=jason;b=2"), says("both"))
            .ask(get("/").with("x-a", "bc").with("cookie", "user=jane"), not_found())
            .ask(get("/").with("x-a", "cb").with("cookie", "user=jason"), not_found()),
        row("match/headers-regex-whole")
            .http("[{match: [{headers: {x-a: {regex: 'b+'}}}], SAY(bs)}]")
            .ask(get("/").with("x-a", "bbb"), says("bs"))
            .ask(get("/").with("x-a", "abbb"), not_found()),
        row("match/headers-presence")
            .http("[{match: [{headers: {x-debug: {}}}], SAY(debug)}, {SAY(rest)}]")
            .ask(get("/").with("x-debug", ""), says("debug"))
            .ask(get("/").with("x-debug", "no"), says("debug"))
            .ask(get("/"), says("rest")),
        row("match/headers-several-values")
            .http("[{match: [{headers: {x-a: {exact: '1,2'}}}], SAY(list)}]")
            .ask(get("/").with("x-a", "1").with("x-a", "2"), says("list"))
            .ask(get("/").with("x-a", "2").with("x-a", "1"), not_found()),
        row("match/headers-pseudo")
            .http("[{match: [{headers: {':method': {exact: PUT}}}], SAY(put)}]")
            .ask(request("PUT", "/"), says("put"))
            .ask(get("/"), not_found()),
        row("match/without-headers")
            .http("[{match: [{withoutHeaders: {x-internal: {exact: 'yes'}}}], SAY(outside)}, {SAY(inside)}]")
            .ask(get("/"), says("outside"))
            .ask(get("/").with("x-internal", "no"), says("outside"))
            .ask(get("/").with("x-internal", "yes"), says("inside")),
        row("match/without-headers-presence")
            .http("[{match: [{withoutHeaders: {authorization: {}}}], SAY(anonymous)}, {SAY(known)}]")
            .ask(get("/"), says("anonymous"))
            .ask(get("/").with("authorization", "Bearer x"), says("known")),
    ]
}

fn parameters() -> Vec<Row> {
    vec![
        row("match/query-exact")
            .http("[{match: [{queryParams: {v: {exact: '2'}}}], SAY(two)}]")
            .ask(get("/?v=2"), says("two"))
            .ask(get("/?a=1&v=2"), says("two"))
            .ask(get("/?v=22"), not_found())
            .ask(get("/?w=2"), not_found())
            .ask(get("/"), not_found()),
        row("match/query-regex-presence")
            .http("[{match: [{queryParams: {id: {regex: '[0-9]+'}, debug: {}}}], SAY(both)}]")
            .ask(get("/?id=12&debug"), says("both"))
            .ask(get("/?debug=x&id=7"), says("both"))
            .ask(get("/?id=a&debug"), not_found())
            .ask(get("/?id=12"), not_found()),
        row("match/query-prefix")
            .http("[{match: [{queryParams: {id: {prefix: ab}}}], SAY(ab)}]")
            .ask(get("/?id=abc"), says("ab"))
            .ask(get("/?id=bab"), not_found()),
    ]
}

fn structure() -> Vec<Row> {
    vec![
        row("match/order")
            .http("[{match: [{uri: {prefix: /a}}], SAY(first)}, {match: [{uri: {exact: /a/b}}], SAY(second)}, {SAY(last)}]")
            .ask(get("/a/b"), says("first"))
            .ask(get("/b"), says("last")),
        row("match/or-of-ands")
            .http("[{match: [{uri: {prefix: /a}, method: {exact: GET}}, {uri: {prefix: /b}, headers: {x-b: {exact: '1'}}}], SAY(hit)}]")
            .ask(get("/a"), says("hit"))
            .ask(post("/a", "x"), not_found())
            .ask(post("/b", "x").with("x-b", "1"), says("hit"))
            .ask(get("/b"), not_found()),
        row("match/catch-all-hides")
            .http("[{SAY(all)}, {match: [{uri: {prefix: /a}}], SAY(never)}]")
            .ask(get("/a"), says("all")),
        row("match/names")
            .http("[{name: cart, match: [{name: one, uri: {prefix: /a}}, {uri: {prefix: /b}}], SAY(cart)}]")
            .ask(get("/a"), says("cart").log("route_name", "cart.one"))
            .ask(get("/b"), says("cart").log("route_name", "cart")),
        row("match/none")
            .http("[{match: [{uri: {prefix: /only}}], ECHO}]")
            .ask(get("/"), not_found().log("upstream_cluster", "null").log("method", "GET").log("path", "/"))
            .ask(get("/").h2(), Want::status(404).flags("NR").log("protocol", "HTTP/2")),
    ]
}

fn hosts() -> Vec<Row> {
    vec![
        row("match/host-case-and-port")
            .http("[{SAY(hit)}]")
            .ask(get("/").to("MATCH-host-case-and-port.TEST"), says("hit"))
            .ask(get("/").to("match-host-case-and-port.test:12345"), says("hit"))
            .ask(get("/").to("match-host-case-and-port.test:80"), says("hit")),
        row("match/host-specificity")
            .config(&vs("NAME-star", "['*.spec.test']", "[{SAY(star)}]"))
            .config(&vs("NAME-long", "['*.deep.spec.test']", "[{SAY(deep)}]"))
            .config(&vs("NAME-exact", "[one.deep.spec.test]", "[{SAY(exact)}]"))
            .ask(get("/").to("a.spec.test"), says("star"))
            .ask(get("/").to("a.b.spec.test"), says("star"))
            .ask(get("/").to("a.deep.spec.test"), says("deep"))
            .ask(get("/").to("one.deep.spec.test"), says("exact"))
            .ask(get("/").to("spec.test"), not_found()),
        row("match/host-exact-hides-wildcard")
            .config(&vs("NAME-star", "['*.hide.test']", "[{SAY(star)}]"))
            .config(&vs("NAME-exact", "[x.hide.test]", "[{match: [{uri: {prefix: /a}}], SAY(exact)}]"))
            .ask(get("/a").to("x.hide.test"), says("exact"))
            .ask(get("/b").to("x.hide.test"), not_found()),
        row("match/host-unknown").http("[{SAY(here)}]").ask(get("/").to("nobody.example"), not_found()),
        row("match/host-absolute-form")
            .http("[{SAY(hit)}]")
            .ask(get("http://match-host-absolute-form.test/x").to("nobody.example"), says("hit")),
        row("match/merge-on-gateway")
            .config(&vs("NAME-a", "[HOST]", "[{match: [{uri: {prefix: /a}}], SAY(a)}]"))
            .config(&vs("NAME-b", "[HOST]", "[{match: [{uri: {prefix: /b}}], SAY(b)}]"))
            .ask(get("/a"), says("a"))
            .ask(get("/b"), says("b"))
            .ask(get("/c"), not_found()),
        row("match/merge-oldest-first")
            .config(&vs("NAME-a, creationTimestamp: '2024-02-01T00:00:00Z'", "[HOST]", "[{match: [{uri: {prefix: /}}, {uri: {exact: /z}}], SAY(young)}]"))
            .config(&vs("NAME-b, creationTimestamp: '2024-01-01T00:00:00Z'", "[HOST]", "[{match: [{uri: {prefix: /a}}], SAY(old)}]"))
            .ask(get("/a"), says("old"))
            .ask(get("/b"), says("young")),
        row("match/export-to-hides-a-service")
            .config("{apiVersion: v1, kind: Service, metadata: {name: NAME, namespace: conf, annotations: {networking.istio.io/exportTo: \".\"}}, spec: {selector: {app: echo}, ports: [{name: http, port: 80, targetPort: http}]}}")
            .http("[{route: [{destination: {host: match-export-to-hides-a-service.conf.svc.cluster.local}}]}]")
            .ask(get("/"), Want::status(503).flags("NC").unseen()),
        row("match/export-to-elsewhere")
            .config("{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: NAME, namespace: conf}, spec: {hosts: [HOST], gateways: [istio-system/edge], exportTo: ['.'], http: [{SAY(seen)}]}}")
            .ask(get("/"), not_found()),
        row("match/export-to-gateway")
            .config("{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: NAME, namespace: conf}, spec: {hosts: [HOST], gateways: [istio-system/edge], exportTo: [istio-system], http: [{SAY(seen)}]}}")
            .ask(get("/"), says("seen")),
        row("match/gateway-not-named")
            .config("{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: NAME, namespace: conf}, spec: {hosts: [HOST], http: [{SAY(mesh)}]}}")
            .ask(get("/"), not_found()),
        row("match/short-names")
            .config(&vs("NAME", "[HOST]", "[{match: [{uri: {prefix: /short}}], route: [{destination: {host: echo}}]}, {match: [{uri: {prefix: /two}}], route: [{destination: {host: echo.conf.svc.cluster.local, port: {number: 80}}}]}]"))
            .ask(get("/short"), ok().log("upstream_cluster", "outbound|80||echo.conf.svc.cluster.local"))
            .ask(get("/two"), ok().log("upstream_cluster", "outbound|80||echo.conf.svc.cluster.local")),
        row("match/short-names-of-own-namespace")
            .config("{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: NAME, namespace: other}, spec: {hosts: [HOST], gateways: [istio-system/edge], http: [{route: [{destination: {host: echo}}]}]}}")
            .ask(get("/"), Want::status(503).flags("NC").unseen()),
    ]
}

fn delegates() -> Vec<Row> {
    let delegate = |name: &str, http: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: other}}, spec: {{http: {http}}}}}"
        )
    };
    vec![
        row("match/delegate")
            .http("[{match: [{uri: {prefix: /shop}}], delegate: {name: match-delegate-d, namespace: other}}, {SAY(root)}]")
            .config(&delegate("match-delegate-d", "[{match: [{uri: {prefix: /shop/cart}}], SAY(cart)}, {SAY(shop)}]"))
            .ask(get("/shop/cart"), says("cart"))
            .ask(get("/shop/x"), says("shop"))
            .ask(get("/x"), says("root")),
        row("match/delegate-conflict")
            .http("[{match: [{uri: {prefix: /shop}}], delegate: {name: match-conflict-d, namespace: other}}]")
            .config(&delegate("match-conflict-d", "[{match: [{uri: {prefix: /elsewhere}}], SAY(never)}, {match: [{uri: {prefix: /shop/a}}], SAY(a)}]"))
            .ask(get("/shop/a"), says("a"))
            .ask(get("/elsewhere"), not_found())
            .ask(get("/shop/b"), not_found()),
        row("match/delegate-inherits")
            .http("[{match: [{uri: {prefix: /a}}], headers: {response: {set: {x-root: 'yes'}}}, delegate: {name: match-inherits-d, namespace: other}}]")
            .config(&delegate("match-inherits-d", "[{SAY(inner)}]"))
            .ask(get("/a"), says("inner").header("x-root", "yes")),
    ]
}

fn vs(name: &str, hosts: &str, http: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: conf}}, \
         spec: {{hosts: {hosts}, gateways: [istio-system/edge], http: {http}}}}}"
    )
}
