//! What a gateway tells of connections whose bytes are nobody's business: as of requests, in whatever form is asked for.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::collector::Collector;
use serde_json::Value;

use crate::gateway::{mesh, service, telemetry};
use crate::process::{Gateway, wait};

/// A gateway with a port for a server that answers, one for a server that is not there, and one without a rule.
struct Stand {
    gateway: Gateway,
    collector: Collector,
    server: SocketAddr,
}

const SERVED: u16 = 9_000;
const DEAD: u16 = 9_001;
const NOBODY: u16 = 9_002;

const PORTS: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: edge, namespace: shop }
spec:
  selector: { istio: ingressgateway }
  servers:
  - { port: { number: 9000, name: served, protocol: TCP }, hosts: ['*'] }
  - { port: { number: 9001, name: dead, protocol: TCP }, hosts: ['*'] }
  - { port: { number: 9002, name: nobody, protocol: TCP }, hosts: ['*'] }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: all, namespace: shop }
spec:
  hosts: ['*']
  gateways: [edge]
  tcp:
  - match: [{ port: 9000 }]
    route: [{ destination: { host: raw.shop.svc.cluster.local } }]
  - match: [{ port: 9001 }]
    route: [{ destination: { host: gone.shop.svc.cluster.local } }]
";

const PROVIDERS: &str = "extensionProviders:
- {name: own, envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: 'OWN %DOWNSTREAM_REMOTE_ADDRESS% %BYTES_SENT% %REQ(:PATH)% %RESPONSE_CODE%'}}}
- {name: als, envoyTcpAls: {service: logs.shop.svc.cluster.local, port: 9001}}";

impl Stand {
    fn start(settings: &str, spec: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (server, gone) = (listener.local_addr()?, TcpListener::bind("127.0.0.1:0")?.local_addr()?);
        thread::spawn(move || {
            while let Ok((mut tcp, _)) = listener.accept() {
                let mut heard = [0; 4];
                let _ = tcp.read_exact(&mut heard).and_then(|()| tcp.write_all(b"pong!"));
            }
        });
        let collector = Collector::start()?;
        let config = [
            PORTS.to_owned(),
            service("raw", "tcp", 7000, server.port()),
            service("gone", "tcp", 7001, gone.port()),
            service("logs", "grpc", 9001, collector.grpc().port()),
        ];
        let gateway = Gateway::start(&[
            ("edge.yaml", &config.concat()),
            ("mesh.yaml", &mesh(&format!("{settings}\n{PROVIDERS}"))),
            ("telemetry.yaml", &telemetry(spec)),
        ])?;
        let stand = Self { gateway, collector, server };
        wait(Duration::from_secs(5), || stand.speak(SERVED).is_ok_and(|(_, heard)| heard == "pong!"))?;
        Ok(stand)
    }

    /// Says a word to a port; the client's address, and what it hears.
    fn speak(&self, port: u16) -> Result<(SocketAddr, String)> {
        let mut tcp = TcpStream::connect(self.gateway.at(port))?;
        tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
        let own = tcp.local_addr()?;
        let mut heard = String::new();
        // It may be cut while it speaks.
        let _ = tcp.write_all(b"ping").and_then(|()| tcp.read_to_string(&mut heard));
        Ok((own, heard))
    }

    /// The line about the connection from this address.
    fn line(&self, own: SocketAddr) -> Result<String> {
        let own = own.to_string();
        let find = || self.gateway.access_log().lines().find(|line| line.contains(&own)).map(str::to_owned);
        wait(Duration::from_secs(5), || find().is_some())
            .with_context(|| format!("{own}: {}", self.gateway.access_log()))?;
        find().context("a line")
    }
}

