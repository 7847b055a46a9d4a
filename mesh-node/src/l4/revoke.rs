//! Live connections under changing policy: what was permitted once is asked for again with every new snapshot.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use mesh_core::{
    id::SpiffeId,
    model::{Snapshot, Workload},
    policy::{Connection, Decision, Denied, Permit, Question, Seen},
};

use crate::report::{ConnReport, Refusal, Rfc3339, Stage};
use crate::run::worker::Worker;

/// What authorisation was decided on; enough to decide again.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Uid of the destination workload.
    pub(super) uid: Arc<str>,
    /// The proven identity of the source.
    pub(super) peer: Option<SpiffeId>,
    /// Address of the source.
    pub(super) source_ip: IpAddr,
    /// The application's address.
    pub(super) destination: SocketAddr,
    /// What it carries.
    pub(super) carries: Carries,
}

/// What a connection carries, as far as somebody has looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    /// Bytes that nobody has looked at, because policy did not ask for that.
    Unread,
    /// No requests, and TLS that asks for this name.
    Bytes(Option<Arc<str>>),
    /// Requests, each of which policy is asked about.
    Requests,
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

    /// What policy says of something that the connection carries.
    pub(super) fn ask(
        &self,
        (snapshot, workload): (&Snapshot, &Workload),
        (seen, approved): (Seen<'_>, &[Arc<str>]),
    ) -> Decision<Permit> {
        snapshot.policies().decide(workload, &Question { connection: &self.connection(), seen, approved })
    }

    /// Decides about the connection as such. What is not known of it gets the strict answer.
    pub(super) fn decide(&self, snapshot: &Snapshot, workload: &Workload) -> Result<Permit, Denied> {
        let seen = match &self.carries {
            Carries::Unread | Carries::Requests => Seen::Unread,
            Carries::Bytes(name) => Seen::Bytes { server_name: name.as_deref() },
        };
        self.ask((snapshot, workload), (seen, &[])).strict()
    }

    /// Why the connection may not go on, if it may not. One of requests may as long as any of them may.
    fn refused(&self, snapshot: &Snapshot, workload: &Workload) -> Option<Denied> {
        if self.carries != Carries::Requests {
            return self.decide(snapshot, workload).err();
        }
        match self.ask((snapshot, workload), (Seen::Nothing, &[])) {
            Decision::Denied(denied) => Some(denied),
            Decision::Allowed(_) | Decision::NeedsRequest | Decision::NeedsExternal(_) => None,
        }
    }

    /// The client as logs have it.
    pub(super) fn client_name(&self) -> String {
        self.peer.as_ref().map_or_else(|| self.source_ip.to_string(), ToString::to_string)
    }

    /// What is told of a refusal to whoever looks at this node.
    pub(super) fn refusal(&self, denied: &Denied) -> Refusal {
        Refusal {
            time: Rfc3339(SystemTime::now()).to_string(),
            source: self.peer.as_ref().map(ToString::to_string),
            source_address: self.source_ip.to_string(),
            destination: self.destination.to_string(),
            request: None,
            reason: denied.to_string(),
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
            && let Some(denied) = facts.refused(&snapshot, workload)
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
