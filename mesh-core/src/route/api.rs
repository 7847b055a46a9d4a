//! Rules of the Gateway API, compiled to what rules of `VirtualServices` are compiled to.
//!
//! Two things differ. The order of rules is not that of the user but of how exactly they match, over all routes of a
//! host. And a backend that may not be named, or does not exist, takes its share of the requests all the same: they are
//! answered with 500.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use self::effects::{Effects, Filter};
use self::matching::Rank;
use super::condition::Condition;
use super::index::Entry;
use super::{
    Action, ClusterRef, DirectResponse, Forward, HeaderOps, MatchInfo, ResourceName, Route, Session, Split,
    Weighted,
};
use crate::resource::gateway_api::{
    Backend, FilteredBackend, GrpcRouteSpec, GrpcRule, HttpRouteSpec, HttpRule, SectionName,
    SessionPersistence, Timeout,
};
use crate::retry::RetryPolicy;

mod effects;
mod matching;

/// Finds what a route may send to.
pub trait Backends {
    /// The cluster that `backend` means; `None` where it is of an unknown kind or of a namespace that has not permitted it.
    /// Whether it exists is not asked.
    fn find(&self, backend: &Backend) -> Option<ClusterRef>;
}

/// The rules of one route of the Gateway API.
#[derive(Debug)]
pub struct ApiRules {
    place: Place,
    entries: Vec<(Rank, Entry)>,
}

/// Where a route stands among others whose rules match as exactly: the oldest first, then by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    created: i64,
    name: Arc<ResourceName>,
}

/// A rule of any kind of route.
struct Rule<'r> {
    name: Option<&'r SectionName>,
    filters: Vec<Filter<'r>>,
    shares: Vec<Share<'r>>,
    timeout: Option<Duration>,
    retries: RetryPolicy,
    /// For the share of backends that are none.
    no_cluster: StatusCode,
    session: Option<Arc<Session>>,
}

/// A backend of a rule.
struct Share<'r> {
    backend: &'r Backend,
    weight: u32,
    filters: Vec<Filter<'r>>,
}

impl ApiRules {
    /// Those of an HTTPRoute.
    pub fn of_http(
        (name, created): (Arc<ResourceName>, Option<i64>),
        spec: &HttpRouteSpec,
        backends: &dyn Backends,
    ) -> Self {
        let mut rules = Self::new(name, created);
        for (number, rule) in spec.rules.iter().enumerate().filter(|(_, rule)| rule.fault().is_none()) {
            let session =
                session("HTTPRoute", (&rules.place.name, number), rule.session_persistence.as_ref());
            let route = Rule::of_http(rule, session).compile(&rules.place.name, backends);
            rules.add(route, rule.matches.iter().filter_map(matching::of_http));
        }
        rules
    }

    /// Those of a GRPCRoute.
    pub fn of_grpc(
        (name, created): (Arc<ResourceName>, Option<i64>),
        spec: &GrpcRouteSpec,
        backends: &dyn Backends,
    ) -> Self {
        let mut rules = Self::new(name, created);
        for (number, rule) in spec.rules.iter().enumerate().filter(|(_, rule)| rule.fault().is_none()) {
            let session =
                session("GRPCRoute", (&rules.place.name, number), rule.session_persistence.as_ref());
            let route = Rule::of_grpc(rule, session).compile(&rules.place.name, backends);
            if rule.matches.is_empty() {
                rules.add(route, std::iter::once(matching::every_call()));
            } else {
                rules.add(route, rule.matches.iter().filter_map(matching::of_grpc));
            }
        }
        rules
    }

    /// The rules of several routes for one host, those that match most exactly first.
    pub(super) fn merge<'r>(routes: impl IntoIterator<Item = &'r Self>) -> Vec<Entry> {
        let all = routes.into_iter().flat_map(|it| it.entries.iter().map(move |entry| (&it.place, entry)));
        let mut all: Vec<_> = all.collect();
        // Stable: what is equal stays in the user's order.
        all.sort_by_key(|(place, (rank, _))| (Reverse(*rank), *place));
        all.into_iter().map(|(_, (_, entry))| entry.clone()).collect()
    }

    fn new(name: Arc<ResourceName>, created: Option<i64>) -> Self {
        Self { place: Place { created: created.unwrap_or(i64::MAX), name }, entries: Vec::new() }
    }

    fn add(&mut self, route: Route, matches: impl Iterator<Item = (Rank, Condition)>) {
        let route = Arc::new(route);
        self.entries.extend(matches.map(|(rank, condition)| {
            let path = matching::matched(&condition);
            let info = MatchInfo { name: Arc::clone(&route.name), stat_prefix: None, path };
            (rank, Entry::new(Arc::new(condition), Arc::clone(&route), Arc::new(info)))
        }));
    }
}

