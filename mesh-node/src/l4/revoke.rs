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

/// Resolves when policy no longer allows the connection, or its destination is no workload any more, with the
/// reason stated in the report; never otherwise.
pub(super) async fn revoked(worker: &Worker, facts: &Facts, reports: &[&ConnReport]) {
    let mut snapshots = worker.snapshots();
    snapshots.mark_unchanged();
    loop {
        if snapshots.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let snapshot = snapshots.borrow_and_update().clone();
        let Some(workload) = snapshot.workload_by_uid(&facts.uid) else { continue };
        if let Err(denied) = snapshot.policies().authorize(workload, &facts.connection()) {
            cut(worker, &denied, reports);
            return;
        }
    }
}

fn cut(worker: &Worker, denied: &Denied, reports: &[&ConnReport]) {
    worker.reporter.count(crate::report::Event::DeniedLater);
    for report in reports {
        report.fail(Stage::Policy, format_args!("cut after a policy change: {denied}"));
    }
}
