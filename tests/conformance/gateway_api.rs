//! The conformance tests of the Gateway API, one row each under the name that they have there.
//!
//! What a row configures goes two ways at once: as files to a real `mesh-node gateway` for each of its Gateways, or to the
//! nodes of a real mesh, which get real requests, and through a Kubernetes API to a real `mesh-control`, which writes
//! statuses. Written from the specification; the conformance suite itself needs a cluster.

mod backend_tls;
mod backends;
mod bed;
mod gateways;
mod grpc;
mod http;
mod listener_sets;
mod mesh;
mod rules;
mod sealed;
mod sessions;
mod stage;
mod tls;
mod udp;

use std::pin::Pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use tokio::task::LocalSet;

use self::stage::{Case, Stage};
use crate::client::Req;
use crate::row::Want;
use crate::{ROW, say};

/// A test.
pub(crate) struct Test {
    name: &'static str,
    /// What a gateway must support for it to be run.
    level: Level,
    yaml: String,
    /// Whether it is about clients in the mesh, and needs one.
    in_mesh: bool,
    steps: Vec<Step>,
}

/// Whether a test is for all, or for those who say that they support a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Of a profile that is claimed.
    Core,
    /// Of a feature of it.
    Extended,
}

enum Step {
    /// A request to a port of a Gateway, and what has to come of it.
    Ask(&'static str, u16, Box<(Req, Want)>),
    Act(Act),
}

type Act = Box<dyn FnOnce(Rc<Case>) -> Pin<Box<dyn Future<Output = Result<()>>>>>;

/// A test that everybody has to pass.
pub(crate) fn core(name: &'static str) -> Test {
    Test { name, level: Level::Core, yaml: String::new(), in_mesh: false, steps: Vec::new() }
}

/// A test of a feature.
pub(crate) fn extended(name: &'static str) -> Test {
    Test { level: Level::Extended, ..core(name) }
}

impl Test {
    /// Adds documents, separated by `---`.
    pub(crate) fn yaml(mut self, yaml: &str) -> Self {
        self.yaml.push_str("\n---\n");
        self.yaml.push_str(yaml);
        self
    }

    /// Has no gateways, but a mesh.
    fn in_mesh(mut self) -> Self {
        self.in_mesh = true;
        self
    }

    /// A request to port 80 of Gateway `infra/gw`, and what has to come of it.
    pub(crate) fn ask(self, request: Req, want: Want) -> Self {
        self.ask_at("infra/gw", 80, request, want)
    }

    /// A request to a port of a Gateway.
    pub(crate) fn ask_at(mut self, gateway: &'static str, port: u16, request: Req, want: Want) -> Self {
        self.steps.push(Step::Ask(gateway, port, Box::new((request, want))));
        self
    }

    /// What the conditions of a route, a Gateway or one of its listeners have to be, see [`Case::must_say`].
    pub(crate) fn says(self, what: &'static str, conditions: &'static str) -> Self {
        self.act(async move |case| case.must_say(what, conditions).await)
    }

    /// What requests and conditions alone do not tell.
    pub(crate) fn act<F: Future<Output = Result<()>> + 'static>(
        mut self,
        act: impl FnOnce(Rc<Case>) -> F + 'static,
    ) -> Self {
        self.steps.push(Step::Act(Box::new(|case| Box::pin(act(case)))));
        self
    }

    async fn run(self, stage: &Rc<Stage>) -> Result<()> {
        anyhow::ensure!(!self.steps.is_empty(), "the test asks nothing");
        let case = Rc::new(if self.in_mesh {
            Case::begin_in_mesh(stage, &self.yaml)?
        } else {
            Case::begin(stage, &self.yaml).await?
        });
        for (number, step) in self.steps.into_iter().enumerate() {
            let outcome = match step {
                Step::Ask(gateway, port, asked) => {
                    let (request, want) = *asked;
                    let what = format!("{} {} at {gateway}:{port}", request.method, request.path);
                    case.ask((gateway, port), request, &want).await.context(what)
                }
                Step::Act(act) => act(Rc::clone(&case)).await,
            };
            outcome.with_context(|| format!("step {}", number + 1))?;
        }
        Ok(())
    }
}

/// Runs those whose names contain one of the words, all without any, and prints the table.
pub(crate) fn run(words: &[String]) -> ExitCode {
    let mut tests = tests();
    tests.retain(|test| words.is_empty() || words.iter().any(|word| test.name.contains(word.as_str())));
    match run_all(tests) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("test gateway-api ... FAILED\n{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn tests() -> Vec<Test> {
    let all = [
        gateways::tests(),
        http::tests(),
        backends::tests(),
        rules::tests(),
        sessions::tests(),
        grpc::tests(),
        tls::tests(),
        udp::tests(),
        mesh::tests(),
        listener_sets::tests(),
        backend_tls::tests(),
    ];
    let mut all: Vec<_> = all.into_iter().flatten().collect();
    all.sort_by_key(|test| test.name);
    all
}

fn run_all(tests: Vec<Test>) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        say(&format!("running {} tests", tests.len()));
        let needs_mesh = tests.iter().any(|test| test.in_mesh);
        let stage = Stage::start(needs_mesh).await.context("the cluster, its control plane, and the mesh")?;
        let mut outcomes = Vec::new();
        for test in tests {
            let (name, level, begun) = (test.name, test.level, Instant::now());
            let outcome = match tokio::time::timeout(ROW, test.run(&stage)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(anyhow!("not over after {ROW:?}")),
            };
            let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
            say(&format!("test gateway-api/{name} ... {verdict}"));
            outcomes.push((name, level, begun.elapsed(), outcome.err()));
        }
        say("");
        for (name, level, took, error) in &outcomes {
            let level = if *level == Level::Core { "core" } else { "extended" };
            let verdict = if error.is_none() { "pass" } else { "FAIL" };
            say(&format!("{name:<56} {level:<8} {verdict} {:>6} ms", took.as_millis()));
        }
        let failed: Vec<_> = outcomes.iter().filter(|(.., error)| error.is_some()).collect();
        for (name, .., error) in &failed {
            let error = error.as_ref().map(|it| format!("{it:#}")).unwrap_or_default();
            say(&format!("\n---- {name}\n{error}"));
        }
        let (passed, verdict) =
            (outcomes.len() - failed.len(), if failed.is_empty() { "ok" } else { "FAILED" });
        say(&format!(
            "\ntest result: {verdict}. {passed} passed; {} failed; 0 ignored; 0 measured",
            failed.len()
        ));
        Ok(failed.is_empty())
    })
}