/// How the requests of a session stay together under the rule of this number.
fn session(
    kind: &str,
    (route, number): (&ResourceName, usize),
    spec: Option<&SessionPersistence>,
) -> Option<Arc<Session>> {
    Session::of(spec?, &format!("{kind}/{route}/{number}")).map(Arc::new)
}

/// The destinations of a rule, whichever kind its filters are of.
fn shares<'r, F>(backends: &'r [FilteredBackend<F>]) -> Vec<Share<'r>>
where
    Filter<'r>: From<&'r F>,
{
    let share = |it: &'r FilteredBackend<F>| Share {
        backend: &it.backend,
        weight: it.weight.get(),
        filters: it.filters.iter().map(Filter::from).collect(),
    };
    backends.iter().map(share).collect()
}

impl<'r> Rule<'r> {
    fn of_http(rule: &'r HttpRule, session: Option<Arc<Session>>) -> Self {
        let limit = |timeout: Option<Timeout>| match timeout {
            Some(Timeout::After(limit)) => Some(limit),
            Some(Timeout::Never) | None => None,
        };
        Self {
            name: rule.name.as_ref(),
            filters: rule.filters.iter().map(Filter::from).collect(),
            shares: shares(&rule.backend_refs),
            timeout: limit(rule.timeouts.request),
            retries: RetryPolicy::of_filter(rule.retry.as_ref(), limit(rule.timeouts.backend_request)),
            no_cluster: StatusCode::INTERNAL_SERVER_ERROR,
            session,
        }
    }

    fn of_grpc(rule: &'r GrpcRule, session: Option<Arc<Session>>) -> Self {
        Self {
            name: rule.name.as_ref(),
            filters: rule.filters.iter().map(Filter::from).collect(),
            shares: shares(&rule.backend_refs),
            timeout: None,
            retries: RetryPolicy::of_filter(None, None),
            // What callers of gRPC understand as UNAVAILABLE.
            no_cluster: StatusCode::SERVICE_UNAVAILABLE,
            session,
        }
    }

    fn compile(&self, name: &Arc<ResourceName>, backends: &dyn Backends) -> Route {
        let effects = Effects::of(&self.filters, backends);
        let branches = self.shares.iter().filter(|share| share.weight > 0);
        let branches: Vec<_> = branches.map(|share| (share, Effects::of(&share.filters, backends))).collect();
        let action = match effects.ends() {
            Some(action) => action,
            None if branches.iter().all(|(_, effects)| effects.are_of_headers()) => {
                let to =
                    branches.iter().map(|(share, own)| share.weighted(share.weight, &effects, own, backends));
                Action::Forward(Forward::to(to.collect()).unwrap_or_else(nowhere))
            }
            None => {
                let routes = branches.iter().map(|(share, own)| {
                    let action = own.ends().unwrap_or_else(|| {
                        let only = share.weighted(1, &effects, own, backends);
                        Action::Forward(Forward::to(vec![only]).unwrap_or_else(nowhere))
                    });
                    (share.weight, Arc::new(self.route(name, action, effects.then(own))))
                });
                Split::of(routes).map_or_else(|| Action::Forward(nowhere()), Action::Split)
            }
        };
        self.route(name, action, effects)
    }

    fn route(&self, name: &Arc<ResourceName>, action: Action, effects: Effects) -> Route {
        Route {
            name: self.name.map_or_else(|| "".into(), |name| Arc::from(&**name)),
            virtual_service: Some(Arc::clone(name)),
            action,
            rewrite: effects.rewrite.map(Box::new),
            headers: effects.headers,
            cors: effects.cors.map(Box::new),
            fault: None,
            timeout: self.timeout,
            retries: Some(Arc::new(self.retries.clone())),
            mirrors: effects.mirrors,
            no_cluster: self.no_cluster,
            session: self.session.clone(),
        }
    }
}

impl Share<'_> {
    fn weighted(&self, weight: u32, of_rule: &Effects, own: &Effects, backends: &dyn Backends) -> Weighted {
        Weighted {
            to: backends.find(self.backend).unwrap_or_else(none_such),
            weight,
            headers: of_rule.headers.then(&own.headers),
            host: own.host.clone().or_else(|| of_rule.host.clone()),
        }
    }
}

/// Where requests go that have no backend.
fn nowhere() -> Forward {
    let only = Weighted { to: none_such(), weight: 1, headers: HeaderOps::default(), host: None };
    Forward::to(vec![only]).expect("a weight of 1 is not 0")
}

/// A cluster that nobody can make: the name is none of a host.
pub(crate) fn none_such() -> ClusterRef {
    ClusterRef { host: "no backend".into(), subset: None, port: None }
}

/// What stands for a filter that nobody here knows.
fn refused() -> Action {
    Action::Respond(DirectResponse { status: StatusCode::INTERNAL_SERVER_ERROR, body: Arc::default() })
}
