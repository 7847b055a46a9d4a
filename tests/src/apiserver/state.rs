//! Everything that outlives a request, and a restart.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::authn::Tokens;
use super::kinds::Registry;
use super::logs::Logs;
use super::status::Refusal;
use super::store::Store;

/// Of one server, shared by its connections and the test.
pub(super) struct Shared {
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) store: Store,
    pub(super) registry: Registry,
    pub(super) tokens: Tokens,
    pub(super) logs: Logs,
    pub(super) faults: Vec<Fault>,
    /// What was asked, in order: `verb resource namespace/name`, or the method and path.
    pub(super) seen: Vec<String>,
    /// Whether those without a token are refused.
    pub(super) private: bool,
    /// Whether roles decide.
    pub(super) rbac: bool,
    pub(super) bookmark_interval: Duration,
    /// Where webhooks that are named by a service are, by `namespace/name`.
    pub(super) services: HashMap<String, SocketAddr>,
    cut: watch::Sender<u64>,
}

/// What is done to requests instead of, or before, answering them.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Part of what [`super::ApiServer::requests`] shows of a request, for example `list pods`; empty for all.
    pub matching: String,
    /// How many requests it meets; then it is over.
    pub times: usize,
    /// How long they wait.
    pub delay: Duration,
    /// What they are told; `None`: they are answered after the wait.
    pub refusal: Option<Refusal>,
}

impl Shared {
    pub(super) fn new(state: State) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state) })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no request panics while it holds the state")
    }
}

impl State {
    pub(super) fn new(bookmark_interval: Duration) -> Self {
        Self {
            store: Store::new(),
            registry: Registry::new(),
            tokens: Tokens::default(),
            logs: Logs::default(),
            faults: Vec::new(),
            seen: Vec::new(),
            private: false,
            rbac: false,
            bookmark_interval,
            services: HashMap::new(),
            cut: watch::Sender::new(0),
        }
    }

    /// Notes a request, and says what is to go wrong with it.
    pub(super) fn note(&mut self, request: String) -> Option<Fault> {
        let fault = self.faults.iter_mut().find(|it| it.times > 0 && request.contains(&it.matching));
        let fault = fault.map(|fault| {
            fault.times -= 1;
            fault.clone()
        });
        self.seen.push(request);
        fault
    }

    /// Changes when all watches are to end.
    pub(super) fn cut(&self) -> watch::Receiver<u64> {
        self.cut.subscribe()
    }

    pub(super) fn end_watches(&self) {
        self.cut.send_modify(|count| *count += 1);
    }
}
