//! The endpoints of one service and subset, as a data thread uses them for one client.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use mesh_core::balance::{Algorithm, Balancer, Candidate, Candidates, Health, Load, PickContext, locality};
use mesh_core::cluster::{ClusterPolicy, Outcome};
use mesh_core::health::Checks;
use mesh_core::model::{Declared, Endpoint, EndpointId, Service, ServicePort, Workload};

use super::originate::Origination;
use super::pool::EndpointPool;
use super::shared::SharedCluster;

/// See the module. Its identity lives as long as its name is used; what it knows changes with the configuration.
pub struct Cluster {
    /// `outbound|PORT|SUBSET|HOST`, as logs and metrics of Istio have it.
    pub name: Arc<str>,
    /// What the threads share.
    pub shared: Arc<SharedCluster>,
    /// The settings.
    pub policy: Arc<ClusterPolicy>,
    /// The service.
    pub service: Arc<Service>,
    /// Index of its port.
    pub port: usize,
    /// What the port is declared to speak.
    pub declared: Declared,
    /// TLS that is made here.
    pub origination: Rc<Origination>,
    members: Vec<Rc<Member>>,
    by_id: HashMap<EndpointId, usize>,
    /// What sessions know endpoints by, once there is a session.
    by_mark: OnceCell<HashMap<u64, usize>>,
    candidates: Candidates,
    balancer: RefCell<Balancer>,
    /// Of a service that is wherever clients go: where they have gone lately.
    passing: RefCell<HashMap<EndpointId, Rc<Member>>>,
}

/// An endpoint and its connections.
pub struct Member {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Requests under way.
    pub outstanding: Cell<u32>,
    /// Connections.
    pub pool: EndpointPool,
}

/// Counts one request for as long as it lives.
pub struct Busy(pub Rc<Member>);

impl Busy {
    /// One more request to `member`.
    pub fn new(member: &Rc<Member>) -> Self {
        member.outstanding.set(member.outstanding.get() + 1);
        Self(Rc::clone(member))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.outstanding.set(self.0.outstanding.get().saturating_sub(1));
    }
}

/// What a choice looks at.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// Chance.
    pub seed: u64,
    /// Where the request belongs.
    pub hash: Option<u64>,
    /// The endpoint that the session of the request has, see [`EndpointId::mark`]; it comes before everything else.
    pub session: Option<u64>,
    /// Where the name leads that a request is for, to a service that is wherever its names are.
    pub found: Option<SocketAddr>,
    /// The address that the client asked for: a PASSTHROUGH balancer sends it there if that is an endpoint's.
    pub wanted: Option<SocketAddr>,
    /// Endpoints that were tried.
    pub tried: &'a [EndpointId],
    /// Whether another try may go to another locality.
    pub remote: bool,
    /// The time.
    pub now: Instant,
}

impl Cluster {
    /// The cluster as the configuration has it now; what `old` knows of the same endpoints is kept.
    pub fn new(
        name: Arc<str>,
        shared: Arc<SharedCluster>,
        policy: Arc<ClusterPolicy>,
        (service, port): (Arc<Service>, usize),
        (client, old): (Option<&Workload>, Option<&Self>),
    ) -> Self {
        let all = service.ports.get(port).map(|port| port.endpoints.as_slice()).unwrap_or_default();
        let none = std::collections::BTreeMap::new();
        let labels = |endpoint: &Endpoint| endpoint.workload.as_ref().map(|it| it.labels.clone());
        let chosen = all.iter().filter(|endpoint| {
            policy.subset_labels.is_none()
                || policy.selects(&labels(endpoint).unwrap_or_else(|| none.clone()))
        });
        let balancer = match old {
            Some(old) => old.balancer.borrow().successor(policy.balance.clone()),
            None => Balancer::new(policy.balance.clone()),
        };
        // What was connected under other rules, or past a waypoint, is of no use any more.
        let old = old
            .filter(|old| old.policy.tls == policy.tls && old.policy.proxy_protocol == policy.proxy_protocol)
            .filter(|old| old.service.waypoint == service.waypoint);
        let known = |endpoint: &Endpoint| {
            let old = old?;
            let member = old.members.get(*old.by_id.get(&endpoint.id)?)?;
            (member.endpoint == *endpoint).then(|| Rc::clone(member))
        };
        let members: Vec<_> =
            chosen.map(|it| known(it).unwrap_or_else(|| Rc::new(Member::new(it.clone())))).collect();
        let candidates = candidates(&policy, client, &members);
        if let Some(outliers) = &shared.outliers {
            outliers.set_endpoints(members.iter().map(|member| member.endpoint.id));
        }
        Self {
            name,
            shared,
            by_id: members.iter().enumerate().map(|(at, it)| (it.endpoint.id, at)).collect(),
            balancer: RefCell::new(balancer),
            by_mark: OnceCell::new(),
            policy,
            declared: service.ports.get(port).map_or(Declared::Nothing, ServicePort::declared),
            service,
            port,
            origination: old.map(|old| Rc::clone(&old.origination)).unwrap_or_default(),
            members,
            candidates,
            passing: old.map(|old| old.passing.take()).unwrap_or_default().into(),
        }
    }

