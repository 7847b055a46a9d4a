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

/// A gateway with these settings and a rule for `own.test`.
struct Own {
    gateway: Gateway,
    case: Case,
    port: u16,
}

impl Own {
    async fn start(case: Case, settings: &str, json: bool) -> Result<Self> {
        let ports = free_ports::<4>()?;
        let settings = settings.replace('\n', "\\n");
        let base = case.stand.shared(ports).replace("accessLogFile: /dev/stdout\\n", &settings);
        let rules = virtual_service("own", "own.test", "[{route: [{destination: {host: echo}}]}]");
        let files = [("base.yaml".to_owned(), base), ("own.yaml".to_owned(), rules)];
        let options: &[&str] =
            if json { &["--threads", "1", "--access-log", "json"] } else { &["--threads", "1"] };
        let gateway = Gateway::start_as(&files, options).await?;
        Ok(Self { gateway, case, port: ports[0] })
    }

    async fn ask(&self, request: Req) -> Result<Reply> {
        self.case.send(Req { port: Some(self.port), ..request.to("own.test").mark(MARK) }).await
    }

    async fn logged(&self, field: &str, is: impl Fn(&str) -> bool) -> Result<()> {
        let line = self.gateway.log(MARK).await?;
        ensure!(line[field].as_str().is_some_and(is), "{field} in {line}");
        Ok(())
    }
}

const MARK: &str = "settings";
