//! A stock ztunnel as client: how it asks, and the real one where `ZTUNNEL` names one while the tests are built.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_proto::names::ResourceType;
use mesh_tests::http::{Request, fetch};
use serde_json::Value;

use crate::discovery::{app, over, policy, service, workload};
use crate::plane::{Plane, TLS, until};
use crate::subscriber::{Subscriber, named, request};

/// Workloads and policies, by their names or all of them; no type that only our own nodes know; over the plain port.
#[tokio::test]
async fn it_is_served_as_it_asks() -> Result<()> {
    let plane = over(&files())?;
    let mut ztunnel = Subscriber::plain(&plane, "n1").await?;
    ztunnel.send(request(ResourceType::Address)).await?;
    ztunnel.send(request(ResourceType::Authorization)).await?;
    ztunnel.send(named(ResourceType::Authorization, &[], &[])).await?;
    let told = ztunnel.told().await?;
    ensure!(told.len() == 5 && ztunnel.held.len() == 5, "two pods, two services, a policy: {told:?}");
    let syncz = plane.subscribers()?;
    let one = &syncz["subscribers"][0];
    let id = one["id"].as_str().unwrap_or_default();
    ensure!(one["node"] == "n1" && id.starts_with("ztunnel~") && id.contains(".istio-system~"), "{one}");
    let types: Vec<_> = one["types"].as_array().context("types")?.iter().map(|one| &one["type"]).collect();
    ensure!(types == ["Authorization", "Address"], "{types:?}");
    Ok(())
}

fn files() -> [(&'static str, String); 3] {
    [
        ("a.yaml", app("a", "n1", "10.1.0.1", 80)),
        ("b.yaml", app("b", "n2", "10.2.0.2", 80)),
        ("policy.yaml", policy("a", "b")),
    ]
}

/// The real one.
struct Ztunnel {
    child: Child,
    admin: SocketAddr,
    log: PathBuf,
}

impl Ztunnel {
    fn start(plane: &Plane) -> Result<Self> {
        let program = std::env::var_os("ZTUNNEL").context("ZTUNNEL names no program")?;
        // The one port that its settings do not reach is that of its readiness.
        let [admin, stats] = [free_port()?, free_port()?];
        let log = plane.scratch().join("ztunnel.log");
        let file = File::create(&log)?;
        let child = Command::new(program)
            .env_clear()
            .env("PROXY_MODE", "shared")
            .env("NODE_NAME", "n1")
            .env("INPOD_UDS", plane.scratch().join("nobody.sock"))
            // It speaks TLS only, and shows its token to both services.
            .env("XDS_ADDRESS", format!("https://{}", plane.at(TLS)))
            .env("XDS_ROOT_CA", plane.state().join("ca/root-cert.pem"))
            .env("CA_ADDRESS", format!("https://{}", plane.at(TLS)))
            .env("CA_ROOT_CA", plane.state().join("ca/root-cert.pem"))
            .env("AUTH_TOKEN", plane.token("n1", &["--uses", "100"])?)
            .env("IPV6_ENABLED", "false")
            .env("ISTIO_META_DNS_CAPTURE", "false")
            .env(
                "PROXY_CONFIG",
                format!("{{\"proxyAdminPort\": {admin}, \"statsPort\": {stats}, \"proxyMetadata\": {{}}}}"),
            )
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()?;
        Ok(Self { child, admin: ([127, 0, 0, 1], admin).into(), log })
    }

    fn dump(&self) -> Result<Value> {
        let response = fetch(self.admin, &Request::get("/config_dump"), Duration::from_secs(2))?;
        Ok(serde_json::from_str(&response.text())?)
    }

    /// Waits until its dump is as wanted.
    async fn shows(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let mut last = Value::Null;
        let seen = until(Duration::from_secs(8), || {
            last = self.dump().unwrap_or_default();
            wanted(&last)
        });
        let log = || fs::read_to_string(&self.log).unwrap_or_default();
        seen.await.with_context(|| format!("{what}; at last {last:#}\n{}", log()))
    }
}

impl Drop for Ztunnel {
    fn drop(&mut self) {
        // It is gone either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn all<'a>(dump: &'a Value, what: &str) -> &'a [Value] {
    dump[what].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// It takes everything it is told, follows changes and removals, and comes back to a control plane that was away.
#[tokio::test]
#[cfg_attr(not(ztunnel), ignore = "NOT RUN: build with ZTUNNEL=/path/to/ztunnel")]
async fn the_real_one_takes_what_it_is_told() -> Result<()> {
    let mut plane = over(&files())?;
    let ztunnel = Ztunnel::start(&plane)?;
    let workloads = |dump: &Value| all(dump, "workloads").to_vec();
    ztunnel
        .shows("two workloads, two services, a policy", |dump| {
            workloads(dump).len() == 2 && all(dump, "services").len() == 2 && all(dump, "policies").len() == 1
        })
        .await?;
    let dump = ztunnel.dump()?;
    let pod =
        workloads(&dump).into_iter().find(|one| one["uid"] == *workload("a")).context("the pod of a")?;
    ensure!(
        pod["workloadIps"][0] == "10.1.0.1" && pod["node"] == "n1" && pod["serviceAccount"] == "a",
        "{pod}"
    );
    ensure!(pod["protocol"] == "HBONE" && pod["status"] == "Healthy", "{pod}");
    let front =
        all(&dump, "services").iter().find(|one| one["namespace"] == "a").context("the service of a")?;
    ensure!(front["hostname"] == service("a")["a/".len()..], "{front}");
    ensure!(front["endpoints"].as_object().is_some_and(|all| all.len() == 1), "with its pod: {front}");
    let rule = &all(&dump, "policies")[0];
    ensure!(rule["name"] == "only" && rule["namespace"] == "a" && rule["action"] == "Allow", "{rule}");
    let types = plane.subscribers()?["subscribers"][0]["types"].clone();
    let rejected = types.as_array().context("types")?.iter().any(|one| one["rejected"] != 0);
    ensure!(!rejected, "it has rejected something: {types}");

    plane.write("c.yaml", &app("c", "n2", "10.2.0.3", 80))?;
    plane.remove("policy.yaml")?;
    ztunnel
        .shows("one more workload, no policy", |dump| {
            workloads(dump).len() == 3 && all(dump, "policies").is_empty()
        })
        .await?;
    plane.kill()?;
    plane.remove("b.yaml")?;
    plane.revive()?;
    ztunnel
        .shows("what went away meanwhile is gone", |dump| {
            workloads(dump).len() == 2 && !workloads(dump).iter().any(|one| one["uid"] == *workload("b"))
        })
        .await
}
