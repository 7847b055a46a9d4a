//! The demonstration: two nodes, Bookinfo and a client outside the mesh on one machine, and step by step what the mesh
//! does with them.
//!
//! Invariant: nothing is told that was not looked at. Every claim is a check that can fail, and one that fails ends
//! the demonstration.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use self::console::Console;
use self::tour::{Interrupt, Interrupted, Tour, time};
use crate::bed::{Bed, BedName, Inbound, Layout, Network};
use crate::sys;

mod access;
mod arrive;
mod beyond;
mod console;
mod crash;
mod curl;
mod encryption;
mod kernel;
mod page;
mod policy;
mod routing;
mod stay;
mod tour;
mod wire;

/// Show the main job on this machine: two nodes, Bookinfo, identities, encryption, policy and routing.
///
/// It tells step by step what it does, what it expects and what it has seen, and then stays up until Ctrl-C. Needs
/// root. The exit code is 0 if everything was as expected, 1 if not.
#[derive(Debug, Clone, Parser)]
#[command(name = "demo", version)]
#[command(after_help = "Example: demo --once --inbound tc")]
pub struct Options {
    /// End after the last step instead of staying up.
    #[arg(long)]
    pub once: bool,
    /// How many nodes: two at least, or there is no wire to look at.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=16))]
    pub nodes: u8,
    /// How pods are connected to their node: routed or bridged.
    #[arg(long, default_value = "routed")]
    pub network: Network,
    /// Run a control plane inside of every mesh-node in place of mesh-control.
    #[arg(long)]
    pub embedded: bool,
    /// How mesh-node takes inbound connections: `sk_lookup` or tc; its own default if not given.
    #[arg(long)]
    pub inbound: Option<Inbound>,
    /// The directory of the manifests [default: deploy/samples/bookinfo of the repository].
    #[arg(long, value_name = "DIR")]
    pub samples: Option<PathBuf>,
    /// The name of the bed, for `testbed … --name`.
    #[arg(long, default_value = "demo", value_parser = |name: &str| BedName::parse(name).map_err(|e| e.to_string()))]
    pub name: BedName,
}

/// Runs the demonstration to its end or until SIGINT, SIGTERM or SIGHUP. To be called before the first thread starts.
pub fn run(options: &Options) -> ExitCode {
    let mut console = Console::stdout();
    if let Err(error) = sys::hold_end_signals() {
        console.raw(&format!("Error: cannot block signals: {error}\n"));
        return ExitCode::FAILURE;
    }
    let interrupt = Interrupt::default();
    let (options, flag) = (options.clone(), interrupt.clone());
    let worker = thread::spawn(move || {
        let _wake = Wake;
        perform(&options, console, flag)
    });
    sys::wait_for_end();
    interrupt.raise();
    worker.thread().unpark();
    worker.join().unwrap_or(ExitCode::FAILURE)
}

/// Ends the wait for signals when the demonstration is over, even by a panic.
struct Wake;

impl Drop for Wake {
    fn drop(&mut self) {
        if let Ok(own) = libc::pid_t::try_from(std::process::id()) {
            // A process can signal itself.
            let _ = sys::signal(own, libc::SIGTERM);
        }
    }
}

