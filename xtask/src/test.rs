//! `cargo xtask test`: builds and runs the suites, and counts.
//!
//! Nothing is skipped silently: a suite that cannot run here, does not build, finds no test or does not end is a
//! failed suite with its reason. Suites that need root are built as the user and only run as root.

mod count;
mod even;
mod privilege;
mod security;
mod stream;

use std::{
    ffi::OsStr,
    io,
    process::{Command, ExitCode},
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use self::count::Tally;
use crate::{
    build::{self, Profile},
    setup::{self, Part},
    shell::{self, print, say},
    workspace::{self, Depth, Workspace},
};

/// Run the tests: all, or the suites named. The last line is the count: `N passed, N failed`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: cargo xtask test unit\n         cargo xtask test e2e -- plaintext_is_refused"
)]
pub(crate) struct Args {
    /// unit, control, kubernetes, gateway, conformance, fuzz, gateway-api, ebpf, cni, e2e, observability, browser, security; or a part of e2e: egress, dns,
    /// waypoint, limits, express, torture. From gateway-api to security they need root, through sudo where necessary.
    #[arg(value_name = "SUITE")]
    suites: Vec<Suite>,
    /// Seconds that each suite may run, instead of its own limit.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// A test that fails beside others has failed: it does not get a second run, alone.
    #[arg(long)]
    strict: bool,
    /// Passed on to the test programs: part of a test's name, --nocapture, ...
    #[arg(last = true)]
    filter: Vec<String>,
}

/// A set of tests with the same needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suite {
    /// Tests of functions, without privilege.
    Unit,
    /// What talks to Kubernetes, against an API server of our own; without privilege.
    Control,
    /// Installing into a cluster, against an API server of our own; without privilege.
    Kubernetes,
    /// What users of Istio rely on, against real gateways, one row each; without privilege.
    Conformance,
    /// Gateways and their clients, as processes on this machine; without privilege.
    Gateway,
    /// The conformance tests of the Gateway API by name, through files and through an API server. Those about clients in
    /// the mesh have a bed.
    GatewayApi,
    /// The kernel programs on this kernel.
    Ebpf,
    /// The CNI plugin in a chain with the reference plugins.
    Cni,
    /// The real binaries in the test bed.
    EndToEnd,
    /// What the mesh tells about itself, to a real Prometheus and to collectors of spans.
    Observability,
    /// The mesh page in a real browser, over a bed with traffic.
    Browser,
    /// What has hurt others, row by row: tests of its own, and what came of those of other suites that its table names. They
    /// are run for it where they have not run before it.
    Security,
    /// What reads bytes of strangers, fed with changed inputs for a few seconds each; `cargo xtask fuzz` takes longer.
    Fuzz,
    /// Of those, what leaves the mesh.
    Egress,
    /// Of those, names.
    Dns,
    /// Of those, waypoints.
    Waypoint,
    /// Of those and of what users of Istio rely on, limits of requests and connections.
    Limits,
    /// Of those, connections that the kernel makes.
    Express,
    /// Of those, what TCP promises, over every path.
    Torture,
}

/// One call of `cargo test`.
struct Run {
    selection: Vec<String>,
    /// Documentation tests cannot be built ahead.
    can_build: bool,
}

/// How a suite ended.
struct Report {
    suite: Suite,
    tally: Tally,
    took: Duration,
}

impl Suite {
    /// Those that have every test.
    const ALL: [Self; 13] = [
        Self::Unit,
        Self::Control,
        Self::Kubernetes,
        Self::Gateway,
        Self::Conformance,
        Self::Fuzz,
        Self::GatewayApi,
        Self::Ebpf,
        Self::Cni,
        Self::EndToEnd,
        Self::Observability,
        Self::Browser,
        // Names tests of the others, and what came of them.
        Self::Security,
    ];

