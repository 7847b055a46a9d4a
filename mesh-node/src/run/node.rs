//! The node role: what starts, in which order, and how it stops.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use mesh_ca::{Ca, FileVault, Limits};
use mesh_core::{
    id::{SpiffeId, TrustDomain},
    model::{self, CompileOptions, Snapshot},
};
use mesh_source::{Directory, Loaded};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tracing::{error, info, warn};
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    admin::{self, LogControl},
    admit::Descriptors,
    config::NodeOptions,
    identity::{self, IdentityStore},
    redirect::{
        self, KernelLog, Manager, cgroup,
        maps::{ControlMaps, FlowMaps},
        pins::Pins,
    },
    report::{ReportOptions, Reporter},
    run::{
        drain::{self, Drain},
        figures::Figures,
        state::{Findings, NodeState},
        tasks, worker,
    },
    sys::limits,
};

/// Serves until told to stop.
pub fn run(options: NodeOptions) -> anyhow::Result<()> {
    let log = start_log(&options.log).context("--log")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(options, log))
}

async fn serve(options: NodeOptions, log: LogControl) -> anyhow::Result<()> {
    let files = limits::set_open_files(options.open_files).context("raising the limit of open files")?;
    info!(node = %options.node, version = env!("CARGO_PKG_VERSION"), open_files = files, "Starting.");
    let redirect = redirect_options(&options)?;
    let reporter = Reporter::new(
        ReportOptions { access_log: options.access_log, ..ReportOptions::default() },
        Box::new(io::stdout()),
    )?;
    let identities = identities(&options).await?;
    let (directory, loaded) = Directory::open(&options.config)
        .with_context(|| format!("opening the configuration {}", options.config.display()))?;
    let snapshots = watch::Sender::new(Arc::<Snapshot>::default());
    let told = watch::Sender::new(Findings::default());
    let (switch, drained) = drain::channel();

    let (seeds, threads) = prepare_threads(&options, &redirect, &snapshots);
    let mut manager = Manager::start(redirect.clone(), seeds)?;
    let workers = start_threads(
        threads,
        &redirect.pins,
        &identities,
        (&reporter, &drained, Descriptors::under(files)),
    )?;
    let state = Arc::new(NodeState {
        node: options.node.clone(),
        settings: settings(&options),
        log,
        snapshots: snapshots.subscribe(),
        findings: told.subscribe(),
        pods: manager.status(),
        identities: identities.clone(),
        maps: Mutex::new(ControlMaps::open(&redirect.pins)?),
    });
    reporter.register(Arc::new(Figures(state.clone())));
    admin::serve(state, reporter.clone()).await.context("opening the admin ports")?;

    match KernelLog::of(manager.programs().ebpf()) {
        Ok(log) => drop(tasks::spawn_local("kernel log", log.pump())),
        Err(error) => warn!(%error, "Messages of the kernel programs cannot be read."),
    }
    tasks::spawn_local("capture", manager.run(snapshots.subscribe()));
    tasks::spawn_local("source", async move { directory.run().await });
    tasks::spawn_local("rotation", identities.clone().run_rotation());
    tasks::spawn_local("sweep", reporter.clone().run_sweeps());
    tasks::spawn_local("compile", compile(options.clone(), loaded, snapshots, identities, told));

    stop_signal().await?;
    info!(grace_s = options.drain.as_secs(), "Draining; what is captured stays captured.");
    drop(drained);
    let drain = switch.run(options.drain);
    tokio::pin!(drain);
    tokio::select! {
        () = &mut drain => {}
        signal = stop_signal() => signal?,
    }
    drop(workers);
    reporter.flush_access_log(LAST_LINES);
    info!("Stopped.");
    Ok(())
}

fn redirect_options(options: &NodeOptions) -> anyhow::Result<redirect::Options> {
    let mount = cgroup::cgroup2_mount()?;
    let agent_cgroup =
        cgroup::enter_own(&mount, &options.node).context("making a cgroup for this process")?;
    Ok(redirect::Options {
        pins: Pins::new(&options.pin_root, &options.node),
        scope: options.cgroup.clone().unwrap_or(mount),
        inbound: options.inbound,
        hook: options.tc,
        agent_cgroup,
    })
}

async fn identities(options: &NodeOptions) -> anyhow::Result<Arc<IdentityStore>> {
    let domain = &options.trust_domain;
    let vault = Arc::new(FileVault::ca(&options.state));
    let limits = Limits::up_to(options.svid_lifetime);
    let ca = Ca::open(vault, domain, limits, SystemTime::now());
    let ca = ca.await.context("opening the certificate authority")?;
    let identity =
        identity::Options { lifetime: options.svid_lifetime, ..identity::Options::new(vec![domain.clone()]) };
    Ok(Arc::new(IdentityStore::new(Arc::new(ca), identity)))
}