fn perform(options: &Options, mut console: Console, interrupt: Interrupt) -> ExitCode {
    console.title("A service mesh without sidecars: eBPF in the kernel, one mesh-node process on each node");
    let mut tour = match begin(options, console, interrupt) {
        Ok(tour) => tour,
        Err(error) => {
            Console::stdout().raw(&format!("Error: {error:#}\n"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = steps(&mut tour).and_then(|()| {
        tour.console.title(&format!(
            "All {} steps were as expected ({})",
            STEPS.len(),
            time(tour.started.elapsed())
        ));
        if options.once { Ok(()) } else { stay(&mut tour) }
    });
    let code = match &outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            tour.console.title("Interrupted");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            tour.console.title(&format!("FAILED: {error:#}"));
            stay::logs(&mut tour);
            tour.bed.keep_logs();
            ExitCode::FAILURE
        }
    };
    if end(tour) { code } else { ExitCode::FAILURE }
}

/// Starts the bed.
fn begin(options: &Options, console: Console, interrupted: Interrupt) -> Result<Tour> {
    let started = Instant::now();
    let samples = options.samples.clone().map_or_else(find_samples, Ok)?;
    ensure!(samples.join("bookinfo.yaml").is_file(), "{} has no bookinfo.yaml", samples.display());
    Command::new("curl").arg("--version").output().context("curl is needed and not found")?;
    let mut builder = Bed::builder().name(options.name.clone()).nodes(options.nodes).network(options.network);
    if options.embedded {
        builder = builder.embedded();
    }
    if let Some(inbound) = options.inbound {
        builder = builder.inbound(inbound);
    }
    let bed = builder.manifests(samples.as_path()).begin()?;
    let embedded = options.embedded;
    Ok(Tour { started, bed, embedded, console, samples, page: None, interrupted })
}

fn steps(tour: &mut Tour) -> Result<()> {
    for (number, (headline, step)) in (1..).zip(STEPS) {
        tour.interrupted.check()?;
        tour.console.headline(number, headline);
        // What fails while the user is ending it all has most likely been ended, too.
        let done = step(tour);
        tour.interrupted.check()?;
        done.with_context(|| format!("step {number}, {headline:?}"))?;
    }
    Ok(())
}

fn stay(tour: &mut Tour) -> Result<()> {
    stay::invite(tour)?;
    // For as long as somebody may look at the mesh page.
    let _traffic = stay::keep_busy(tour)?;
    while !tour.interrupted.raised() {
        thread::park();
    }
    Ok(())
}

/// Ends the bed; answers whether nothing of it is left.
fn end(tour: Tour) -> bool {
    let Tour { bed, mut console, .. } = tour;
    let layout: Layout = bed.layout().clone();
    let started = Instant::now();
    drop(bed);
    let left = stay::leftovers(&layout);
    let took = time(started.elapsed());
    match left.as_slice() {
        [] => console.title(&format!("The bed is gone without a trace ({took})")),
        left => console.title(&format!("FAILED: the bed has left behind {}", left.join(", "))),
    }
    left.is_empty()
}

/// The samples of the repository that the user stands in, else of the one that this program was built from.
fn find_samples() -> Result<PathBuf> {
    let here = env::current_dir().context("cannot find the working directory")?;
    let around = here.ancestors().map(|directory| directory.join(SAMPLES)).find(|samples| samples.is_dir());
    let built_from = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(SAMPLES);
    Ok(around.unwrap_or_else(built_from))
}

/// What is done at one step.
type Step = fn(&mut Tour) -> Result<()>;

const STEPS: [(&str, Step); 12] = [
    ("Nodes and Bookinfo come up", arrive::come_up),
    ("What was captured", arrive::captured),
    ("The page works", page::works),
    ("Whose identities spoke", page::identities),
    ("The wire between the nodes shows only TLS", encryption::encrypted),
    ("An AuthorizationPolicy decides who may call whom", policy::authorization),
    ("PERMISSIVE admits the client outside, STRICT refuses it", policy::strict),
    ("Requests go where rules say: a canary, and a version for one user", routing::versions),
    ("Faults on purpose, and a circuit breaker", routing::faults),
    ("Beyond the mesh: a name, rules and a border", beyond::outside),
    ("A waypoint enforces the rules of a namespace", beyond::waypoint),
    ("mesh-node dies: its pods fail closed, and work again when it is back", crash::crash),
];

const SAMPLES: &str = "deploy/samples/bookinfo";

/// The exit code of a program that SIGINT has ended.
const INTERRUPTED: u8 = 130;
