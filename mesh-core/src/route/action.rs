//! A rule, compiled: what is done with the requests that it is for.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::header_ops::host;
use super::{
    Cors, Fault, HeaderOps, MatchInfo, MatchedPath, Redirect, ResourceName, Rewrite, Session, Settings,
    is_drawn,
};
use crate::resource::networking::Destination;
use crate::resource::networking::virtual_service::{
    self, Body, HttpAction, HttpDestination, HttpRoute, Retries,
};
use crate::resource::value::{self, Host, Percent};
use crate::retry::RetryPolicy;

/// What is done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its name, or empty; `default` for a service that no VirtualService is about.
    pub name: Arc<str>,
    /// The VirtualService that it is of; that of the root where it is a delegate's.
    pub virtual_service: Option<Arc<ResourceName>>,
    /// What is done.
    pub action: Action,
    /// What happens to the path before the request is sent on.
    pub rewrite: Option<Box<Rewrite>>,
    /// Changes to headers of answers that are made here, and of requests that go nowhere. Those that are sent on have
    /// [`Weighted::headers`] instead.
    pub headers: HeaderOps,
    /// Requests of pages from other origins.
    pub cors: Option<Box<Cors>>,
    /// Faults to make.
    pub fault: Option<Box<Fault>>,
    /// For the whole request with all retries.
    pub timeout: Option<Duration>,
    /// When it is tried again.
    pub retries: Option<Arc<RetryPolicy>>,
    /// Who gets copies; none of them gets none.
    pub mirrors: Vec<Mirror>,
    /// The answer to a request whose destination does not exist: 503, or 500 in the Gateway API.
    pub no_cluster: StatusCode,
    /// How the requests of a session stay together.
    pub session: Option<Arc<Session>>,
}

/// What is done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It is sent on.
    Forward(Forward),
    /// It is answered with another address.
    Redirect(Box<Redirect>),
    /// It is answered here.
    Respond(DirectResponse),
    /// What is done is drawn by lot.
    Split(Split),
}

/// Different things that are done with shares of the requests: never nothing, and none of them is a split again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    branches: Vec<(u32, Arc<Route>)>,
    total: u64,
}

/// Where a request may go: never nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    destinations: Vec<Weighted>,
    total: u64,
}

/// A destination and its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weighted {
    /// Where to.
    pub to: ClusterRef,
    /// Its share is this, divided by the sum of all; never 0.
    pub weight: u32,
    /// All changes to headers: those of the rule, then those of the destination.
    pub headers: HeaderOps,
    /// The host that the request gets.
    pub host: Option<Arc<str>>,
}

/// Endpoints that requests can be sent to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterRef {
    /// The full name of a service, which need not exist.
    pub host: Arc<str>,
    /// A subset that a DestinationRule defines.
    pub subset: Option<Arc<str>>,
    /// Port of the service, see [`ClusterRef::port_of`].
    pub port: Option<u16>,
}

/// An answer that is made here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponse {
    /// The status.
    pub status: StatusCode,
    /// The body, at most 1 MiB.
    pub body: Arc<[u8]>,
}

/// Somebody who gets copies of requests; the answers are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Who.
    pub to: ClusterRef,
    /// Of which share of the requests; never 0.
    pub share: Percent,
}

/// Where a rule stands: what its names are relative to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Home<'a> {
    /// The VirtualService whose rules it is among.
    pub(super) name: &'a Arc<ResourceName>,
    /// The namespace that short names are of.
    pub(super) namespace: &'a str,
    pub(super) cluster_domain: &'a str,
    /// How requests are tried again where a rule does not say.
    pub(super) retries: Option<&'a Retries>,
    /// What rules have in common.
    pub(super) shared: &'a Shared,
}

/// What many rules say in the same words, kept once: a request that comes to another rule than the one before it finds it
/// in the processor's caches.
#[derive(Debug, Default)]
pub(super) struct Shared {
    hosts: RefCell<HashSet<Arc<str>>>,
    retries: RefCell<Vec<Arc<RetryPolicy>>>,
}

impl Shared {
    fn host(&self, host: Arc<str>) -> Arc<str> {
        let mut hosts = self.hosts.borrow_mut();
        if let Some(known) = hosts.get(&host) {
            return Arc::clone(known);
        }
        hosts.insert(Arc::clone(&host));
        host
    }

    /// `None` for a policy that never tries again.
    fn retries(&self, policy: RetryPolicy) -> Option<Arc<RetryPolicy>> {
        if policy.attempts == 0 {
            return None;
        }
        let mut known = self.retries.borrow_mut();
        let found = known.iter().find(|it| ***it == policy).cloned();
        Some(found.unwrap_or_else(|| {
            let new = Arc::new(policy);
            if known.len() < MAX_SHARED {
                known.push(Arc::clone(&new));
            }
            new
        }))
    }
}

