//! The configuration changes while requests come: it takes effect within a second, and no request fails.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::client::{Wire, get};
use crate::row::{Case, Row, row, slug, virtual_service};
use crate::stand::{Gateway, free_ports};

pub(crate) fn rows() -> Vec<Row> {
    changes().into_iter().map(Row::alone).collect()
}

fn changes() -> Vec<Row> {
    vec![
        row("mesh/change-of-weights").http(&weights(100, 0)).act(async |case| {
            let load = Load::start(&case);
            load.until("echo-1").await?;
            case.set(&weights(0, 100))?;
            load.until("echo-2").await?;
            case.set(&weights(50, 50))?;
            load.until("echo-1").await?;
            load.stop().await
        }),
        row("mesh/change-of-rules").http("[{TO(v1)}]").act(async |case| {
            let load = Load::start(&case);
            load.until("echo-1").await?;
            for number in 0..6 {
                let (subset, pod) = if number % 2 == 0 { ("v2", "echo-2") } else { ("v1", "echo-1") };
                case.set(&format!("[{{match: [{{uri: {{prefix: /never-{number}}}}}], directResponse: {{status: 500}}}}, {{route: [{{destination: {{host: echo, subset: {subset}}}}}]}}]"))?;
                load.until(pod).await?;
            }
            load.stop().await
        }),
        row("mesh/change-of-endpoints").config(&service("many", "v1")).http("[{route: [{destination: {host: mesh-change-of-endpoints}}]}]").act(async |case| {
            let load = Load::start(&case);
            load.until("many-1").await?;
            let rules = virtual_service("mesh-change-of-endpoints-1", &case.host, "[{route: [{destination: {host: mesh-change-of-endpoints}}]}]");
            let new = service("many", "v2").replace("NAME", "mesh-change-of-endpoints");
            case.stand.gateway.write("mesh-change-of-endpoints.yaml", &format!("{new}\n---\n{rules}"))?;
            load.until("many-3").await?;
            load.settle();
            tokio::time::sleep(Duration::from_millis(300)).await;
            ensure!(!load.pods().iter().any(|pod| pod == "many-1" || pod == "many-2"), "{:?}", load.pods());
            load.stop().await
        }),
        row("mesh/change-on-live-connections").http("[{TO(v1)}]").act(async |case| {
            let mut wire = case.wire().await?;
            let mut ask = async || -> Result<String> {
                wire.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", case.host)).await?;
                Ok(wire.reply("GET").await?.pod())
            };
            ensure!(ask().await? == "echo-1", "somebody else");
            case.set("[{route: [{destination: {host: echo, subset: v2}}]}]")?;
            let begun = Instant::now();
            while ask().await? != "echo-2" {
                ensure!(begun.elapsed() < SOON, "the old rule after {:?}", begun.elapsed());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        }),
        row("mesh/change-that-is-wrong").http("[{TO(v1)}]").act(async |case| {
            let name = slug(&case.id);
            case.stand.gateway.write(&format!("{name}.yaml"), "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: x, namespace")?;
            tokio::time::sleep(Duration::from_millis(700)).await;
            let reply = case.send(get("/")).await?;
            ensure!(reply.status == 200 && reply.pod() == "echo-1", "a broken file costs rules that were good: {reply}");
            Ok(())
        }),
        row("mesh/drain-loses-nothing").act(drain),
    ]
}

/// A gateway that is told to stop ends what it has, and tells clients to go.
async fn drain(case: Case) -> Result<()> {
    let ports = free_ports::<4>()?;
    let rules = virtual_service("drain", "drain.test", "[{route: [{destination: {host: echo}}]}]");
    let files = [("base.yaml".to_owned(), case.stand.shared(ports)), ("drain.yaml".to_owned(), rules)];
    let gateway = Gateway::start(&files, &["--threads", "2"]).await?;
    let connect = async || -> Result<Wire> {
        Ok(Wire::new(Box::new(tokio::net::TcpStream::connect(("127.0.0.1", ports[0])).await?)))
    };
    let (mut busy, mut idle) = (connect().await?, connect().await?);
    idle.send("GET / HTTP/1.1\r\nHost: drain.test\r\n\r\n").await?;
    ensure!(idle.reply("GET").await?.status == 200, "no answer");
    busy.send("GET / HTTP/1.1\r\nHost: drain.test\r\nx-do: delay=500\r\n\r\n").await?;
    tokio::time::sleep(Duration::from_millis(150)).await;
    gateway.terminate()?;
    ensure!(idle.rest().await?.is_empty(), "something is said on an idle connection");
    let reply = busy.reply("GET").await?;
    ensure!(reply.status == 200 && reply.header("connection").as_deref() == Some("close"), "{reply}");
    Ok(())
}

/// Requests without a pause, on connections that stay.
struct Load {
    seen: Rc<RefCell<Vec<String>>>,
    failed: Rc<RefCell<Vec<String>>>,
    ends: Rc<Cell<bool>>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(case: &Case) -> Self {
        let mut load =
            Self { seen: Rc::default(), failed: Rc::default(), ends: Rc::default(), clients: JoinSet::new() };
        for _ in 0..CLIENTS {
            let (case, seen, failed, ends) =
                (case.clone(), Rc::clone(&load.seen), Rc::clone(&load.failed), Rc::clone(&load.ends));
            load.clients.spawn_local(async move {
                if let Err(error) = client(&case, &seen, &ends).await {
                    failed.borrow_mut().push(format!("{error:#}"));
                }
            });
        }
        load
    }

    /// Waits until this pod answers, which has to be soon.
    async fn until(&self, pod: &str) -> Result<()> {
        self.settle();
        let begun = Instant::now();
        while !self.pods().iter().any(|seen| seen == pod) {
            ensure!(self.failed.borrow().is_empty(), "{:?}", self.failed.borrow());
            ensure!(begun.elapsed() < SOON, "not {pod} after {SOON:?}, but {:?}", self.pods());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Forgets what was.
    fn settle(&self) {
        self.seen.borrow_mut().clear();
    }

    fn pods(&self) -> Vec<String> {
        let mut pods = self.seen.borrow().clone();
        pods.sort();
        pods.dedup();
        pods
    }

    async fn stop(mut self) -> Result<()> {
        self.ends.set(true);
        while self.clients.join_next().await.is_some() {}
        ensure!(self.failed.borrow().is_empty(), "requests failed: {:?}", self.failed.borrow());
        Ok(())
    }
}

async fn client(case: &Case, seen: &RefCell<Vec<String>>, ends: &Cell<bool>) -> Result<()> {
    let mut wire = case.wire().await?;
    while !ends.get() {
        wire.send(format!("GET /load HTTP/1.1\r\nHost: {}\r\n\r\n", case.host)).await?;
        let reply = wire.reply("GET").await?;
        ensure!(reply.status == 200, "{reply}");
        seen.borrow_mut().push(reply.pod());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

impl Case {
    /// Gives the row's host other rules.
    fn set(&self, rules: &str) -> Result<()> {
        let name = slug(&self.id);
        let text = virtual_service(&format!("{name}-0"), &self.host, rules);
        self.stand.gateway.write(&format!("{name}.yaml"), &text)
    }
}

fn weights(a: u32, b: u32) -> String {
    format!(
        "[{{route: [{{destination: {{host: echo, subset: v1}}, weight: {a}}}, {{destination: {{host: echo, subset: v2}}, weight: {b}}}]}}]"
    )
}

fn service(app: &str, version: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: NAME, namespace: conf}}, \
         spec: {{selector: {{app: {app}, version: {version}}}, ports: [{{name: http, port: 80, targetPort: http}}]}}}}"
    )
}

/// How soon a change has to be in effect.
const SOON: Duration = Duration::from_secs(1);
const CLIENTS: usize = 6;
