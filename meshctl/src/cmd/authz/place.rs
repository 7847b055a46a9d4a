//! Where a question is asked: at the node of a pod, at a waypoint, or at a gateway.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use mesh_core::model::{Snapshot, Workload};
use mesh_core::own::Sightings;
use mesh_core::policy::{Decision, Gate, Notes, Permit, Question, Targeted};
use mesh_core::resource::Object;

use super::check::Args;
use super::show::Answer;

/// Who is asked.
pub(super) enum Place {
    /// The node of a pod.
    Pod(Arc<Workload>),
    /// A waypoint or a gateway, about what comes to an address there.
    Gate(Box<Gate>, IpAddr),
}

impl Place {
    pub(super) fn of(args: &Args, snapshot: &Snapshot, objects: &[Object]) -> Result<Self> {
        let (namespace, name) = named(&args.pod)?;
        if let Some(waypoint) = &args.waypoint {
            let service = snapshot.services().find(|service| {
                let own = service.entry.as_ref().map_or(&service.name, |entry| &entry.name);
                *service.namespace == *namespace && **own == *name
            });
            let service =
                service.with_context(|| format!("there is no Service or ServiceEntry {}", args.pod))?;
            let gate = Targeted::of(snapshot, named(waypoint)?).gate(Some(service));
            return Ok(Self::Gate(gate.into(), service.vips.first().copied().unwrap_or(NOWHERE)));
        }
        if args.gateway {
            let mut sightings = Sightings::of(namespace, name, []);
            objects.iter().for_each(|object| sightings.apply(object));
            let gate = Targeted::of_gateway(snapshot, &sightings.own()).gate(None);
            return Ok(Self::Gate(gate.into(), NOWHERE));
        }
        let mut workloads = snapshot.workloads();
        let workload = workloads.find(|it| *it.namespace == *namespace && *it.name == *name);
        let workload = workload.with_context(|| format!("there is no pod or Deployment {}", args.pod))?;
        Ok(Self::Pod(Arc::clone(workload)))
    }

    /// What is called there.
    pub(super) fn address(&self) -> Result<IpAddr> {
        match self {
            Self::Pod(workload) => workload.ips.first().copied().context("the pod has no address"),
            Self::Gate(_, address) => Ok(*address),
        }
    }

    pub(super) fn ask(&self, snapshot: &Snapshot, question: &Question<'_>) -> Result<Answer> {
        Ok(match self {
            Self::Pod(workload) => {
                let policies = snapshot.policies();
                let explained =
                    policies.explain(workload, question).context("nothing is known of the pod's policies")?;
                Answer::of(notes(policies.decide(workload, question)), explained)
            }
            Self::Gate(gate, _) => Answer::of(gate.decide(question), gate.explain(question)),
        })
    }
}

fn named(text: &str) -> Result<(&str, &str)> {
    text.split_once('/').with_context(|| format!("write {text:?} as NAMESPACE/NAME"))
}

fn notes(decision: Decision<Permit>) -> Decision<Notes> {
    match decision {
        Decision::Allowed(permit) => Decision::Allowed(permit.notes().clone()),
        Decision::Denied(denied) => Decision::Denied(denied),
        Decision::NeedsRequest => Decision::NeedsRequest,
        Decision::NeedsExternal(external) => Decision::NeedsExternal(external),
    }
}

/// The address of what has none; nobody's (RFC 5737).
const NOWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 201));