    /// Those that are parts of others, for whoever wants just these.
    const PARTS: [Self; 6] =
        [Self::Egress, Self::Dns, Self::Waypoint, Self::Limits, Self::Express, Self::Torture];

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Control => "control",
            Self::Kubernetes => "kubernetes",
            Self::Conformance => "conformance",
            Self::Gateway => "gateway",
            Self::GatewayApi => "gateway-api",
            Self::Ebpf => "ebpf",
            Self::Cni => "cni",
            Self::EndToEnd => "e2e",
            Self::Observability => "observability",
            Self::Browser => "browser",
            Self::Security => "security",
            Self::Fuzz => "fuzz",
            Self::Egress => "egress",
            Self::Dns => "dns",
            Self::Waypoint => "waypoint",
            Self::Limits => "limits",
            Self::Express => "express",
            Self::Torture => "torture",
        }
    }

    /// What the names of its tests begin with, of a program that has others as well.
    fn beginnings(self) -> &'static [&'static str] {
        match self {
            Self::Egress => &["routing::entries::", "routing::outside::", "routing::samples::"],
            Self::Dns => &["dns::"],
            Self::Waypoint => &["waypoint::"],
            Self::Limits => &["limits::", "limits/"],
            Self::Express => &["express::", "torture::express::"],
            Self::Torture => &["torture::"],
            _ => &[],
        }
    }

    fn needs_root(self) -> bool {
        matches!(
            self,
            Self::GatewayApi
                | Self::Ebpf
                | Self::Cni
                | Self::EndToEnd
                | Self::Observability
                | Self::Browser
                | Self::Egress
                | Self::Dns
                | Self::Waypoint
                | Self::Limits
                | Self::Express
                | Self::Torture
        )
    }

    /// Whether its tests run beside each other.
    fn runs_beside(self) -> bool {
        !matches!(self, Self::GatewayApi | Self::Fuzz | Self::Browser)
    }

    /// How long the tests may run once they are built. Generous: it is there to end what hangs.
    fn limit(self) -> Duration {
        match self {
            Self::EndToEnd => Duration::from_secs(25 * 60),
            _ => Duration::from_secs(10 * 60),
        }
    }

    fn parts(self) -> &'static [Part] {
        match self {
            Self::Browser => &[Part::Ebpf, Part::Tools, Part::Browser],
            Self::Kubernetes => &[Part::Ebpf, Part::Tools, Part::Manifests],
            _ if self.needs_root() => &[Part::Ebpf, Part::Tools],
            _ => &[Part::Ebpf],
        }
    }

    /// The calls of cargo that make up the suite. All select from the same packages, so that cargo compiles their
    /// dependencies with one set of features, once.
    fn runs(self, workspace: &Workspace) -> Result<Vec<Run>> {
        let targets: &[&str] = match self {
            Self::Unit => return Ok(unit_runs(workspace)),
            Self::Control => &["control"],
            Self::Kubernetes => &["kubernetes"],
            // One program, which is told which of the two it is to be.
            Self::Conformance | Self::GatewayApi => &["conformance"],
            Self::Gateway => &["gateway"],
            Self::Ebpf => &["ebpf"],
            Self::Cni => &["cni"],
            Self::Observability => &["observability"],
            Self::Security => &["security"],
            Self::Fuzz => &["fuzz"],
            Self::Browser => &["browser"],
            Self::EndToEnd | Self::Egress | Self::Dns | Self::Waypoint | Self::Express | Self::Torture => {
                &["e2e"]
            }
            Self::Limits => &["conformance", "e2e"],
        };
        let run = |target: &&str| {
            if workspace.with_target("test", target).is_empty() {
                bail!("no package of this tree has the test target `{target}`");
            }
            let everything = EVERYTHING.map(str::to_owned).into_iter();
            let selection = everything.chain([format!("--test={target}")]).collect();
            Ok(Run { selection, can_build: true })
        };
        targets.iter().map(run).collect()
    }
}

impl FromStr for Suite {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if PLANNED.contains(&name) {
            return Err(format!("the suite `{name}` is planned, but this tree does not have it yet"));
        }
        let all = || Self::ALL.into_iter().chain(Self::PARTS);
        let names = || all().map(Self::name).collect::<Vec<_>>().join(", ");
        let suite = all().find(|suite| suite.name() == name);
        suite.ok_or_else(|| format!("there is no such suite: {}", names()))
    }
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let suites = if args.suites.is_empty() { Suite::ALL.to_vec() } else { args.suites.clone() };
    let workspace = Workspace::load(Depth::Ours)?;
    let mut reports = Vec::new();
    let _even = if suites.iter().any(|suite| suite.needs_root()) { even::Even::begin() } else { None };
    for suite in suites {
        let started = Instant::now();
        let mut tally = Tally::default();
        let ran = match suite {
            Suite::Security => security::run(&workspace, args, &reports, &mut tally),
            _ => run_suite(suite, &workspace, args, &mut tally),
        };
        if let Err(error) = ran {
            tally.fail(format!("suite {}: {error:#}", suite.name()));
            say(format_args!("suite {} failed: {error:#}", suite.name()));
        }
        reports.push(Report { suite, tally, took: started.elapsed() });
    }
    Ok(conclude(&reports))
}

fn run_suite(suite: Suite, workspace: &Workspace, args: &Args, tally: &mut Tally) -> Result<()> {
    say(format_args!("suite {}", suite.name()));
    let runs = suite.runs(workspace)?;
    setup::ensure(suite.parts())?;
    if suite.needs_root() {
        privilege::require()?;
    }
    if suite != Suite::Unit {
        shell::must(&mut build::command(Profile::Debug)).context("the binaries under test do not build")?;
    }
    for run in runs.iter().filter(|run| run.can_build) {
        let mut build = test_command(run);
        shell::must(build.arg("--no-run")).context("its tests do not build")?;
    }
    run_runs(suite, &runs, args, &[], tally)
}

