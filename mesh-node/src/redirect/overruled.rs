//! Express flows that would go through the proxy if they began now: rules have come about their service, or somebody above layer 4
//! has to look at what they carry. Nobody forbids them. They are ended in a quiet moment, so that what the application opens next
//! goes the other way.
//!
//! As with connections that the proxy carries: no request fails for it unless it takes longer than all the time there is, which
//! is short where policy is to see what it does not see.

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

use super::{LocalPod, express::CutFlows, maps::socket_addr};
use crate::{
    l7::stream::DRAIN_TIME,
    sys::diag::{self, Silence},
};

/// Why a flow is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Because {
    /// There are rules about its service.
    Rules,
    /// Policy has to look at what it carries.
    Policy,
}

impl Because {
    /// How long it may take until there is a quiet moment.
    const fn patience(self) -> Duration {
        match self {
            Self::Rules => DRAIN_TIME,
            Self::Policy => Duration::from_millis(500),
        }
    }
}

/// Shared by who finds them and who ends them.
#[derive(Clone, Default)]
pub struct Overruled {
    waiting: Rc<RefCell<Waiting>>,
    cut: CutFlows,
}

#[derive(Default)]
struct Waiting {
    known: HashMap<Flow, Since>,
    /// Whose turn is next.
    turns: VecDeque<Flow>,
}

struct Since {
    /// The client's.
    pod: Arc<LocalPod>,
    until: Instant,
    because: Because,
}

impl Overruled {
    /// `cut` is told of those for which there was no quiet moment.
    pub(super) fn new(cut: CutFlows) -> Self {
        Self { cut, ..Self::default() }
    }

    /// This one is to be ended.
    pub(super) fn add(&self, flow: Flow, pod: &Arc<LocalPod>, because: Because) {
        let Waiting { known, turns } = &mut *self.waiting.borrow_mut();
        let until = Instant::now() + because.patience();
        let since = known.entry(flow).or_insert_with(|| {
            turns.push_back(flow);
            Since { pod: Arc::clone(pod), until, because }
        });
        if since.because != because {
            (since.because, since.until) = (because, until.min(since.until));
        }
    }

    /// This one may stay: the rules are gone again, or it was ended.
    pub(super) fn remove(&self, flow: &Flow) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.known.remove(flow).is_some() {
            waiting.turns.retain(|it| it != flow);
        }
    }

    /// Looks at some, and ends those that are quiet.
    pub(super) fn look(&self) {
        let count = self.waiting.borrow().turns.len().min(AT_ONCE);
        for _ in 0..count {
            let mut waiting = self.waiting.borrow_mut();
            let Some(flow) = waiting.turns.pop_front() else { return };
            let Some(since) = waiting.known.get(&flow) else { continue };
            if self.settle(&flow, since) {
                waiting.known.remove(&flow);
            } else {
                waiting.turns.push_back(flow);
            }
        }
    }

    /// Ends a flow if now is the time; whether it is over.
    fn settle(&self, flow: &Flow, since: &Since) -> bool {
        let client = socket_addr(&Endpoint::new(flow.source, flow.source_port));
        let server = socket_addr(&Endpoint::new(flow.destination, flow.destination_port));
        let now = Instant::now();
        let late = now >= since.until;
        match since.pod.netns.run(|| end(client, server, late)).and_then(|ended| ended) {
            Ok(Ended::Not) => false,
            Ok(Ended::Quietly) => {
                let because = since.because;
                info!(%client, %server, ?because, "Ended an express flow in a quiet moment: it is the proxy's to carry now.");
                true
            }
            Ok(Ended::InTheMidst) => {
                self.cut.borrow_mut().insert(*flow);
                info!(%client, %server, "Ended an express flow that policy or rules no longer let be.");
                true
            }
            Ok(Ended::Before) => true,
            Err(error) => {
                // Tried again until it is too late to be of use.
                let given_up = now >= since.until + DRAIN_TIME;
                if given_up {
                    warn!(%client, %server, %error, "An express flow that is overruled cannot be ended.");
                } else {
                    debug!(%client, %server, %error, "An express flow cannot be looked at.");
                }
                given_up
            }
        }
    }
}

enum Ended {
    Not,
    Quietly,
    /// There was no time left.
    InTheMidst,
    /// By others.
    Before,
}

/// In the network namespace of the client.
fn end(client: SocketAddr, server: SocketAddr, late: bool) -> io::Result<Ended> {
    let Some(silence) = diag::silence(client, server)? else { return Ok(Ended::Before) };
    let quiet = is_quiet(&silence);
    if !quiet && !late {
        return Ok(Ended::Not);
    }
    let there = diag::reset_connection(client, server)?;
    Ok(match (there, quiet) {
        (false, _) => Ended::Before,
        (true, true) => Ended::Quietly,
        (true, false) => Ended::InTheMidst,
    })
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
