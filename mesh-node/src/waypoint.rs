//! The waypoint role: the rules of services and workloads, enforced in a process of its own. Nodes send what is bound to a
//! waypoint there, over tunnels that prove who sends it; the waypoint decides, and sends on over tunnels as itself.
//!
//! Invariants: a tunnel leads to what is bound to this waypoint and to nothing else; who a request is from is known by
//! the certificate of its tunnel, and by nothing that the request says.

mod rules;
mod stream;
mod tunnel;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use crate::admit::{self, Cap, LogGate};
use crate::config::GatewayOptions;
use crate::gateway::{self, Accepted, Doors, EdgeClient, Serve, Thread};
use crate::l7::engine::Engine;
use crate::l7::shared::Shared;
use crate::report::Perspective;
use crate::run::lookup::Lookup;
use rules::Rules;

/// Serves until told to stop.
pub fn run(mut options: GatewayOptions) -> anyhow::Result<()> {
    // Without an identity nobody would speak to it.
    options.state.get_or_insert_with(|| PathBuf::from(STATE));
    let name = Arc::new((Arc::from(&*options.name.namespace), Arc::from(&*options.name.name)));
    let (lookup, lookups) = Lookup::new();
    gateway::run_with(options, Doors::Tunnels, (engine(name, lookup), lookups))
}

/// Namespace and name of a Gateway.
type Name = Arc<(Arc<str>, Arc<str>)>;

/// The engine of a process: its data threads share circuit breakers and outliers.
fn engine(name: Name, lookup: Lookup) -> gateway::Engine {
    let shared = Arc::new(Shared::new(lookup));
    Arc::new(move |thread| on_thread(thread, &name, &shared))
}

/// What a data thread works with.
struct Waypoint {
    thread: Thread,
    client: Rc<EdgeClient>,
    engine: Rc<Engine>,
    rules: Rules,
    handshakes: Cap,
    refusals: LogGate,
}

fn on_thread(thread: &Thread, name: &Name, shared: &Arc<Shared>) -> Serve {
    let client = Rc::new(EdgeClient::new(thread, Perspective::Waypoint));
    let (reporter, snapshots) = (Arc::clone(&thread.reporter), thread.snapshots.clone());
    reporter.follow_checked(shared);
    let seed = gateway::entropy(thread);
    let engine = Engine::new(Rc::<EdgeClient>::clone(&client), reporter, Arc::clone(shared), snapshots, seed);
    let waypoint = Rc::new(Waypoint {
        thread: thread.clone(),
        client,
        engine,
        rules: Rules::of(&name.0, &name.1),
        handshakes: Cap::new(admit::MAX_HANDSHAKES),
        refusals: LogGate::new(REFUSALS_LOGGED),
    });
    Rc::new(move |accepted| {
        let waypoint = Rc::clone(&waypoint);
        Box::pin(async move {
            // There are no other doors.
            if let Accepted::Tunnel(connection) = accepted {
                tunnel::serve(waypoint, connection).await;
            }
        })
    })
}

/// Where nodes on the same machine keep their certificate authority.
const STATE: &str = "/var/lib/mesh";
/// Lines a second about peers that were refused, on each thread.
const REFUSALS_LOGGED: u32 = 20;