/// Runs what is built, under these variables.
fn run_runs(
    suite: Suite,
    runs: &[Run],
    args: &Args,
    variables: &[(&str, &OsStr)],
    tally: &mut Tally,
) -> Result<()> {
    let deadline = Instant::now() + args.timeout.map_or(suite.limit(), Duration::from_secs);
    for run in runs {
        let mut command = test_command(run);
        command.envs(variables.iter().copied());
        add_arguments(&mut command, suite, &args.filter)?;
        let mut first = Tally::default();
        let ended = stream::run(&mut command, io::stdout(), (deadline, suite.needs_root()), &mut first);
        if ended.is_ok() && !args.strict && suite.runs_beside() && first.may_be_unsteady() {
            again_alone(run, suite, deadline, &mut first)?;
        }
        tally.add(&first);
        ended?;
    }
    if tally.passed + tally.failed == 0 && args.filter.is_empty() {
        bail!("it has not run a single test");
    }
    Ok(())
}

/// Runs the few tests that failed once more, one at a time. Many of them measure time, and how many run beside each other
/// is our choice, not the product's: who fails only then is told, and is no failure.
fn again_alone(run: &Run, suite: Suite, deadline: Instant, tally: &mut Tally) -> Result<()> {
    let names = tally.failures.clone();
    say(format_args!("once more, alone: {}", names.join(", ")));
    let mut command = test_command(run);
    let alone = ["--exact".to_owned(), "--test-threads=1".to_owned()];
    add_arguments(&mut command, suite, &alone.into_iter().chain(names).collect::<Vec<_>>())?;
    let mut second = Tally::default();
    let ended = stream::run(&mut command, io::stdout(), (deadline, suite.needs_root()), &mut second);
    tally.amend(&second);
    ended
}

fn unit_runs(workspace: &Workspace) -> Vec<Run> {
    let everything = EVERYTHING.map(str::to_owned);
    let own_suites = Suite::ALL.map(Suite::name);
    let integration = workspace
        .ours()
        .flat_map(|package| package.targets_of("test"))
        .filter(|name| !own_suites.contains(name) && !PLANNED.contains(name))
        .map(|name| format!("--test={name}"));
    let code = ["--lib", "--bins"].map(str::to_owned).into_iter().chain(integration);
    let documentation = ["--doc".to_owned()];
    vec![
        Run { selection: everything.iter().cloned().chain(code).collect(), can_build: true },
        Run { selection: everything.iter().cloned().chain(documentation).collect(), can_build: false },
    ]
}

fn test_command(run: &Run) -> Command {
    let mut cargo = shell::cargo();
    cargo.current_dir(workspace::root()).args(["test", "--no-fail-fast"]).args(&run.selection);
    cargo
}

fn add_arguments(command: &mut Command, suite: Suite, filter: &[String]) -> Result<()> {
    let mut ours = Vec::new();
    if suite.needs_root() {
        let prefix = shell::root_prefix()?;
        if !prefix.is_empty() {
            let words = serde_json::to_string(&prefix).context("words are strings")?;
            command.args(["--config", &format!("target.'cfg(all())'.runner={words}")]);
        }
        // Every test has a bed of its own and mostly waits; more at once would only make each other's deadlines tight.
        let has_threads = filter.iter().any(|argument| argument.starts_with("--test-threads"));
        if !matches!(suite, Suite::GatewayApi | Suite::Browser) && !has_threads {
            ours.push("--test-threads=3");
        }
    }
    if suite == Suite::GatewayApi {
        ours.push(suite.name());
    }
    // Of several filters a test needs to meet one: the user's are narrower than the suite's.
    let of_suite = if filter.is_empty() { suite.beginnings() } else { &[] };
    command.arg("--").args(ours).args(of_suite).args(filter);
    Ok(())
}

fn conclude(reports: &[Report]) -> ExitCode {
    let mut total = Tally::default();
    print("");
    for Report { suite, tally, took } in reports {
        let Tally { passed, failed, ignored, .. } = tally;
        let (name, seconds) = (suite.name(), took.as_secs());
        print(format_args!(
            "{name:<13} {passed:>5} passed {failed:>4} failed {ignored:>4} ignored {seconds:>5} s"
        ));
        total.add(tally);
    }
    for name in &total.unsteady {
        print(format_args!("unsteady: {name}: failed beside others, passed alone"));
    }
    for failure in &total.failures {
        print(format_args!("failed: {failure}"));
    }
    print(format_args!("{} passed, {} failed", total.passed, total.failed));
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The kernel programs build for another target; the node's build script builds them.
const EVERYTHING: [&str; 2] = ["--workspace", "--exclude=mesh-ebpf"];

/// Names that the project has promised, but not filled yet.
const PLANNED: [&str; 2] = ["interop", "chaos"];

#[cfg(test)]
mod tests;
