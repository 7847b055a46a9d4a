//! The node role: what starts, in which order, and how it stops.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context;
use mesh_core::model::Snapshot;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::timeout,
};
use tracing::{info, warn};
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    admin::{self, AdminState as _, LogControl},
    admit::Descriptors,
    cni,
    config::{ExpressPath, MachineOptions, NodeOptions},
    control::{Captured, Captures, Trouble},
    dns,
    identity::{CertificateStatus, IdentityStore},
    l7::shared::Shared,
    redirect::{
        self, KernelLog, Machine, Manager, cgroup,
        maps::{ControlMaps, ExpressMaps, FlowMaps},
        pins::Pins,
    },
    report::{Mail, ReportOptions, Reporter},
    run::{
        access_log,
        drain::{self, Drain},
        figures::Figures,
        handover::{Door, Predecessor},
        lookup::Lookup,
        notify,
        publish::{self, Publisher},
        ready,
        source::{Place, RUN, Source},
        state::{Findings, NodeState},
        tasks,
        turn::{Turn, until_stopped},
        watchdog::Watchdog,
        worker,
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
    let mut redirect = redirect_options(&options)?;
    let meeting = meeting_point(&options);
    // It may wait for long.
    let place = Place::of_node(&options).await?;
    // Before anything that only one may have is opened.
    let rehearse = || {
        place.check()?;
        redirect::Programs::rehearse().context("rehearsing with the kernel")
    };
    let predecessor = Predecessor::relieve(&meeting, &redirect.pins.root(), rehearse).await?;
    redirect.beside = predecessor.is_some();
    let door = Door::open(&meeting, redirect.pins.root())?;
    let reporter = Reporter::new(ReportOptions::logging(options.access_log), Box::new(io::stdout()))?;
    let (source, identities) = Source::open(&place).await?;
    let snapshots = watch::Sender::new(Arc::<Snapshot>::default());
    let told = watch::Sender::new(Findings::default());
    let (switch, drained) = drain::channel();
    let (relief, on_duty) = drain::channel();

    let (seeds, threads, mail) = prepare_threads(&options, &redirect, &snapshots);
    let manager = Manager::start(redirect.clone(), seeds, &reporter)?;
    let (demand, demands) = mpsc::channel(DEMANDS);
    let (lookup, lookups) = Lookup::new();
    let watchdog = Watchdog::start(&reporter).context("starting the watchdog")?;
    let shared = Arc::new(Shared::new(lookup));
    let workers = start_threads(
        threads,
        (&redirect.pins, &watchdog),
        (&identities, &demand, &shared),
        (&reporter, &drained, Descriptors::under(files)),
    )?;
    let certificates = (identities.clone(), Box::new(publish::local_identities) as publish::Wanted);
    let publisher = Publisher::new((snapshots.clone(), told.clone()), certificates, &reporter);
    source.tell(&place, &reporter, captures(manager.status(), identities.clone()), &on_duty);
    let known = (log, snapshots.subscribe(), told.subscribe(), manager.status());
    let state = state(&options, &redirect, known, (identities.clone(), watchdog))?;
    announce(&state, &reporter, &on_duty).await?;

    let reported = (reporter.clone(), snapshots.subscribe(), (shared, mail));
    follow_flows(&manager, &redirect, reported, &on_duty)?;
    start_cni(&options, &redirect, snapshots.subscribe(), &on_duty)?;
    tasks::spawn_local("sweep", reporter.clone().run_sweeps());
    tasks::spawn_local("rotation", on_duty.clone().during(identities.run_rotation()));
    access_log::start(&reporter, snapshots.subscribe(), options.access_log);
    tasks::spawn_local("predecessor", dismiss(predecessor, manager.status()));
    let looked = manager.status();
    capture(manager, snapshots.subscribe(), &on_duty);
    source.follow(&place, publisher, (demands, lookups), (None, on_duty));
    tasks::settle();
    let mut stops = Stops::listen()?;
    let turn =
        Turn { meeting, door, looked, reclaim: Box::new(move || state.reclaim(redirect.agent_cgroup)) };
    let end = turn.serve_until(relief, &mut stops).await;
    let outcome = until_stopped(end, (switch, drained), (options.drain, &mut stops)).await;
    // What it says is what data threads decide by, until they have ended.
    drop(snapshots);
    drop(workers);
    reporter.flush_access_log(LAST_LINES);
    info!("Stopped.");
    outcome
}

/// What there is to be seen of this process.
fn state(
    options: &NodeOptions,
    redirect: &redirect::Options,
    (log, snapshots, findings, pods): Known,
    (identities, watchdog): (Arc<IdentityStore>, Arc<Watchdog>),
) -> anyhow::Result<Arc<NodeState>> {
    Ok(Arc::new(NodeState {
        node: options.node.clone(),
        instance: ready::instance(),
        is_machine: options.machine.host,
        settings: settings(options),
        log,
        snapshots,
        findings,
        pods,
        identities,
        watchdog,
        maps: Mutex::new(ControlMaps::open(&redirect.pins)?),
        pins: redirect.pins.clone(),
    }))
}

