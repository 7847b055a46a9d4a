//! One of many leads: by a Lease, which its holder renews and which the others take over when that stops.
//!
//! What is fenced: every write names the version of the Lease it is based on, so of two who want it at the same moment
//! one gets it and the other a conflict. What is not: a holder who was stopped for a while (a paused machine) may believe
//! for a moment that it still leads. [`Leadership::is_leading`] therefore looks at the clock, and gives up some time
//! before others may take over; whoever writes as a leader asks it right before.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use self::decide::{Action, Observed, decide};
use super::backoff::jittered;

mod decide;

/// Who wants to lead what.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The namespace of the Lease.
    pub namespace: String,
    /// The name of the Lease.
    pub name: String,
    /// Differs between any two who want to lead; normally the name of the Pod and something random.
    pub identity: String,
    /// How long, and how often.
    pub terms: Terms,
}

/// The times of an election. Each must be a good deal longer than the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Others take over when nothing has been renewed for so long, by their own clock. Whole seconds.
    pub lease: Duration,
    /// A holder who could not renew for so long does not lead any more.
    pub renewal: Duration,
    /// Between two attempts, of the holder to renew and of the others to take over.
    pub retry: Duration,
}

/// What an election has come to; clones see the same.
#[derive(Debug, Clone)]
pub struct Leadership {
    state: watch::Receiver<State>,
}

/// As it was decided last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    /// We lead until then.
    until: Option<Instant>,
    /// Who holds the Lease, as far as is known.
    holder: Arc<str>,
}

/// Takes part in an election. Made by [`Election::new`].
pub struct Election {
    leases: Api<Lease>,
    candidate: Candidate,
    state: watch::Sender<State>,
    /// The last Lease that was seen, and since when it has looked like that.
    observed: Option<Observed>,
    complaint: Option<String>,
}

impl Election {
    /// Nobody leads before it runs.
    pub fn new(client: Client, candidate: Candidate) -> (Self, Leadership) {
        let (state, receiver) = watch::channel(State { until: None, holder: Arc::from("") });
        let leases = Api::namespaced(client, &candidate.namespace);
        let election = Self { leases, candidate, state, observed: None, complaint: None };
        (election, Leadership { state: receiver })
    }

    /// Takes part until `ended` is ready, and then gives up what it holds, so that another can lead at once.
    pub async fn run(mut self, ended: impl Future<Output = ()>) {
        tokio::pin!(ended);
        loop {
            let wait = self.round().await;
            tokio::select! {
                () = &mut ended => break,
                () = sleep(wait) => {}
            }
        }
        self.give_up().await;
    }

    /// Looks at the Lease and does what is to be done; returns how long to wait.
    async fn round(&mut self) -> Duration {
        let terms = self.candidate.terms;
        let limit = terms.renewal.saturating_sub(terms.retry).max(terms.retry);
        let started = Instant::now();
        let result = match timeout(limit, self.attempt(started)).await {
            Ok(result) => result,
            Err(_) => Err("no answer in time".to_owned()),
        };
        match result {
            Ok(()) => self.complaint = None,
            Err(error) if self.complaint.as_ref() != Some(&error) => {
                let lease = &self.candidate.name;
                tracing::warn!(lease, error, "The lease of the leader cannot be looked after.");
                self.complaint = Some(error);
            }
            Err(_) => {}
        }
        self.expire();
        jittered(terms.retry)
    }

    async fn attempt(&mut self, now: Instant) -> Result<(), String> {
        let name = self.candidate.name.clone();
        let lease = self.leases.get_opt(&name).await.map_err(|error| error.to_string())?;
        self.observed = Some(Observed::next(self.observed.take(), lease, now));
        let observed = self.observed.as_ref().expect("just seen");
        let wish = match decide(observed, &self.candidate, now, Timestamp::now()) {
            Action::Wait => {
                self.follow(observed.holder());
                return Ok(());
            }
            Action::Create(wish) => self.leases.create(&PostParams::default(), &wish).await,
            Action::Replace(wish) => self.leases.replace(&name, &PostParams::default(), &wish).await,
        };
        match wish {
            Ok(lease) => {
                self.observed = Some(Observed::next(self.observed.take(), Some(lease), now));
                self.lead(now);
                Ok(())
            }
            // Somebody else was faster; the next look shows who.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.follow("");
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// We hold the Lease, and may act on it as long after `since` as nobody else can have taken over.
    fn lead(&self, since: Instant) {
        let identity = &self.candidate.identity;
        if self.state.borrow().until.is_none() {
            tracing::info!(identity, lease = self.candidate.name, "This is the leader now.");
        }
        let until = Some(since + self.candidate.terms.renewal);
        self.state.send_replace(State { until, holder: identity.as_str().into() });
    }

    fn follow(&self, holder: &str) {
        self.state.send_if_modified(|state| {
            if state.until.is_some() {
                tracing::info!(holder, lease = self.candidate.name, "This is not the leader any more.");
            }
            let next = State { until: None, holder: holder.into() };
            let differs = *state != next;
            *state = next;
            differs
        });
    }

    /// Whoever could not renew does not lead.
    fn expire(&self) {
        let expired = self.state.borrow().until.is_some_and(|until| Instant::now() >= until);
        if expired {
            self.follow("");
        }
    }

    async fn give_up(&mut self) {
        let leads = self.state.borrow().until.is_some();
        self.follow("");
        let Some(wish) = self.observed.as_ref().and_then(|it| it.release(&self.candidate, Timestamp::now()))
        else {
            return;
        };
        let (name, params) = (&self.candidate.name, PostParams::default());
        let sent = self.leases.replace(name, &params, &wish);
        // If it fails, the others wait a little longer.
        if leads && !matches!(timeout(self.candidate.terms.retry, sent).await, Ok(Ok(_))) {
            tracing::info!(lease = name, "The lease could not be given up; it will run out.");
        }
    }
}

impl Leadership {
    /// Whether this is the leader at this moment.
    pub fn is_leading(&self) -> bool {
        self.state.borrow().until.is_some_and(|until| Instant::now() < until)
    }

    /// Who holds the Lease, as far as is known; empty if nobody.
    pub fn holder(&self) -> Arc<str> {
        Arc::clone(&self.state.borrow().holder)
    }

    /// Waits until this is the leader, or (`leading` is false) until it is not. `false` when the election has ended and it
    /// will never be.
    pub async fn wait_until(&mut self, leading: bool) -> bool {
        loop {
            if self.is_leading() == leading {
                return true;
            }
            let until = self.state.borrow_and_update().until;
            let expiry = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.state.changed() => if changed.is_err() { return !leading },
                () = expiry => {}
            }
        }
    }
}

impl Default for Terms {
    /// Those of Kubernetes' own controllers.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renewal: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

impl fmt::Debug for Election {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election").field("candidate", &self.candidate).finish_non_exhaustive()
    }
}
