//! Live connections under changing policy: what was permitted once is asked for again with every new snapshot.

use std::net::{IpAddr, SocketAddr};

use mesh_core::{
    id::SpiffeId,
    policy::{Connection, Denied},
};

use crate::{report::ConnReport, report::Stage, run::worker::Worker};

/// What authorisation was decided on; enough to decide again.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Uid of the destination workload.
    pub(super) uid: std::sync::Arc<str>,
    /// The proven identity of the source.
    pub(super) peer: Option<SpiffeId>,
    /// Address of the source.
    pub(super) source_ip: IpAddr,
    /// The application's address.
    pub(super) destination: SocketAddr,
}

impl Facts {
    /// The connection as the policy engine takes it.
    pub(super) fn connection(&self) -> Connection<'_> {
        Connection {
            peer: self.peer.as_ref(),
            source_ip: self.source_ip,
            destination: self.destination,
            encrypted: self.peer.is_some(),
        }
    }
}

/// Resolves when policy no longer allows the connection, with the reason stated in the reports. The first look is at
/// once: policy may have changed between the decision and now. A workload that has left the configuration is left to
/// the end of its pod.
pub(super) async fn revoked(worker: &Worker, facts: &Facts, reports: &[&ConnReport]) {
    let mut snapshots = worker.snapshots();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(workload) = snapshot.workload_by_uid(&facts.uid)
            && let Err(denied) = snapshot.policies().authorize(workload, &facts.connection())
        {
            return cut(worker, &denied, reports);
        }
        drop(snapshot);
        if snapshots.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn cut(worker: &Worker, denied: &Denied, reports: &[&ConnReport]) {
    worker.reporter.count(crate::report::Event::DeniedLater);
    for report in reports {
        report.fail(Stage::Policy, format_args!("cut after a policy change: {denied}"));
    }
}
