//! Express flows to a service that rules have come about since: nobody forbids them, but they go where the rules do not say.
//! They are ended in a quiet moment, so that what the application opens next follows the rules.
//!
//! As with connections that the proxy carries: no request fails for it unless it takes longer than all the time there is.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_common::{Endpoint, Flow};
use tracing::{debug, info, warn};

use super::{LocalPod, maps::socket_addr};
use crate::{
    l7::stream::DRAIN_TIME,
    sys::diag::{self, Silence},
};

/// Shared by who finds them and who ends them.
#[derive(Clone, Default)]
pub struct Overruled(Rc<RefCell<Waiting>>);

#[derive(Default)]
struct Waiting {
    known: HashMap<Flow, Since>,
    /// Whose turn is next.
    turns: VecDeque<Flow>,
}

struct Since {
    /// The client's.
    pod: Arc<LocalPod>,
    found: Instant,
}

impl Overruled {
    /// This one is to be ended.
    pub(super) fn add(&self, flow: Flow, pod: &Arc<LocalPod>) {
        let Waiting { known, turns } = &mut *self.0.borrow_mut();
        known.entry(flow).or_insert_with(|| {
            turns.push_back(flow);
            Since { pod: Arc::clone(pod), found: Instant::now() }
        });
    }

    /// This one may stay: the rules are gone again, or it was ended.
    pub(super) fn remove(&self, flow: &Flow) {
        let mut waiting = self.0.borrow_mut();
        if waiting.known.remove(flow).is_some() {
            waiting.turns.retain(|it| it != flow);
        }
    }

    /// Looks at some, and ends those that are quiet.
    pub(super) fn look(&self) {
        let count = self.0.borrow().turns.len().min(AT_ONCE);
        for _ in 0..count {
            let mut waiting = self.0.borrow_mut();
            let Some(flow) = waiting.turns.pop_front() else { return };
            let Some(since) = waiting.known.get(&flow) else { continue };
            if settle(&flow, since) {
                waiting.known.remove(&flow);
            } else {
                waiting.turns.push_back(flow);
            }
        }
    }
}

/// Ends a flow if now is the time; whether it is over.
fn settle(flow: &Flow, since: &Since) -> bool {
    let client = socket_addr(&Endpoint::new(flow.source, flow.source_port));
    let server = socket_addr(&Endpoint::new(flow.destination, flow.destination_port));
    match since.pod.netns.run(|| end(client, server, since.found)).and_then(|ended| ended) {
        Ok(Ended::Not) => false,
        Ok(Ended::Now) => {
            info!(%client, %server, "Ended an express flow in a quiet moment: there are rules about its service now.");
            true
        }
        Ok(Ended::Before) => true,
        Err(error) => {
            // Tried again until it is too late to be of use.
            let late = since.found.elapsed() >= DRAIN_TIME * 2;
            if late {
                warn!(%client, %server, %error, "An express flow that rules have overtaken cannot be ended.");
            } else {
                debug!(%client, %server, %error, "An express flow cannot be looked at.");
            }
            late
        }
    }
}

enum Ended {
    Not,
    Now,
    Before,
}

/// In the network namespace of the client.
fn end(client: SocketAddr, server: SocketAddr, found: Instant) -> io::Result<Ended> {
    let Some(silence) = diag::silence(client, server)? else { return Ok(Ended::Before) };
    if !is_quiet(&silence) && found.elapsed() < DRAIN_TIME {
        return Ok(Ended::Not);
    }
    Ok(if diag::reset_connection(client, server)? { Ended::Now } else { Ended::Before })
}

/// Whether nothing is under way, as far as can be seen from the client's socket: what it said last has been answered.
fn is_quiet(silence: &Silence) -> bool {
    let answered = silence.received <= silence.sent && !silence.unheard;
    answered && !silence.queued && silence.received >= QUIET
}

/// Without a byte for so long, nothing is under way.
const QUIET: Duration = Duration::from_millis(200);
/// Flows looked at in one turn.
const AT_ONCE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_is_who_has_been_answered_and_says_no_more() {
        let ms = Duration::from_millis;
        let quiet = |sent, received, queued| {
            is_quiet(&Silence { sent: ms(sent), received: ms(received), queued, unheard: false })
        };
        assert!(quiet(250, 240, false), "an answer, and then nothing");
        assert!(quiet(300, 300, false), "too quick for the kernel's clock");
        assert!(!quiet(250, 240, true), "something is on its way");
        assert!(!quiet(150, 140, false), "not for long enough");
        assert!(!quiet(250, 5_000, false), "a question without an answer yet");
        let unheard = Silence { sent: ms(300), received: ms(300), queued: false, unheard: true };
        assert!(!is_quiet(&unheard), "the first question");
    }
}