/// Policies that are compared with; nobody writes more by hand.
const MAX_SHARED: usize = 64;

impl Route {
    /// What is done with requests for a service that no VirtualService is about: they go there, and are tried again as the
    /// mesh's settings say.
    pub fn by_default(destination: ClusterRef, settings: &Settings) -> Self {
        let policy = RetryPolicy::new(settings.retries.as_ref(), false);
        let retries = Some(policy).filter(|policy| policy.attempts > 0).map(Arc::new);
        Self { retries, ..Self::to(destination) }
    }

    /// Requests go there, and are tried again where Istio does so by default.
    pub fn to(destination: ClusterRef) -> Self {
        let only = Weighted { to: destination, weight: 1, headers: HeaderOps::default(), host: None };
        Self {
            name: "default".into(),
            virtual_service: None,
            action: Action::Forward(Forward { destinations: vec![only], total: 1 }),
            rewrite: None,
            headers: HeaderOps::default(),
            cors: None,
            fault: None,
            timeout: None,
            retries: Some(Arc::new(RetryPolicy::new(None, false))),
            mirrors: Vec::new(),
            no_cluster: StatusCode::SERVICE_UNAVAILABLE,
            session: None,
        }
    }

    /// An answer without a body, for requests that lead nowhere.
    pub fn refusal(name: &str, status: StatusCode) -> Self {
        let answer = DirectResponse { status, body: Arc::default() };
        let nowhere = ClusterRef { host: "".into(), subset: None, port: None };
        Self { name: name.into(), action: Action::Respond(answer), retries: None, ..Self::to(nowhere) }
    }

    /// What stands for the match of a request that no match has led here.
    pub fn unmatched(&self) -> MatchInfo {
        MatchInfo { name: Arc::clone(&self.name), stat_prefix: None, path: MatchedPath::Prefix(1) }
    }

    /// `None` for a rule that nothing can be done by: a redirect with a status that is none, or no destination.
    pub(super) fn of(rule: &HttpRoute, home: Home<'_>) -> Option<Self> {
        let headers = HeaderOps::of(&rule.headers);
        let action = match rule.action() {
            HttpAction::Route(_) => Action::Forward(Forward::of(rule, &headers, home)?),
            HttpAction::Redirect(redirect) => Action::Redirect(Box::new(Redirect::of(redirect)?)),
            HttpAction::Respond(response) => Action::Respond(DirectResponse::of(response)?),
            HttpAction::Delegate(_) => return None,
        };
        let mirrors = rule.copies().filter(|(_, share)| *share > Percent::default());
        Some(Self {
            name: rule.name.as_str().into(),
            virtual_service: Some(Arc::clone(home.name)),
            action,
            rewrite: rule.rewrite.as_ref().and_then(Rewrite::of).map(Box::new),
            headers,
            cors: rule.cors_policy.as_ref().map(Cors::of).map(Box::new),
            fault: rule.fault.as_ref().and_then(Fault::of).map(Box::new),
            timeout: rule.timeout.map(value::Duration::get),
            retries: home.shared.retries(RetryPolicy::new(rule.retries.as_ref().or(home.retries), false)),
            mirrors: mirrors.map(|(to, share)| Mirror { to: ClusterRef::of(to, home), share }).collect(),
            no_cluster: StatusCode::SERVICE_UNAVAILABLE,
            session: None,
        })
    }
}

impl Forward {
    fn of(rule: &HttpRoute, headers: &HeaderOps, home: Home<'_>) -> Option<Self> {
        let rewritten = rule.rewrite.as_ref().map(|rewrite| &*rewrite.authority);
        let rewritten = rewritten.filter(|host| !host.is_empty()).map(str::to_owned);
        let of_rule = rewritten.or_else(|| host(&rule.headers.request));
        let weighted = |it: &HttpDestination, weight: u32| Weighted {
            to: ClusterRef::of(&it.destination, home),
            weight,
            headers: headers.then(&HeaderOps::of(&it.headers)),
            host: of_rule.clone().or_else(|| host(&it.headers.request)).map(Arc::from),
        };
        let destinations: Vec<_> = match rule.route.as_slice() {
            [only] => vec![weighted(only, 1)],
            several => {
                let some = several.iter().filter(|it| it.weight > 0);
                some.map(|it| weighted(it, it.weight)).collect()
            }
        };
        let total = destinations.iter().map(|it| u64::from(it.weight)).sum();
        (total > 0).then_some(Self { destinations, total })
    }