/// What changes of it.
type Known = (LogControl, watch::Receiver<Arc<Snapshot>>, watch::Receiver<Findings>, watch::Receiver<Pods>);

/// How every pod is, once somebody has looked.
type Pods = Option<Arc<Vec<admin::PodStatus>>>;

/// Opens the ports for people and tools, and tells systemd when this process is ready.
async fn announce(state: &Arc<NodeState>, reporter: &Arc<Reporter>, on_duty: &Drain) -> anyhow::Result<()> {
    reporter.register(Arc::new(Figures(state.clone())));
    let asked = state.clone();
    tasks::spawn_local("notify", notify::when(move || asked.ready().is_ok()));
    let admin = admin::serve(state.clone(), reporter.clone()).await.context("opening the admin ports")?;
    tasks::spawn_local("admin", on_duty.clone().during(admin));
    Ok(())
}

/// How far the capture of pods is, and what is wrong with them.
fn captures(pods: watch::Receiver<Pods>, identities: Arc<IdentityStore>) -> Captures {
    Box::new(move || {
        let pods = pods.borrow().clone();
        let all = || pods.as_deref().into_iter().flatten();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let captured = all().filter(|pod| pod.state == admin::PodState::Captured).count();
        let failed: Vec<_> =
            identities.statuses().into_iter().filter(|status| status.last_error.is_some()).collect();
        Captured {
            captured: count(captured),
            pending: count(all().filter(|pod| pod.state.reason().is_some()).count()),
            troubles: all().filter_map(|pod| trouble(pod, &failed)).collect(),
        }
    })
}

/// What is wrong with a pod, if anything is; `failed` are certificates that could not be had or renewed.
fn trouble(pod: &admin::PodStatus, failed: &[CertificateStatus]) -> Option<Trouble> {
    let capture = pod.state.reason().map(|reason| format!("{}: {reason}", pod.state.name()));
    let certificate = failed.iter().find(|status| status.id == pod.identity);
    let certificate = certificate.and_then(|status| status.last_error.clone());
    let is_well = capture.is_none() && certificate.is_none();
    let (namespace, name) = (Arc::clone(&pod.namespace), Arc::clone(&pod.name));
    (!is_well).then_some(Trouble { namespace, name, capture, certificate })
}

/// Where processes of one node meet that replace each other.
fn meeting_point(options: &NodeOptions) -> PathBuf {
    let directory = options.svid_cache.clone().unwrap_or_else(|| Path::new(RUN).join(&options.node));
    directory.join(MEETING)
}

/// Lets the process before this one, if there is one, go when every pod that it may have served has its listeners here. What cannot be captured
/// for long was not served before either.
async fn dismiss(predecessor: Option<Predecessor>, mut pods: watch::Receiver<Pods>) {
    let Some(predecessor) = predecessor else { return };
    // Gone only with the whole process.
    let _ = pods.wait_for(Option::is_some).await;
    let all_captured = pods
        .wait_for(|pods| pods.iter().flat_map(|pods| pods.iter()).all(|pod| pod.state.reason().is_none()));
    let _ = timeout(ALL_CAPTURED, all_captured).await;
    predecessor.dismiss().await;
}

/// Keeps the kernel's part in step, and hears what it has to say.
fn capture(mut manager: Manager, snapshots: watch::Receiver<Arc<Snapshot>>, on_duty: &Drain) {
    match KernelLog::of(manager.programs().ebpf()) {
        Ok(log) => drop(tasks::spawn_local("kernel log", on_duty.clone().during(log.pump()))),
        Err(error) => warn!(%error, "Messages of the kernel programs cannot be read."),
    }
    tasks::spawn_local("capture", on_duty.clone().during(manager.run(snapshots)));
}

fn follow_flows(
    manager: &Manager,
    options: &redirect::Options,
    reported: redirect::Reported,
    on_duty: &Drain,
) -> anyhow::Result<()> {
    if options.express {
        let flows = redirect::Flows::new(ExpressMaps::open(&options.pins)?, reported, manager.ended_flows());
        let flows = flows.run(ExpressMaps::events(&options.pins)?);
        tasks::spawn_local("express flows", on_duty.clone().during(flows));
    }
    Ok(())
}

fn redirect_options(options: &NodeOptions) -> anyhow::Result<redirect::Options> {
    let mount = cgroup::cgroup2_mount()?;
    let (own, agent_cgroup) =
        cgroup::enter_own(&mount, &options.node).context("making a cgroup for this process")?;
    let MachineOptions { host, units, cgroups, .. } = &options.machine;
    let machine = host.then(|| Machine::new((mount.clone(), own), units.clone(), cgroups.clone()));
    let machine = machine.transpose().context("--enrol-unit, --enrol-cgroup")?;
    for missing in machine.iter().flat_map(Machine::missing) {
        warn!(missing, "Nothing runs in what is to be enrolled; it will be captured when it does.");
    }
    Ok(redirect::Options {
        // Packets of processes beside each other on a machine take no way that could be made shorter.
        express: options.express_path == ExpressPath::Enabled && machine.is_none(),
        machine,
        pins: Pins::new(&options.pin_root, &options.node),
        scope: options.cgroup.clone().unwrap_or(mount),
        inbound: options.inbound,
        hook: options.tc,
        agent_cgroup,
        beside: false,
        sandboxes: cni::Places::of(&options.cni, &options.node)
            .map(|places| cni::sandboxes(&places))
            .transpose()
            .context("reading what the CNI plugin has told")?,
    })
}