#[test]
fn connections_are_logged_as_requests_are() -> Result<()> {
    let stand = Stand::start("accessLogFile: /dev/stdout", "{}")?;
    let (client, heard) = stand.speak(SERVED)?;
    ensure!(heard == "pong!", "{heard}");
    let line = stand.line(client)?;
    let (time, rest) = line.split_once("] ").context(line.clone())?;
    ensure!(time.starts_with("[20") && time.ends_with('Z'), "{line}");
    let Stand { server, gateway, .. } = &stand;
    let words: Vec<_> = rest.split(' ').collect();
    let [duration, local] = [words[10], words[18]];
    let to = "outbound|7000||raw.shop.svc.cluster.local";
    let expected = format!(
        "\"- - -\" 0 - - - \"-\" 4 5 {duration} - \"-\" \"-\" \"-\" \"-\" \"{server}\" {to} {local} {} {client} - -",
        gateway.at(SERVED)
    );
    ensure!(rest == expected, "\n{rest}\n{expected}");
    ensure!(duration.parse::<u64>().is_ok() && local.parse::<SocketAddr>().is_ok(), "{line}");
    ensure!(local.starts_with("127.0.0.1:") && *local != server.to_string(), "{line}");
    let refused = stand.line(stand.speak(DEAD)?.0)?;
    ensure!(refused.contains("] \"- - -\" 0 UF,URX - - \""), "{refused}");
    ensure!(refused.contains(" 0 0 ") && refused.contains("outbound|7001||gone"), "{refused}");
    let nobody = stand.line(stand.speak(NOBODY)?.0)?;
    ensure!(nobody.contains("] \"- - -\" 0 NR filter_chain_not_found - \""), "{nobody}");
    ensure!(nobody.contains(&format!(" \"-\" - - {} ", gateway.at(NOBODY))), "{nobody}");
    gateway.write("mesh.yaml", &mesh("accessLogFile: /dev/stdout\naccessLogEncoding: JSON"))?;
    let mut last = Value::Null;
    wait(Duration::from_secs(5), || {
        last = stand
            .speak(SERVED)
            .and_then(|(own, _)| stand.line(own))
            .map_or(Value::Null, |line| serde_json::from_str(&line).unwrap_or(Value::Null));
        last.is_object()
    })?;
    let known = [("bytes_received", 4.into()), ("bytes_sent", 5.into()), ("response_code", 0.into())];
    ensure!(known.iter().all(|(name, value): &(_, Value)| last[*name] == *value), "{last}");
    ensure!(last["upstream_cluster"] == to && last["response_flags"] == "-", "{last}");
    let unknown = ["method", "path", "protocol", "authority", "request_id", "response_code_details"];
    ensure!(unknown.iter().all(|name| last.get(name) == Some(&Value::Null)), "{last}");
    gateway.write(
        "mesh.yaml",
        &mesh("accessLogFile: /dev/stdout\naccessLogFormat: 'MINE %BYTES_SENT% %DOWNSTREAM_REMOTE_ADDRESS%'"),
    )?;
    wait(Duration::from_secs(5), || {
        let said = stand.speak(SERVED).and_then(|(own, _)| Ok((own, stand.line(own)?)));
        said.is_ok_and(|(own, line)| line == format!("MINE 5 {own}"))
    })
}

#[test]
fn a_telemetry_says_how_connections_are_logged_and_to_whom() -> Result<()> {
    let all = "!connection.mtls && !has(response.code) && destination.port == 9000 && source.port != 0";
    let spec = |filter: &str| {
        format!(
            "{{accessLogging: [{{providers: [{{name: own}}, {{name: als}}], filter: {{expression: \"{filter}\"}}}}]}}"
        )
    };
    let stand = Stand::start("accessLogEncoding: JSON", &spec(all))?;
    let (client, _) = stand.speak(SERVED)?;
    let line = stand.line(client)?;
    ensure!(line == format!("OWN {client} 5 - 0"), "{line}");
    let from = client.to_string();
    let told = stand.collector.wait_logged(1, |it| it.says.get("client") == Some(&from))?.remove(0);
    ensure!(told.by == "tcp" && told.says["received"] == "4" && told.says["sent"] == "5", "{told:#?}");
    ensure!(told.says["cluster"] == "outbound|7000||raw.shop.svc.cluster.local", "{told:#?}");
    ensure!(told.says["upstream"] == stand.server.to_string(), "{told:#?}");
    let (unwanted, _) = stand.speak(NOBODY)?;
    thread::sleep(Duration::from_millis(1_500));
    ensure!(!stand.gateway.access_log().contains(&unwanted.to_string()), "filtered out");
    let told = format!("{:?}", stand.collector.logged());
    ensure!(!told.contains(&unwanted.to_string()), "filtered out: {told}");
    stand.gateway.write("telemetry.yaml", &telemetry(&spec("response.code < 400")))?;
    wait(Duration::from_secs(5), || {
        let before = stand.gateway.access_log().len();
        stand.speak(SERVED).is_ok() && {
            thread::sleep(Duration::from_millis(200));
            stand.gateway.access_log().len() == before
        }
    })
}

#[test]
fn a_connection_that_policy_refuses_names_the_policy_in_the_log() -> Result<()> {
    let stand = Stand::start("accessLogFile: /dev/stdout", "{}")?;
    let policy = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: shut, namespace: istio-system}, \
         spec: {selector: {matchLabels: {istio: ingressgateway}}, action: DENY, rules: [{to: [{operation: {ports: ['9000']}}]}]}}";
    let held = stand.gateway.at(SERVED);
    let mut open = TcpStream::connect(held)?;
    open.write_all(b"pi")?;
    thread::sleep(Duration::from_millis(200));
    stand.gateway.write("policy.yaml", policy)?;
    let mut refused = None;
    wait(Duration::from_secs(5), || {
        refused = stand.speak(SERVED).ok().filter(|(_, heard)| heard.is_empty()).map(|(own, _)| own);
        refused.is_some()
    })?;
    let details = "rbac_access_denied_matched_policy[ns[istio-system]-policy[shut]-rule[0]]";
    for own in [refused.context("refused")?, open.local_addr()?] {
        let line = stand.line(own)?;
        ensure!(line.contains(&format!("] \"- - -\" 0 - - {details} \"")), "{line}");
    }
    Ok(())
}