/// A data thread that waits for its maps.
struct Waiting {
    pods: mpsc::Receiver<redirect::PodSockets>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

type Threads = (Vec<mpsc::Sender<redirect::PodSockets>>, Vec<Waiting>);

fn prepare_threads(
    options: &NodeOptions,
    redirect: &redirect::Options,
    snapshots: &watch::Sender<Arc<Snapshot>>,
) -> Threads {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = options.threads.unwrap_or(cores).max(1);
    info!(threads = count, pins = %redirect.pins.map("").display(), "Data threads.");
    (0..count)
        .map(|_| {
            let (sender, pods) = mpsc::channel(PENDING_PODS);
            (sender, Waiting { pods, snapshots: snapshots.subscribe() })
        })
        .unzip()
}

fn start_threads(
    threads: Vec<Waiting>,
    pins: &Pins,
    identities: &Arc<IdentityStore>,
    (reporter, drain, descriptors): (&Arc<Reporter>, &Drain, Descriptors),
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let start = |(index, waiting): (usize, Waiting)| {
        let seed = worker::Seed {
            index,
            snapshots: waiting.snapshots,
            identities: identities.clone(),
            reporter: reporter.clone(),
            flows: FlowMaps::open(pins)?,
            pods: waiting.pods,
            drain: drain.clone(),
            descriptors,
        };
        let body = move || {
            if let Err(error) = worker::run(seed) {
                // Without its threads the process is of no use; a new one starts clean.
                tracing::error!(%error, "A data thread cannot run.");
                std::process::exit(1);
            }
        };
        Ok(std::thread::Builder::new().name(format!("data-{index}")).spawn(body)?)
    };
    threads.into_iter().enumerate().map(start).collect()
}

/// Turns what was loaded into snapshots, for as long as something is loaded.
async fn compile(
    options: NodeOptions,
    mut loaded: watch::Receiver<Arc<Loaded>>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    identities: Arc<IdentityStore>,
    told: watch::Sender<Findings>,
) {
    let compile_options = CompileOptions {
        node: options.node,
        trust_domain: options.trust_domain,
        ..CompileOptions::default()
    };
    loop {
        let now = loaded.borrow_and_update().clone();
        let started = std::time::Instant::now();
        let (with, source) = (compile_options.clone(), now.clone());
        let compiled = tokio::task::spawn_blocking(move || model::compile(&source.objects, &with)).await;
        match compiled {
            Ok(compiled) => {
                let findings = now.findings.iter().chain(&compiled.findings).map(ToString::to_string);
                tell(&told, findings.collect());
                // A directory that is empty at the start is one that is not filled yet; nothing is let go of on its word.
                let unfilled = now.objects.is_empty() && !snapshots.borrow().is_loaded();
                if unfilled {
                    info!("The configuration directory is empty; waiting for it to be filled.");
                } else {
                    apply(compiled.snapshot, &snapshots, &identities).await;
                    let (generation, objects) = (now.generation, now.objects.len());
                    let took_ms = started.elapsed().as_millis();
                    info!(generation, objects, took_ms, "Configuration applied.");
                }
            }
            // The last good snapshot stays in force until the next change.
            Err(error) => error!(%error, "Compiling the configuration failed."),
        }
        if loaded.changed().await.is_err() {
            return;
        }
    }
}

async fn apply(snapshot: Snapshot, snapshots: &watch::Sender<Arc<Snapshot>>, identities: &IdentityStore) {
    let wanted = local_identities(&snapshot);
    identities.set_trust_domains(accepted_domains(&snapshot));
    // Pods are captured when their certificates are there, and certificates go when their pods have been let go of.
    identities.prepare(&wanted).await;
    snapshots.send_replace(Arc::new(snapshot));
    identities.want(&wanted);
}

/// Says what is new, and what is mended.
fn tell(told: &watch::Sender<Findings>, findings: BTreeSet<String>) {
    let findings = Arc::new(findings);
    let before = told.send_replace(findings.clone());
    for finding in findings.difference(&before) {
        warn!(target: "config", "{finding}");
    }
    for finding in before.difference(&findings) {
        info!(target: "config", "Mended: {finding}");
    }
}

fn accepted_domains(snapshot: &Snapshot) -> Vec<TrustDomain> {
    let own = std::iter::once(snapshot.trust_domain());
    own.chain(snapshot.trust_domain_aliases()).cloned().collect()
}

/// The settings that the configuration dump shows.
fn settings(options: &NodeOptions) -> serde_json::Value {
    serde_json::json!({
        "config": options.config,
        "state": options.state,
        "pinRoot": options.pin_root,
        "inbound": format!("{:?}", options.inbound),
        "tc": format!("{:?}", options.tc),
        "threads": options.threads,
        "svidLifetimeSeconds": options.svid_lifetime.as_secs(),
        "drainSeconds": options.drain.as_secs(),
    })
}

fn start_log(levels: &str) -> anyhow::Result<LogControl> {
    let (layer, control) = LogControl::layer(levels)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    tracing_subscriber::registry().with(layer).with(lines).try_init()?;
    Ok(control)
}

fn local_identities(snapshot: &Snapshot) -> BTreeSet<SpiffeId> {
    snapshot.local_pods().filter(|pod| pod.enrolled).map(|pod| pod.identity.clone()).collect()
}

async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Pods whose listeners wait for a data thread to take them over.
const PENDING_PODS: usize = 64;
/// How long the process waits at its end for its last access-log lines.
const LAST_LINES: Duration = Duration::from_secs(1);