    /// Chooses an endpoint; `None` if none may be used.
    pub fn pick(&self, choice: &Choice<'_>) -> Option<Rc<Member>> {
        let held = choice.session.and_then(|mark| self.of_session(mark));
        if let Some(member) = held.filter(|it| !self.shared.is_ejected(it.endpoint.id)) {
            return Some(Rc::clone(member));
        }
        if self.service.is_passthrough() || self.service.is_dynamic() {
            let to = if self.service.is_dynamic() { choice.found } else { choice.wanted };
            let member = self.pass(to?);
            return Some(member).filter(|member| !choice.tried.contains(&member.endpoint.id));
        }
        if self.policy.balance.algorithm == Algorithm::Passthrough {
            let wanted = self.members.iter().find(|member| Some(member.endpoint.addr) == choice.wanted);
            if wanted.is_some() {
                return wanted.cloned();
            }
        }
        let context = PickContext {
            seed: choice.seed,
            hash: choice.hash,
            tried: choice.tried,
            remote: choice.remote,
            now: choice.now,
            load: self,
            health: &*self.shared,
        };
        let at = self.balancer.borrow_mut().pick(&self.candidates, &context)?;
        self.members.get(at).cloned()
    }

    /// The endpoint that sessions know by this mark.
    pub fn of_session(&self, mark: u64) -> Option<&Rc<Member>> {
        let marks = || self.members.iter().enumerate().map(|(at, it)| (it.endpoint.id.mark(), at)).collect();
        self.members.get(*self.by_mark.get_or_init(marks).get(&mark)?)
    }

    /// The address itself.
    fn pass(&self, to: SocketAddr) -> Rc<Member> {
        let mut passing = self.passing.borrow_mut();
        let endpoint = Endpoint::new(to, None);
        if passing.len() >= MAX_PASSING && !passing.contains_key(&endpoint.id) {
            passing.retain(|_, member| Rc::strong_count(member) > 1);
        }
        let member = passing.entry(endpoint.id).or_insert_with(|| Rc::new(Member::new(endpoint)));
        Rc::clone(member)
    }

    /// Takes note of how a request to an endpoint went.
    pub fn record(&self, id: EndpointId, outcome: Outcome, now: Instant) {
        if let Some(outliers) = &self.shared.outliers
            && let Some(ejected) = outliers.record(id, outcome, now)
        {
            tracing::info!(cluster = %self.name, endpoint = %id, ejected = ?ejected, "Left out an endpoint.");
        }
    }

    /// One of its endpoints.
    pub fn endpoint(&self, id: EndpointId) -> Option<&Endpoint> {
        Some(&self.members.get(*self.by_id.get(&id)?)?.endpoint)
    }

    /// Has those of its endpoints asked from now on whether they are well for which `checks` has a check. What is known of
    /// them stays, as long as they are asked as before.
    pub fn check(&self, checks: Option<&Checks>, now: Instant) {
        let checked = self.members.iter().filter_map(|member| {
            let check = checks?.of_endpoint(&self.service, &member.endpoint)?;
            Some((member.endpoint.id, Arc::clone(check)))
        });
        let checked: Vec<_> = checked.collect();
        if !(checked.is_empty() && self.shared.monitor.is_empty()) {
            self.shared.monitor.set_members(checked, now);
        }
    }

    /// All endpoints.
    pub fn members(&self) -> &[Rc<Member>] {
        &self.members
    }
}

/// The first of some addresses that was not tried, else the first.
pub fn untried(found: &[SocketAddr], tried: &[EndpointId]) -> Option<SocketAddr> {
    let fresh = found.iter().find(|addr| !tried.contains(&EndpointId::of(**addr)));
    fresh.or(found.first()).copied()
}

/// Addresses whose connections are kept; those of others are closed when the next comes.
const MAX_PASSING: usize = 1000;

impl Member {
    fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, outstanding: Cell::new(0), pool: EndpointPool::default() }
    }
}

impl Load for Cluster {
    fn outstanding(&self, id: EndpointId) -> u32 {
        let member = self.by_id.get(&id).and_then(|at| self.members.get(*at));
        member.map_or(0, |member| member.outstanding.get())
    }
}

fn place(workload: Option<&Workload>) -> locality::Place<'_> {
    workload.map(locality::Place::of).unwrap_or_default()
}

fn candidates(policy: &ClusterPolicy, client: Option<&Workload>, members: &[Rc<Member>]) -> Candidates {
    let workloads: Vec<_> = members.iter().map(|it| it.endpoint.workload.clone()).collect();
    let places: Vec<_> = workloads.iter().map(|it| place(it.as_deref())).collect();
    let placements = locality::priorities(&policy.locality, &place(client), &places);
    let all: Vec<_> = members
        .iter()
        .zip(placements)
        .map(|(member, placement)| {
            let weight = member.endpoint.workload.as_ref().map_or(0, |workload| workload.weight);
            Candidate { placement, weight, ..Candidate::new(member.endpoint.id) }
        })
        .collect();
    Candidates::new(&policy.balance, &all)
}
