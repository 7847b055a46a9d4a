//! Listeners: ports, TLS, names, redirects to https.

use anyhow::{Result, ensure};

use crate::client::{Req, Tls, get, grpc, h1, h2};
use crate::row::{Case, Row, not_found, ok, row, says};
use crate::stand::Stand;
use crate::tls;

pub(crate) fn rows() -> Vec<Row> {
    [https(), names(), redirects(), hosts()].into_iter().flatten().collect()
}

fn https() -> Vec<Row> {
    vec![
        row("gateway/https-http1").http("[{ECHO}]").act(async |case| {
            let reply = case.secure(get("/x").mark(&case.id)).await?;
            let seen = reply.seen()?;
            ensure!(
                reply.status == 200 && seen.header("x-forwarded-proto").as_deref() == Some("https"),
                "{reply}"
            );
            let line = case.stand.log(&case.id).await?;
            ensure!(line["requested_server_name"] == case.host && line["protocol"] == "HTTP/1.1", "{line}");
            Ok(())
        }),
        row("gateway/https-http2").http("[{ECHO}]").act(async |case| {
            let reply = case.secure(get("/x").h2().mark(&case.id)).await?;
            ensure!(reply.status == 200 && reply.seen()?.version == "HTTP/1.1", "{reply}");
            ensure!(case.stand.log(&case.id).await?["protocol"] == "HTTP/2", "another protocol");
            Ok(())
        }),
        row("gateway/https-grpc").http("[{route: [{destination: {host: grpc}}]}]").act(async |case| {
            let reply = case.secure(grpc("/pkg.Service/Method").orders("grpc=0; body=reply")).await?;
            ensure!(reply.status == 200 && reply.trailer("grpc-status") == Some("0"), "{reply}");
            Ok(())
        }),
        row("gateway/https-scheme")
            .http("[{match: [{scheme: {exact: https}}], SAY(secure)}, {SAY(plain)}]")
            .act(async |case| {
                ensure!(case.secure(get("/")).await?.text() == "secure", "http1");
                ensure!(case.secure(get("/").h2()).await?.text() == "secure", "http2");
                ensure!(case.send(get("/")).await?.text() == "plain", "in plain text");
                Ok(())
            }),
        row("gateway/https-no-rule").http("[{match: [{uri: {prefix: /a}}], ECHO}]").act(async |case| {
            ensure!(case.secure(get("/b").mark(&case.id)).await?.status == 404, "a rule");
            case.flags("NR").await
        }),
        row("gateway/https-redirect-location").http("[{redirect: {uri: /b}}]").act(async |case| {
            let location = case.secure(get("/a")).await?.header("location").unwrap_or_default();
            ensure!(location == format!("https://{}/b", case.host), "{location}");
            Ok(())
        }),
    ]
}

fn names() -> Vec<Row> {
    let server = |name: &str, host: &str, tls: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: {name}, namespace: istio-system}}, \
             spec: {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: ['{host}'], tls: {{{tls}}}}}]}}}}"
        )
    };
    let rule = |gateway: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: NAME-vs, namespace: conf}}, \
             spec: {{hosts: ['*.sni.example'], gateways: [istio-system/{gateway}], http: [{{SAY(here)}}]}}}}"
        )
    };
    vec![
        row("gateway/sni-own-certificate")
            .config(&server("gateway-sni", "a.sni.example", "mode: SIMPLE, credentialName: sni-a"))
            .config(&rule("gateway-sni"))
            .act(async |case| {
                let (ca, pair) = own(&case, "sni-a", "a.sni.example").await?;
                drop(pair);
                let reply = tls_request(&case.stand, &ca, "a.sni.example", None).await?;
                ensure!(reply.1 == "here", "{reply:?}");
                // The other servers of the port keep theirs.
                let refused = tls_request(&case.stand, &ca, "x.test", None).await;
                ensure!(refused.is_err(), "the same certificate for another name");
                Ok(())
            }),
        row("gateway/sni-unknown").http("[{SAY(x)}]").act(async |case| {
            let opened = case
                .stand
                .connect(
                    case.stand.https,
                    Some(&Tls { sni: "nobody.example".to_owned(), client: None }),
                    false,
                )
                .await;
            ensure!(opened.is_err(), "a handshake for a name that nobody serves");
            Ok(())
        }),
        row("gateway/mutual")
            .config(&server("gateway-mutual", "m.sni.example", "mode: MUTUAL, credentialName: mutual"))
            .config(&rule("gateway-mutual").replace("*.sni", "m.sni").replace("SAY(here)", "ECHO"))
            .act(async |case| {
                let (ca, client) = own(&case, "mutual", "m.sni.example").await?;
                let (status, body) = tls_request(&case.stand, &ca, "m.sni.example", Some(client)).await?;
                let seen: mesh_tests::origin::Seen = serde_json::from_str(&body)?;
                let shown = seen.header("x-forwarded-client-cert").unwrap_or_default();
                ensure!(
                    status == 200 && shown.starts_with("Hash=") && shown.contains("DNS=client.example"),
                    "{shown}"
                );
                let refused = tls_request(&case.stand, &ca, "m.sni.example", None).await;
                ensure!(refused.is_err(), "without a certificate: {refused:?}");
                Ok(())
            }),
    ]
}

