//! What `MeshConfig` says to a gateway: one row each, with a gateway of its own.

use anyhow::{Result, ensure};

use crate::client::{Reply, Req, get};
use crate::row::{Case, Row, row, virtual_service};
use crate::stand::{Gateway, free_ports};

pub(crate) fn rows() -> Vec<Row> {
    [proxies(), paths(), others()].into_iter().flatten().collect()
}

fn proxies() -> Vec<Row> {
    vec![
        row("settings/no-trusted-proxy").act(async |case| {
            let own = Own::start(case, "", true).await?;
            let seen = own.ask(get("/").with("x-forwarded-for", "1.1.1.1,2.2.2.2")).await?.seen()?;
            ensure!(
                seen.header("x-forwarded-for").as_deref() == Some("1.1.1.1,2.2.2.2,127.0.0.1"),
                "{seen:?}"
            );
            own.logged("downstream_remote_address", |address| address.starts_with("127.0.0.1:")).await
        }),
        row("settings/trusted-proxies").act(async |case| {
            let own =
                Own::start(case, "defaultConfig: {gatewayTopology: {numTrustedProxies: 2}}", true).await?;
            let request = get("/")
                .with("x-forwarded-for", "6.6.6.6,1.1.1.1,2.2.2.2")
                .with("x-forwarded-proto", "https");
            let seen = own.ask(request).await?.seen()?;
            let said =
                ["x-forwarded-for", "x-forwarded-proto"].map(|name| seen.header(name).unwrap_or_default());
            ensure!(said == ["6.6.6.6,1.1.1.1,2.2.2.2,127.0.0.1", "https"], "{said:?}");
            own.logged("downstream_remote_address", |address| address == "1.1.1.1:0").await
        }),
        row("settings/trusted-proxies-of-the-pod").act(async |case| {
            // The pod's own word comes before the mesh's, and what the next one says counts from then on.
            let own =
                Own::start(case, "defaultConfig: {gatewayTopology: {numTrustedProxies: 3}}", true).await?;
            let request = || get("/").with("x-forwarded-for", "6.6.6.6,1.1.1.1,2.2.2.2");
            own.annotate("'gatewayTopology: {numTrustedProxies: 2}'")?;
            own.comes_from("1.1.1.1:0", request).await?;
            own.annotate("'gatewayTopology: {numTrustedProxies: 1}'")?;
            own.comes_from("2.2.2.2:0", request).await?;
            // A number that is none is no reason to believe anybody.
            own.annotate("'gatewayTopology: {numTrustedProxies: many}'")?;
            own.comes_from("127.0.0.1:", request).await
        }),
        row("settings/trusted-proxies-that-are-not-there").act(async |case| {
            let own =
                Own::start(case, "defaultConfig: {gatewayTopology: {numTrustedProxies: 2}}", true).await?;
            own.ask(get("/").with("x-forwarded-for", "6.6.6.6")).await?;
            own.logged("downstream_remote_address", |address| address.starts_with("127.0.0.1:")).await
        }),
    ]
}

fn paths() -> Vec<Row> {
    vec![
        row("settings/path-merge-slashes").act(async |case| {
            let own = Own::start(case, "pathNormalization: {normalization: MERGE_SLASHES}", true).await?;
            let path = own.ask(get("//a///b/../c")).await?.seen()?.target;
            ensure!(path == "/a/c", "{path}");
            Ok(())
        }),
        row("settings/path-decode-slashes").act(async |case| {
            let own = Own::start(case, "pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}", true)
                .await?;
            let path = own.ask(get("/a%2f%2Fb%5cc")).await?.seen()?.target;
            ensure!(path == "/a/b/c", "{path}");
            Ok(())
        }),
        row("settings/path-as-it-is").act(async |case| {
            let own = Own::start(case, "pathNormalization: {normalization: NONE}", true).await?;
            let path = own.ask(get("/a/../b//c")).await?.seen()?.target;
            ensure!(path == "/a/../b//c", "{path}");
            Ok(())
        }),
    ]
}

fn others() -> Vec<Row> {
    vec![
        row("settings/access-log-encoding").act(async |case| {
            let own = Own::start(case, "accessLogEncoding: JSON", false).await?;
            own.ask(get("/")).await?;
            own.logged("path", |path| path == "/").await
        }),
        row("settings/access-log-format").act(async |case| {
            let format = "accessLogFormat: 'own %REQ(:METHOD)% %RESPONSE_CODE% %REQ(USER-AGENT)%'";
            let own = Own::start(case, format, false).await?;
            own.ask(get("/")).await?;
            own.gateway.said_line("own GET 200 settings").await
        }),
        row("settings/default-export-to").act(async |case| {
            let own = Own::start(case, "defaultVirtualServiceExportTo: ['.']", true).await?;
            ensure!(own.ask(get("/")).await?.status == 404, "a rule that the gateway does not see");
            Ok(())
        }),
    ]
}

/// What every stand's configuration says.
const LOGS: &str = "accessLogFile: /dev/stdout\\n";

/// A gateway with these settings and a rule for `own.test`.
struct Own {
    gateway: Gateway,
    case: Case,
    port: u16,
    base: String,
}

impl Own {
    async fn start(case: Case, settings: &str, json: bool) -> Result<Self> {
        let ports = free_ports::<4>()?;
        let settings = format!("{LOGS}{}\\n", settings.replace('\n', "\\n"));
        let base = case.stand.shared(ports).replace(LOGS, &settings);
        let rules = virtual_service("own", "own.test", "[{route: [{destination: {host: echo}}]}]");
        let files = [("base.yaml".to_owned(), base.clone()), ("own.yaml".to_owned(), rules)];
        let options: &[&str] =
            if json { &["--threads", "1", "--access-log", "json"] } else { &["--threads", "1"] };
        let gateway = Gateway::start_as(&files, options).await?;
        Ok(Self { gateway, case, port: ports[0], base })
    }

    async fn ask(&self, request: Req) -> Result<Reply> {
        self.case.send(Req { port: Some(self.port), ..request.to("own.test").mark(MARK) }).await
    }

    /// Writes the gateway's pod anew, with this annotation.
    fn annotate(&self, config: &str) -> Result<()> {
        let plain =
            "{apiVersion: v1, kind: Pod, metadata: {name: istio-ingressgateway, namespace: istio-system, ";
        ensure!(self.base.contains(plain), "the gateway's pod is written in another way");
        let with = format!("{plain}annotations: {{proxy.istio.io/config: {config}}}, ");
        self.gateway.write("base.yaml", &self.base.replace(plain, &with))
    }

    /// Requests come from an address that begins like this, as soon as the configuration is in force.
    async fn comes_from(&self, address: &str, request: impl Fn() -> Req) -> Result<()> {
        let mut last = String::new();
        for number in 0..100 {
            let token = format!("{MARK}-{address}-{number}");
            let asked = request().mark(&token).to("own.test");
            self.case.send(Req { port: Some(self.port), ..asked }).await?;
            last = self.gateway.log(&token).await?["downstream_remote_address"].to_string();
            if last.trim_matches('"').starts_with(address) {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        anyhow::bail!("requests come from {last} and not from {address}")
    }

    async fn logged(&self, field: &str, is: impl Fn(&str) -> bool) -> Result<()> {
        let line = self.gateway.log(MARK).await?;
        ensure!(line[field].as_str().is_some_and(is), "{field} in {line}");
        Ok(())
    }
}

const MARK: &str = "settings";
