//! The gateway role: a process at the edge of the mesh that listens to what Gateways say. A waypoint is one as well, with
//! one door that nobody need describe: for tunnels.
//!
//! One control thread follows the configuration and decides which sockets there are; data threads accept, open TLS and
//! hand each connection to an [`Engine`]. Needs no privilege and nothing in the kernel.
//!
//! Invariants: a change of the configuration never ends a connection that it is not about; what a Gateway asks for and
//! cannot be had (a port, a certificate) is said and tried again, and costs no other listener anything.

mod accepted;
mod certificates;
mod compile;
mod datagrams;
mod edge;
mod figures;
mod identity;
mod listener;
mod policies;
mod proxy;
mod requests;
mod sockets;
mod state;
pub mod tls;
mod worker;

use std::{collections::BTreeMap, io, sync::Arc, thread::JoinHandle, time::Duration};

use anyhow::Context;
use mesh_core::model::Snapshot;
use tokio::sync::{mpsc, watch};
use tracing::info;

pub use self::accepted::{
    Accepted, Alpn, DatagramDoor, Engine, Facts, HttpConnection, LocalBoxFuture, OpaqueConnection, Serve,
    Thread, TunnelConnection,
};
pub(crate) use self::identity::identity_of;
pub use self::listener::{Listener, Served, Serving};
pub(crate) use self::requests::{EdgeClient, entropy};
use self::{
    edge::Edge,
    figures::{Counters, GatewayFigures},
    identity::Identity,
    sockets::{Socket, Sockets},
    state::GatewayState,
};
use crate::{
    admin::{Admin, LogControl, Ports, Servers},
    admit::Descriptors,
    config::GatewayOptions,
    control::Captured,
    report::{Component, ReportOptions, Reporter},
    run::{
        access_log,
        drain::{self, Drain, DrainSwitch},
        lookup::{Lookup, Lookups},
        node::{DEMANDS, LAST_LINES, Stops, start_log},
        publish::Publisher,
        state::Findings,
        tasks,
        watchdog::Watchdog,
    },
    sys::limits,
};

/// Where connections come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doors {
    /// Wherever Gateways say.
    Gateways,
    /// At the port of tunnels.
    Tunnels,
}

/// Serves until told to stop.
pub fn run(options: GatewayOptions) -> anyhow::Result<()> {
    anyhow::ensure!(
        options.control.is_none() || options.state.is_some(),
        "--control needs --state DIR, for what the control plane told last"
    );
    let (lookup, lookups) = Lookup::new();
    run_with(options, Doors::Gateways, (requests::engine(lookup), lookups))
}

/// As [`run`], with an engine of the caller's, and the names that it looks up.
pub fn run_with(
    options: GatewayOptions,
    doors: Doors,
    (engine, lookups): (Engine, Lookups),
) -> anyhow::Result<()> {
    let log = start_log(&options.log).context("--log")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(options, log, (doors, engine, lookups)))
}