fn redirects() -> Vec<Row> {
    vec![
        row("gateway/https-redirect").http("[{ECHO}]").act(async |case| {
            let port = case.stand.redirect;
            let reply = case.send(get("/a/b?c=d").port(port)).await?;
            let location = format!("https://{}/a/b?c=d", case.host);
            ensure!(reply.status == 301 && reply.header("location") == Some(location), "{reply}");
            let reply = case.send(get("/").h2().port(port)).await?;
            ensure!(reply.status == 301, "{reply}");
            Ok(())
        }),
        row("gateway/https-redirect-without-rules").act(async |case| {
            let reply = case.send(get("/x").to("nobody.example").port(case.stand.redirect)).await?;
            ensure!(
                reply.status == 301
                    && reply.header("location").as_deref() == Some("https://nobody.example/x"),
                "{reply}"
            );
            Ok(())
        }),
        row("gateway/https-redirect-is-not-talked-out-of").http("[{ECHO}]").act(async |case| {
            let reply =
                case.send(get("/").with("x-forwarded-proto", "https").port(case.stand.redirect)).await?;
            ensure!(reply.status == 301, "{reply}");
            Ok(())
        }),
    ]
}

fn hosts() -> Vec<Row> {
    let gateway = |hosts: &str, number: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: NAME, namespace: istio-system}}, \
             spec: {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: {number}, name: http, protocol: HTTP}}, hosts: [{hosts}]}}]}}}}"
        )
    };
    let rule = |name: &str, namespace: &str, host: &str, word: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: NAME-{name}, namespace: {namespace}}}, \
             spec: {{hosts: ['{host}'], gateways: [istio-system/NAME], http: [{{SAY({word})}}]}}}}"
        )
    };
    vec![
        row("gateway/hosts-of-servers")
            .config(&gateway("'one.hosts.example'", "80"))
            .config(&rule("a", "conf", "*.hosts.example", "covered"))
            .config(&rule("b", "conf", "two.hosts.example", "outside"))
            .ask(get("/").to("one.hosts.example"), says("covered"))
            .ask(get("/").to("two.hosts.example"), not_found())
            .ask(get("/").to("three.hosts.example"), not_found()),
        row("gateway/hosts-of-namespaces")
            .config(&gateway("'other/*.spaces.example'", "80"))
            .config(&rule("a", "conf", "a.spaces.example", "conf"))
            .config(&rule("b", "other", "b.spaces.example", "other"))
            .ask(get("/").to("b.spaces.example"), says("other"))
            .ask(get("/").to("a.spaces.example"), not_found()),
        row("gateway/selector")
            .config("{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: NAME, namespace: istio-system}, spec: {selector: {istio: another}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}}")
            .config(&rule("a", "conf", "selector.example", "elsewhere"))
            .ask(get("/").to("selector.example"), not_found()),
        row("gateway/port-of-the-pod").http("[{ECHO}]").act(async |case| {
            let reply = case.send(get("/").port(case.stand.bare)).await?;
            ensure!(reply.status == 200, "{reply}");
            Ok(())
        }),
        row("gateway/server-header").http("[{ECHO}]").ask(get("/").orders("header=server:origin/1"), ok().header("server", "istio-envoy")),
        row("gateway/many-on-one-connection").http("[{SAY(one)}]").config(&crate::row::virtual_service("NAME-b", "gateway-b.test", "[{SAY(two)}]")).act(async |case| {
            let mut wire = crate::client::Wire::new(case.stand.connect(case.stand.http, None, false).await?);
            for (host, word) in [(case.host.as_str(), "one"), ("gateway-b.test", "two"), (case.host.as_str(), "one")] {
                wire.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await?;
                ensure!(wire.reply("GET").await?.text() == word, "another answer for {host}");
            }
            Ok(())
        }),
        row("gateway/redirect-answers-carry-a-date").http("[{SAY(x)}]").act(async |case| {
            ensure!(case.send(get("/")).await?.header("date").is_some_and(|date| date.ends_with(" GMT")), "no date");
            Ok(())
        }),
    ]
}

/// Gives the gateway a certificate for a name, and makes one for a client of the same authority.
async fn own(case: &Case, secret: &str, name: &str) -> Result<(String, (String, String))> {
    let authority = tls::Authority::new()?;
    let text = tls::secret(secret, &authority.issue(&[name])?, Some(authority.pem()));
    case.stand.gateway.write(&format!("secret-{secret}.yaml"), &text)?;
    let client = authority.issue(&["client.example"])?;
    let root = authority.pem().to_owned();
    for _ in 0..100 {
        let pair = Some((client.certificate.clone(), client.key.clone()));
        if tls_request(&case.stand, &root, name, pair).await.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok((root, (client.certificate, client.key)))
}

/// A request in TLS that believes another root than that of the stand.
async fn tls_request(
    stand: &Stand,
    root: &str,
    name: &str,
    client: Option<(String, String)>,
) -> Result<(u16, String)> {
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", stand.https)).await?;
    let tls = Tls { sni: name.to_owned(), client };
    let io = tls::open(tcp, root, &tls, false).await?;
    let reply = h1(Box::new(io), &get("/").to(name)).await?;
    Ok((reply.status, reply.text()))
}

impl Case {
    /// Sends a request to the row's host in TLS.
    pub(crate) async fn secure(&self, request: Req) -> Result<crate::client::Reply> {
        let tls = Tls { sni: self.host.clone(), client: None };
        let io = self.stand.connect(self.stand.https, Some(&tls), request.h2).await?;
        let request = Req { tls: Some(tls), host: Some(self.host.clone()), ..request };
        if request.h2 { h2(io, &request).await } else { h1(io, &request).await }
    }
}
