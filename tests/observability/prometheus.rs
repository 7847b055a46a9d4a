//! The real Prometheus, started on a node of a bed, and its judgement of metrics.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::bed::{NodeHandle, Process};
use mesh_tests::http::{Request, fetch};
use serde_json::Value;

use crate::gateway::Stand;

/// A process; it ends with the handle.
pub(crate) struct Prometheus {
    process: Process,
    #[expect(dead_code, reason = "held for its Drop, which removes the files")]
    files: tempfile::TempDir,
}

impl Prometheus {
    /// One that scrapes these addresses once a second.
    pub(crate) fn start(node: &NodeHandle<'_>, targets: &[String]) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let config = files.path().join("prometheus.yml");
        fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
                 scrape_configs: [{{job_name: mesh, static_configs: [{{targets: {targets:?}}}]}}]\n"
            ),
        )?;
        let process = node.spawn(&[
            "prometheus",
            &format!("--config.file={}", config.display()),
            &format!("--storage.tsdb.path={}", files.path().join("data").display()),
            "--web.listen-address=127.0.0.1:19090",
            "--enable-feature=exemplar-storage",
        ])?;
        Ok(Self { process, files })
    }

    /// Waits until there is an answer to a query that is not empty.
    pub(crate) fn wait(&self, node: &NodeHandle<'_>, api: &str, query: &str) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let last = self.ask(node, api, query)?;
            if last.has_something() {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("nothing for {query}: {}\n{}", last.0, self.process.errors());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The answer to a query, which has to be one that Prometheus understands.
    pub(crate) fn ask(&self, node: &NodeHandle<'_>, api: &str, query: &str) -> Result<Answer> {
        let times = if api == "query" { "" } else { "&start=0&end=9999999999" };
        let answer = Self::get(node, &format!("/api/v1/{api}?query={}{times}", encoded(query)));
        answer.with_context(|| format!("{query}: {}", self.process.errors()))
    }

    /// The values of a label of some series.
    pub(crate) fn values(&self, node: &NodeHandle<'_>, label: &str, of: &str) -> Result<Vec<String>> {
        let answer = Self::get(node, &format!("/api/v1/label/{label}/values?match[]={}", encoded(of)));
        let answer = answer.with_context(|| format!("{label} of {of}: {}", self.process.errors()))?;
        serde_json::from_value(answer.0["data"].clone()).with_context(|| answer.0.to_string())
    }

    /// An answer without an error. While Prometheus is not there yet it is an empty one.
    fn get(node: &NodeHandle<'_>, path: &str) -> Result<Answer> {
        let answer = node.run_in_netns(|| {
            fetch(([127, 0, 0, 1], 19090).into(), &Request::get(path), Duration::from_secs(5))
        })?;
        let value: Value =
            answer.ok().and_then(|it| serde_json::from_str(&it.text()).ok()).unwrap_or_default();
        ensure!(value["status"] != "error", "{value}");
        Ok(Answer(value))
    }
}

/// What Prometheus has answered.
#[derive(Debug)]
pub(crate) struct Answer(Value);

impl Answer {
    /// The values of a label, each once.
    pub(crate) fn values(&self, label: &str) -> Vec<String> {
        let rows = self.0["data"]["result"].as_array().into_iter().flatten();
        let values = rows.filter_map(|row| row["metric"][label].as_str().map(str::to_owned));
        values.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    /// Whether there is a number in it, or anything at all where no numbers were asked for.
    pub(crate) fn has_something(&self) -> bool {
        let data = &self.0["data"];
        let rows = data.get("result").unwrap_or(data).as_array().map(Vec::as_slice).unwrap_or_default();
        let is_number = |row: &Value| row["value"][1].as_str().is_none_or(|number| number != "NaN");
        rows.iter().any(is_number)
    }
}

fn encoded(query: &str) -> String {
    query.bytes().fold(String::new(), |text, byte| format!("{text}%{byte:02x}"))
}

/// What `promtool` has against metrics, if anything but Istio's names.
pub(crate) fn check_metrics(text: &str) -> Result<()> {
    let mut tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool")?;
    tool.stdin.take().context("its input")?.write_all(text.as_bytes())?;
    let output = tool.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    // Dashboards ask for these by name.
    let known = |line: &&str| !ISTIO.iter().any(|name| line.starts_with(name));
    let others: Vec<_> = said.lines().filter(|line| !line.is_empty()).filter(known).collect();
    ensure!(others.is_empty(), "{others:#?}");
    Ok(())
}

/// Names that Istio gave, which Prometheus would not.
const ISTIO: &[&str] = &[
    "istio_request_duration_milliseconds",
    "workload_manager_",
    "citadel_server_",
    "galley_validation_",
    "pilot_k8s_",
    "pilot_push_triggers",
    "pilot_total_xds_",
    "pilot_xds_pushes",
    "pilot_proxy_convergence_time",
];

#[test]
fn promtool_has_nothing_against_the_metrics_of_a_gateway() -> Result<()> {
    let stand = Stand::start("{tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 100}]}")?;
    stand.ask("/broken", &[])?;
    std::thread::sleep(Duration::from_millis(300));
    let text = fetch(stand.gateway.at(15020), &Request::get("/metrics"), Duration::from_secs(5))?.text();
    ensure!(text.contains("istio_requests_total{"), "{text}");
    check_metrics(&text)?;
    ensure!(check_metrics("# TYPE bad_count counter\nbad_count 1\n").is_err(), "a tool that says nothing");
    Ok(())
}