/// Answers the CNI plugin and keeps it installed, where that is wanted.
fn start_cni(
    options: &NodeOptions,
    redirect: &redirect::Options,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    on_duty: &Drain,
) -> anyhow::Result<()> {
    let places = cni::Places::of(&options.cni, &options.node);
    let Some((places, sandboxes)) = places.zip(redirect.sandboxes.clone()) else { return Ok(()) };
    let listener = cni::serve::listen(&places.socket)
        .with_context(|| format!("listening to the CNI plugin at {}", places.socket.display()))?;
    tasks::spawn_local("cni", on_duty.clone().during(cni::Desk { sandboxes, snapshots }.run(listener)));
    // After the socket: a plugin that is started finds somebody.
    if let Some(installer) = cni::installer(&options.cni, &places).context("--cni-conf-dir")? {
        tasks::spawn_local("cni installer", on_duty.clone().during(installer.run()));
    }
    Ok(())
}

/// A data thread that waits for its maps.
struct Waiting {
    pods: mpsc::Receiver<redirect::PodSockets>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    mail: Option<mpsc::Receiver<Mail>>,
}

/// What goes to the threads: pods to each, and what is to be told of what the kernel carries to one.
type Threads = (Vec<mpsc::Sender<redirect::PodSockets>>, Vec<Waiting>, mpsc::Sender<Mail>);

fn prepare_threads(
    options: &NodeOptions,
    redirect: &redirect::Options,
    snapshots: &watch::Sender<Arc<Snapshot>>,
) -> Threads {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = options.threads.unwrap_or(cores).max(1);
    info!(threads = count, pins = %redirect.pins.map("").display(), "Data threads.");
    let (mail, mailbox) = mpsc::channel(PENDING_MAIL);
    let mut mailbox = Some(mailbox);
    let start = |_| {
        let (sender, pods) = mpsc::channel(PENDING_PODS);
        (sender, Waiting { pods, snapshots: snapshots.subscribe(), mail: mailbox.take() })
    };
    let (senders, waiting) = (0..count).map(start).unzip();
    (senders, waiting, mail)
}

fn start_threads(
    threads: Vec<Waiting>,
    (pins, watchdog): (&Pins, &Arc<Watchdog>),
    (identities, demand, shared): (&Arc<IdentityStore>, &mpsc::Sender<IpAddr>, &Arc<Shared>),
    (reporter, drain, descriptors): (&Arc<Reporter>, &Drain, Descriptors),
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    reporter.follow_checked(shared);
    let names = Arc::<dns::Figures>::default();
    reporter.register(names.clone());
    let start = |(index, waiting): (usize, Waiting)| {
        let seed = worker::Seed {
            index,
            watchdog: watchdog.clone(),
            snapshots: waiting.snapshots,
            identities: identities.clone(),
            reporter: reporter.clone(),
            flows: FlowMaps::open(pins)?,
            pods: waiting.pods,
            mail: waiting.mail,
            demand: demand.clone(),
            drain: drain.clone(),
            descriptors,
            shared: shared.clone(),
            names: names.clone(),
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

/// The settings that the configuration dump shows.
fn settings(options: &NodeOptions) -> serde_json::Value {
    serde_json::json!({
        "config": options.config,
        "control": options.control,
        "state": options.state,
        "pinRoot": options.pin_root,
        "inbound": format!("{:?}", options.inbound),
        "tc": format!("{:?}", options.tc),
        "expressPath": format!("{:?}", options.express_path),
        "threads": options.threads,
        "svidLifetimeSeconds": options.svid_lifetime.as_secs(),
        "tunnelProtocol": format!("{:?}", options.tunnel_protocol),
        "drainSeconds": options.drain.as_secs(),
    })
}

/// Begins to log as `levels` say.
pub(crate) fn start_log(levels: &str) -> anyhow::Result<LogControl> {
    let (layer, control) = LogControl::layer(levels)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    tracing_subscriber::registry().with(layer).with(lines).try_init()?;
    Ok(control)
}

/// Wishes that the process stop. One that comes while nobody waits for it is not lost.
pub(crate) struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    /// Hears of every wish from now on.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves with the next.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The socket where processes of one node meet.
pub(super) const MEETING: &str = "agent.sock";
/// Addresses that wait to be asked for.
pub(crate) const DEMANDS: usize = 256;
/// Entries of access logs about what the kernel carries that wait for the data thread that delivers them.
const PENDING_MAIL: usize = 1_024;
/// Pods whose listeners wait for a data thread to take them over.
const PENDING_PODS: usize = 64;
/// How long a process before this one is kept for pods that cannot be captured at once.
const ALL_CAPTURED: Duration = Duration::from_secs(30);
/// How long the process waits at its end for its last access-log lines.
pub(crate) const LAST_LINES: Duration = Duration::from_secs(1);
