//! Where packets of established express flows go straight from one pod's interface into the other's. A program at the host's
//! end of each pod's interface sends them there; nothing else that stands in their way may be passed by, and so it is attached
//! only where nothing else stands.

use std::io;

use aya::programs::{SchedClassifier, TcAttachType};
use mesh_common::Shortcut;

use super::{LocalPod, Programs, RedirectError, maps::ControlMaps};
use crate::sys::links;

/// The two ends of a pod's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// Name of the host's.
    host: String,
    to: Shortcut,
}

/// Whether the shortcut is there for a pod, and if not, why.
pub(super) type Outcome = Result<(), String>;

/// Finds the ends of a pod's interface, the host's in the calling thread's namespace.
pub(super) fn ends(pod: &LocalPod) -> io::Result<Option<Ends>> {
    let own = pod.netns.run(links::interfaces)??;
    let here = links::interfaces()?;
    Ok(own.iter().find_map(|own| {
        let end = here.iter().find(|end| Some(end.index) == own.peer && end.peer == Some(own.index))?;
        let to = Shortcut { interface: end.index, hardware: own.hardware, reserved: [0; 2] };
        Some(Ends { host: end.name.clone(), to })
    }))
}

/// Attaches the shortcut where nothing stands in the way, and takes it off where something does by now. `queues` are those of
/// the host, see [`links::queues`].
pub(super) fn follow(
    (programs, maps): (&mut Programs, &mut ControlMaps),
    (pod, ends): (&LocalPod, Option<&Ends>),
    queues: &[(u32, String)],
    before: Option<&Outcome>,
) -> Outcome {
    let Some(ends) = ends else {
        return Err("the pod has no pair of interfaces with one end on the host".to_owned());
    };
    let outcome = match in_the_way(ends, queues) {
        Some(what) => Err(what),
        None if before == Some(&Ok(())) => Ok(()),
        None => put(programs, maps, pod, ends).map_err(|error| error.to_string()),
    };
    if outcome.is_err() && before.is_none_or(Result::is_ok) {
        // Also what a predecessor attached.
        if let Err(error) = remove(programs, maps, pod) {
            tracing::warn!(pod = %pod.uid, %error, "The shortcut of a pod cannot be taken off.");
        }
    }
    outcome
}

/// Programs and queues of others at the host's end: they are there to see every packet.
fn in_the_way(ends: &Ends, queues: &[(u32, String)]) -> Option<String> {
    let Ends { host, to } = ends;
    if let Some((_, kind)) = queues.iter().find(|(interface, _)| *interface == to.interface) {
        return Some(format!("{host} has a queueing discipline ({kind})"));
    }
    for (direction, kind) in [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)] {
        let others = match SchedClassifier::query_tcx(host, kind) {
            Ok((_, others)) => others,
            Err(error) => return Some(format!("programs at {host} cannot be listed: {error}")),
        };
        let name = |it: &aya::programs::ProgramInfo| it.name_as_str().unwrap_or("without a name").to_owned();
        if let Some(name) = others.iter().map(name).find(|name| name != PROGRAM) {
            return Some(format!("another program ({name}) is attached to {host}, {direction}"));
        }
    }
    None
}

fn put(
    programs: &mut Programs,
    maps: &mut ControlMaps,
    pod: &LocalPod,
    ends: &Ends,
) -> Result<(), RedirectError> {
    programs.attach_shortcut(&pod.pinned(), &ends.host)?;
    for ip in &pod.ips {
        maps.put_shortcut(*ip, ends.to)?;
    }
    Ok(())
}

/// Flows that have taken it go the long way again.
pub(super) fn remove(
    programs: &Programs,
    maps: &mut ControlMaps,
    pod: &LocalPod,
) -> Result<(), RedirectError> {
    for ip in &pod.ips {
        maps.remove_shortcut(*ip)?;
    }
    programs.detach_shortcut(&pod.pinned())?;
    Ok(())
}

/// The name that the kernel knows it by.
pub(super) const PROGRAM: &str = "mesh_shortcut";
