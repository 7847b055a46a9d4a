//! Connections of pods that go through a waypoint: over a tunnel to one of its pods, which is told where the client wanted
//! to go. Rules are the waypoint's business then, and none is acted on here.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use mesh_core::{
    balance,
    model::{Endpoint, EndpointId, NoWay, Snapshot, WAYPOINT_PORT, Waypoint, Workload},
};

use super::{dial, forwarded};
use crate::{
    redirect::LocalPod,
    report::Event,
    run::worker::Worker,
    tunnel::{self, ConnectRequest, OpenError, TunnelKey},
};

/// A pod of this node that goes through a waypoint.
pub(super) struct Passenger<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) pod: &'a Arc<LocalPod>,
    pub(super) source: &'a Arc<Workload>,
    /// The address of its connection.
    pub(super) client: SocketAddr,
}

/// Why it did not come through.
pub(super) enum Missed {
    NoWay(NoWay),
    /// The pod has no certificate.
    Identity(String),
    /// The last that was tried.
    Tunnel(OpenError),
}

impl Passenger<'_> {
    /// Goes through to `wanted`: tries pods of the waypoint until one answers, each at most once. `tried` is told of each.
    pub(super) async fn ride(
        &self,
        snapshot: &Snapshot,
        waypoint: &Waypoint,
        wanted: Result<SocketAddr, NoWay>,
        tried: impl Fn(&Endpoint),
    ) -> Result<tunnel::Stream, Missed> {
        let wanted = wanted.map_err(|none| self.missed(none))?;
        let endpoints = snapshot.way_through(waypoint, self.client.is_ipv4(), self.worker.random());
        let endpoints = endpoints.map_err(|none| self.missed(none))?;
        let svid = self.worker.svid(&self.source.identity).await.map_err(Missed::Identity)?;
        let mut known: Vec<EndpointId> = Vec::new();
        let mut last = None;
        while known.len() < MAX_ATTEMPTS {
            let (load, seed) = (&*self.worker.load, self.worker.random());
            let endpoint = balance::choose(endpoints, load, seed, &known, None);
            let Some(endpoint) = endpoint.filter(|it| !known.contains(&it.id)) else { break };
            known.push(endpoint.id);
            // Who is there is known by its pod; an address alone proves nothing.
            let Some(workload) = &endpoint.workload else { continue };
            tried(endpoint);
            let address = SocketAddr::new(endpoint.addr.ip(), WAYPOINT_PORT);
            let key = TunnelKey {
                source_pod: self.pod.workload.clone(),
                source: self.source.identity.clone(),
                destination: workload.identity.clone(),
                address,
            };
            let forwarded = forwarded::value(self.client);
            let request = ConnectRequest { forwarded, ..ConnectRequest::new(wanted) };
            let dial = async || dial::tunnel(self.worker, self.pod, address).await;
            match self.worker.pool.open(&key, dial, svid.clone(), &request).await {
                Ok(stream) => return Ok(stream),
                Err(error) if error.retry() => last = Some(error),
                Err(error) => return Err(Missed::Tunnel(error)),
            }
        }
        match last {
            Some(error) => Err(Missed::Tunnel(error)),
            None => Err(self.missed(NoWay::Unready(Arc::clone(&waypoint.service)))),
        }
    }

    /// Refused connections are many as long as a waypoint is away, so they are counted, and logged now and then.
    fn missed(&self, none: NoWay) -> Missed {
        self.worker.reporter.count(Event::NoWaypoint);
        if let Some(muted) = self.worker.may_complain() {
            let pod = &self.pod.uid;
            tracing::warn!(%pod, reason = %none, muted, "Refused a connection that has to go through a waypoint.");
        }
        Missed::NoWay(none)
    }
}

/// Pods tried for one connection, the first included.
const MAX_ATTEMPTS: usize = 3;