async fn serve(
    options: GatewayOptions,
    log: LogControl,
    (doors, engine, lookups): (Doors, Engine, Lookups),
) -> anyhow::Result<()> {
    let files = limits::set_open_files(options.open_files).context("raising the limit of open files")?;
    info!(gateway = %options.name, ?doors, version = env!("CARGO_PKG_VERSION"), open_files = files, "Starting.");
    let report = ReportOptions { component: Component::Edge, ..ReportOptions::logging(options.access_log) };
    let reporter = Reporter::new(report, Box::new(io::stdout()))?;
    let ports = Ports { admin: options.admin_port, metrics: options.metrics_port, ready: options.ready_port };
    let servers = Servers::bind_at(ports, options.bind).await.context("opening the admin ports")?;
    let identity = Identity::new(&options);
    let place = Identity::place(&options);
    let (source, identities) = identity.open(&place).await?;
    let snapshots = watch::Sender::new(Arc::<Snapshot>::default());
    let told = watch::Sender::new(Findings::default());
    let (switch, drained) = drain::channel();

    let watchdog = Watchdog::start(&reporter).context("starting the watchdog")?;
    let thread = |index| Thread {
        index,
        watchdog: Arc::clone(&watchdog),
        snapshots: snapshots.subscribe(),
        own: identity.subscribe(),
        identities: Arc::clone(&identities),
        reporter: Arc::clone(&reporter),
        drain: drained.clone(),
        descriptors: Descriptors::under(files),
    };
    let counters = Arc::<Counters>::default();
    let (threads, workers) = start_threads(&options, (thread, &engine, &counters))?;
    let sockets = Sockets::new(threads, options.bind, Arc::clone(&counters));
    let edge = Edge::new(doors, &identity, (snapshots.subscribe(), sockets));
    let (stopping, stopped) = drain::channel();
    let state = Arc::new(GatewayState {
        name: options.name.to_string(),
        doors,
        settings: settings(&options),
        log,
        snapshots: snapshots.subscribe(),
        told: told.subscribe(),
        edge: edge.status(),
        own: identity.subscribe(),
        identities: Arc::clone(&identities),
        watchdog: Arc::clone(&watchdog),
        stopping: stopped.clone(),
    });
    reporter.register(Arc::new(GatewayFigures { state: Arc::clone(&state), counters }));
    tasks::spawn_local("admin", servers.run(Admin::new(state, Arc::clone(&reporter))));
    tasks::spawn_local("edge", edge.run(stopped));
    tasks::spawn_local("rotation", Arc::clone(&identities).run_rotation());
    tasks::spawn_local("sweep", Arc::clone(&reporter).run_sweeps());
    access_log::start(&reporter, snapshots.subscribe(), options.access_log);
    // Addresses are asked for by nobody yet: an engine sends to what services have.
    let (_demand, demands) = mpsc::channel(DEMANDS);
    let publisher = Publisher::new((snapshots, told), (identities, identity.wanted()), &reporter);
    // Another process of a gateway is a pod of its own: nothing is ever handed over.
    let on_duty = Drain::never();
    source.tell(&place, &reporter, Box::new(Captured::default), &on_duty);
    source.follow(&place, publisher, (demands, lookups), (identity.observer(), on_duty));

    drop(drained);
    stop(options.drain, (stopping, switch)).await?;
    drop(workers);
    reporter.flush_access_log(LAST_LINES);
    info!("Stopped.");
    Ok(())
}

/// Waits to be told to stop, and drains: the control thread's part first, so that listeners say so to their clients.
async fn stop(grace: Duration, (stopping, switch): (DrainSwitch, DrainSwitch)) -> anyhow::Result<()> {
    tasks::settle();
    let mut stops = Stops::listen()?;
    stops.next().await;
    info!(grace_s = grace.as_secs(), "Draining.");
    stopping.start();
    tasks::spawn_local("force", async move {
        tokio::time::sleep(grace).await;
        stopping.force();
        std::future::pending::<()>().await;
    });
    let drain = switch.run(grace);
    tokio::pin!(drain);
    tokio::select! {
        () = &mut drain => {}
        () = stops.next() => {}
    }
    Ok(())
}

type Threads = (Vec<mpsc::Sender<Socket>>, Vec<JoinHandle<()>>);

fn start_threads(
    options: &GatewayOptions,
    (thread, engine, counters): (impl Fn(usize) -> Thread, &Engine, &Arc<Counters>),
) -> anyhow::Result<Threads> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = options.threads.unwrap_or(cores).max(1);
    info!(threads = count, "Data threads.");
    let mut threads = (Vec::new(), Vec::new());
    for index in 0..count {
        let (sender, sockets) = mpsc::channel(PENDING_SOCKETS);
        let (thread, engine, counters) = (thread(index), Arc::clone(engine), Arc::clone(counters));
        let body = move || {
            if let Err(error) = worker::run(thread, &engine, (sockets, counters)) {
                // Without its threads the process is of no use; a new one starts clean.
                tracing::error!(%error, "A data thread cannot run.");
                std::process::exit(1);
            }
        };
        threads.0.push(sender);
        threads.1.push(std::thread::Builder::new().name(format!("data-{index}")).spawn(body)?);
    }
    Ok(threads)
}

/// The settings that the configuration dump shows.
fn settings(options: &GatewayOptions) -> serde_json::Value {
    serde_json::json!({
        "name": options.name.to_string(),
        "config": options.config,
        "control": options.control,
        "state": options.state,
        "bind": options.bind,
        "labels": options.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
        "threads": options.threads,
        "svidLifetimeSeconds": options.svid_lifetime.as_secs(),
        "tunnelProtocol": format!("{:?}", options.tunnel_protocol),
        "drainSeconds": options.drain.as_secs(),
    })
}

/// Sockets that wait for a data thread to take them over.
const PENDING_SOCKETS: usize = 64;