    /// For connections; without changes to anything. `None` if there is nowhere to go.
    pub(super) fn of_destinations<'d>(
        all: impl ExactSizeIterator<Item = (&'d Destination, u32)>,
        home: Home<'_>,
    ) -> Option<Self> {
        // A single destination gets everything, whatever its weight.
        let only = all.len() == 1;
        let shares = all.map(|(to, weight)| (to, if only { 1 } else { weight })).filter(|(_, it)| *it > 0);
        let weighted = |(to, weight)| Weighted {
            to: ClusterRef::of(to, home),
            weight,
            headers: HeaderOps::default(),
            host: None,
        };
        let destinations: Vec<_> = shares.map(weighted).collect();
        let total = destinations.iter().map(|it| u64::from(it.weight)).sum();
        (total > 0).then_some(Self { destinations, total })
    }

    /// Whether any of it goes there.
    pub fn leads_to(&self, to: &ClusterRef) -> bool {
        self.destinations.iter().any(|it| it.to == *to)
    }

    /// To these, none of which has the weight 0. `None` if there is nowhere to go.
    pub(crate) fn to(destinations: Vec<Weighted>) -> Option<Self> {
        let total = destinations.iter().map(|it| u64::from(it.weight)).sum();
        (total > 0).then_some(Self { destinations, total })
    }

    /// Where a request or a connection goes. `seed` is drawn from all of `u64`, and every destination gets its share of it.
    pub fn choose(&self, seed: u64) -> &Weighted {
        let drawn = draw(self.destinations.iter().map(|it| it.weight), self.total, seed);
        let drawn = drawn.and_then(|at| self.destinations.get(at)).or(self.destinations.first());
        drawn.expect("there is a destination, or there is no rule")
    }

    /// All destinations that a request may go to, in the user's order.
    pub fn destinations(&self) -> &[Weighted] {
        &self.destinations
    }
}

impl Split {
    /// Those with the weight 0 are left out. `None` if there are no others.
    pub(super) fn of(branches: impl IntoIterator<Item = (u32, Arc<Route>)>) -> Option<Self> {
        let branches: Vec<_> = branches.into_iter().filter(|(weight, _)| *weight > 0).collect();
        let total = branches.iter().map(|(weight, _)| u64::from(*weight)).sum();
        (total > 0).then_some(Self { branches, total })
    }

    /// All that may be done, in the user's order.
    pub fn branches(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.branches.iter().map(|(_, branch)| branch)
    }

    /// What is done with one request. `seed` is drawn from all of `u64`.
    pub fn choose(&self, seed: u64) -> &Arc<Route> {
        let drawn = draw(self.branches.iter().map(|(weight, _)| *weight), self.total, seed);
        let drawn = drawn.and_then(|at| self.branches.get(at)).or(self.branches.first());
        &drawn.expect("there is a branch, or there is no split").1
    }
}

/// Which of several shares of `total` a lot falls on.
fn draw(mut weights: impl Iterator<Item = u32>, total: u64, seed: u64) -> Option<usize> {
    // The quotient is below the total, so it fits.
    let mut lot = u64::try_from((u128::from(seed) * u128::from(total)) >> 64).unwrap_or_default();
    weights.position(|weight| {
        let is_it = lot < u64::from(weight);
        lot = lot.saturating_sub(u64::from(weight));
        is_it
    })
}

impl ClusterRef {
    pub(super) fn of(destination: &Destination, home: Home<'_>) -> Self {
        let host = match destination.host.qualified(home.namespace, home.cluster_domain) {
            Host::Name(name) => name,
            other => other.to_string().into(),
        };
        let subset = Some(&*destination.subset).filter(|subset| !subset.is_empty());
        let (host, subset) = (home.shared.host(host), subset.map(|subset| home.shared.host(subset.into())));
        Self { host, subset, port: destination.port.map(|port| port.number.get()) }
    }

    /// The port of the service to use: what the rule says, else the only one of `ports` that the service has, else the
    /// one that was asked for.
    pub fn port_of(&self, mut ports: impl Iterator<Item = u16>, asked: u16) -> u16 {
        let only = || ports.next().filter(|_| ports.next().is_none());
        self.port.or_else(only).unwrap_or(asked)
    }
}

impl fmt::Display for ClusterRef {
    /// As Istio names clusters, as far as a rule tells.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, subset, port } = self;
        f.write_str("outbound|")?;
        port.map_or(Ok(()), |port| write!(f, "{port}"))?;
        write!(f, "|{}|{host}", subset.as_deref().unwrap_or_default())
    }
}

impl DirectResponse {
    fn of(response: &virtual_service::DirectResponse) -> Option<Self> {
        let body = response.body.as_ref().map(Body::as_bytes).unwrap_or_default();
        Some(Self { status: StatusCode::from_u16(response.status.get()).ok()?, body: body.into() })
    }
}

impl Mirror {
    /// Whether a request is copied. `lot` is drawn from all of `u64`.
    pub fn is_drawn(&self, lot: u64) -> bool {
        is_drawn(self.share, lot)
    }
}
