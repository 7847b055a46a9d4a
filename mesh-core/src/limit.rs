//! Limits of requests and connections in a time: which are for whom, and whether one more may pass.
//!
//! Each process counts by itself: a node for what its pods send, a gateway and a waypoint for what comes through them. A
//! limit of a Service or ServiceEntry is counted where requests to it are sent on: at its waypoint if it has one, else by
//! the node of the client, or the gateway. A limit of a Gateway, or that selects a gateway's pods, is counted for all that
//! the gateway takes in. A limit that selects other workloads is about connections to them, and counted where they run.
//!
//! A request must have leave of all limits that are for it. What one has taken when another refuses is given back. How many
//! connections may be open at a time, and what each of them may do, is a matter of those who take them in.
//! Invariants: what a rule has counted outlives changes of everything else; who cannot be told apart shares one count.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::bucket::{Rate, Standing};
pub use self::global::{Descriptor, Global};
use self::open::OpenRule;
pub use self::open::{Each, Full, Held};
pub use self::rule::{Call, Caller};
use self::rule::{ConnectionRule, Counts, Rule};
use crate::model::{Service, Snapshot, Workload};
use crate::own::Own;
use crate::resource::rate_limit::{BodyLimit, RateLimitSpec};
use crate::resource::{Object, ObjectKey, Spec};

mod bucket;
mod global;
mod keyed;
mod open;
mod rule;

/// All limits of a configuration, with what has been counted. Threads share it.
#[derive(Debug, Default)]
pub struct Limits {
    /// The namespace whose selectors select everywhere.
    root: Arc<str>,
    all: Vec<Arc<Policy>>,
    services: HashMap<Target, Vec<Arc<Policy>>>,
}

/// One RateLimit.
#[derive(Debug)]
pub struct Policy {
    key: ObjectKey,
    spec: RateLimitSpec,
    rules: Vec<Arc<Rule>>,
    connections: Option<Arc<ConnectionRule>>,
    open: Vec<OpenRule>,
    global: Option<Arc<Global>>,
}

/// What came of a request or a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No limit is for it.
    Free,
    /// It passes. How the limit stands that is nearest to its end.
    Within(Standing),
    /// It does not: which limit says so, and how it stands.
    Over(Over),
}

/// Why something does not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    /// The RateLimit, and its rule if it has a name, for logs.
    pub by: String,
    /// How it stands: [`Standing::next`] is when another try makes sense.
    pub standing: Standing,
}

/// A Service or a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Target {
    entry: bool,
    namespace: Arc<str>,
    name: Arc<str>,
}

impl Limits {
    /// Those of a configuration. What `before` has counted of the same rules is kept; times count from `epoch`, which must
    /// be the same for all that follow each other.
    pub fn of(snapshot: &Snapshot, before: &Self, epoch: Instant) -> Self {
        let known: HashMap<&ObjectKey, &Arc<Policy>> = before.all.iter().map(|it| (&it.key, it)).collect();
        let (mut all, mut services) = (Vec::new(), HashMap::<_, Vec<_>>::new());
        for config in snapshot.configs_of("RateLimit") {
            let object = config.object();
            let Spec::RateLimit(spec) = &object.spec else { continue };
            let key = object.key();
            let before = known.get(&key).copied();
            let policy = match before.filter(|before| before.spec == **spec) {
                Some(before) => Arc::clone(before),
                None => Arc::new(Policy::new((object, spec), before.map(|it| &**it), epoch)),
            };
            for target in policy.targets() {
                services.entry(target).or_default().push(Arc::clone(&policy));
            }
            all.push(policy);
        }
        let root = &*snapshot.mesh().root_namespace;
        let root = if root.is_empty() { DEFAULT_ROOT } else { root }.into();
        Self { root, all, services }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those for all that a gateway or a waypoint takes in.
    pub fn of_gateway(&self, own: &Own) -> Vec<Arc<Policy>> {
        let is_for = |policy: &&Arc<Policy>| {
            let is_named = |name: &str| {
                policy.key.namespace == own.namespace
                    && (name == &*own.name || own.labels.get(GATEWAY_NAME).is_some_and(|own| own == name))
            };
            let mut targets = policy.spec.target_refs.iter();
            targets.any(|target| target.kind == "Gateway" && is_named(&target.name))
                || policy.selects(&own.namespace, &own.labels, &self.root)
        };
        self.all.iter().filter(is_for).cloned().collect()
    }

    /// Those for a service.
    pub fn of_service(&self, service: &Service) -> &[Arc<Policy>] {
        if self.services.is_empty() {
            return &[];
        }
        let name = service.entry.as_ref().map_or(&service.name, |entry| &entry.name);
        let target = Target {
            entry: service.entry.is_some(),
            namespace: Arc::clone(&service.namespace),
            name: Arc::clone(name),
        };
        self.services.get(&target).map(Vec::as_slice).unwrap_or_default()
    }

    /// Those of connections to a workload.
    pub fn of_workload(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Arc<Policy>> {
        let selects = |policy: &Policy| policy.selects(namespace, labels, &self.root);
        let is_for = |policy: &&Arc<Policy>| policy.connections.is_some() && selects(policy);
        self.all.iter().filter(is_for).cloned().collect()
    }
}

/// Whether any limit is for a service, or selects a workload: nothing may carry connections past whoever counts them.
pub fn concerns(snapshot: &Snapshot, service: Option<&Service>, workload: Option<&Workload>) -> bool {
    snapshot.configs_of("RateLimit").any(|config| {
        let object = config.object();
        let Spec::RateLimit(spec) = &object.spec else { return false };
        let name = |it: &Service| Arc::clone(it.entry.as_ref().map_or(&it.name, |entry| &entry.name));
        let own = service.filter(|it| it.namespace == object.meta.namespace).map(name);
        let targeted = own.is_some_and(|own| spec.target_refs.iter().any(|target| *target.name == *own));
        // That of another namespace may be the root's; who is left to the proxy for nothing loses nothing but time.
        let selects = |workload: &Workload| {
            let labels = spec.selector.as_ref().map(|selector| &selector.match_labels);
            labels.is_some_and(|it| it.iter().all(|(key, value)| workload.labels.get(key) == Some(value)))
        };
        targeted || workload.is_some_and(selects)
    })
}

impl Policy {
    fn new((object, spec): (&Object, &RateLimitSpec), before: Option<&Self>, epoch: Instant) -> Self {
        let known = |limit| before?.rules.iter().find(|rule| rule.is_of(limit)).cloned();
        let rules =
            spec.rules.iter().map(|limit| known(limit).unwrap_or_else(|| Arc::new(Rule::new(limit, epoch))));
        let connections = spec.connections.as_ref().map(|limit| {
            let same = before.and_then(|it| it.connections.as_ref()).filter(|rule| rule.is_of(limit));
            same.cloned().unwrap_or_else(|| Arc::new(ConnectionRule::new(limit, epoch)))
        });
        let global = spec.global.as_ref().map(|limit| Global::new(limit, &object.meta.namespace));
        let open = spec.open_connections.iter();
        let open = open.map(|limit| OpenRule::new(limit, before.map_or(&[], |it| &it.open)));
        Self {
            open: open.collect(),
            key: object.key(),
            rules: rules.collect(),
            connections,
            global: global.map(Arc::new),
            spec: spec.clone(),
        }
    }

    fn targets(&self) -> impl Iterator<Item = Target> {
        self.spec.target_refs.iter().filter_map(|target| {
            let entry = match target.kind.as_str() {
                "Service" => false,
                "ServiceEntry" => true,
                _ => return None,
            };
            let (namespace, name) = (Arc::clone(&self.key.namespace), target.name.as_str().into());
            Some(Target { entry, namespace, name })
        })
    }

    fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>, root: &str) -> bool {
        let here = *self.key.namespace == *namespace || *self.key.namespace == *root;
        let all = |selector: &crate::resource::security::WorkloadSelector| {
            selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        here && self.spec.selector.as_ref().is_some_and(all)
    }

    /// Whether it limits requests.
    pub fn limits_requests(&self) -> bool {
        !self.rules.is_empty() || self.global.is_some() || self.spec.request_body.is_some()
    }

    /// Whether it limits connections.
    pub fn limits_connections(&self) -> bool {
        self.connections.is_some()
    }
}

/// Whether a request may pass that these are for.
pub fn request(policies: &[Arc<Policy>], call: &Call<'_>, now: Instant) -> Outcome {
    let rules = policies.iter().flat_map(|policy| policy.rules.iter().map(move |rule| (policy, rule)));
    let matching = rules.filter(|(_, rule)| rule.matches(call));
    all(matching.map(|(policy, rule)| (policy, &*rule.name, &rule.counts, rule.counts.key_of(call))), now)
}

/// How long the body may be of a request that these are for: the shortest that any says, and buffered if any wants that.
pub fn body<'a>(policies: impl Iterator<Item = &'a Arc<Policy>>) -> Option<BodyLimit> {
    let limits = policies.filter_map(|policy| policy.spec.request_body.as_ref());
    limits.cloned().reduce(|one, other| BodyLimit {
        max_bytes: one.max_bytes.min(other.max_bytes),
        buffer: one.buffer || other.buffer,
    })
}

/// Takes a place for a connection in each count that these have; the places are free again when what comes back is
/// dropped.
///
/// # Errors
/// If one of the counts is full.
pub fn open(policies: &[Arc<Policy>], caller: &Caller<'_>) -> Result<Held, Full> {
    let mut held = Held::default();
    for policy in policies {
        for rule in &policy.open {
            rule.take(caller, &mut held).map_err(|max| Full::new(&policy.key, max))?;
        }
    }
    Ok(held)
}

/// What each connection may do that these are for: the least that any says.
pub fn each(policies: &[Arc<Policy>]) -> Each {
    let all = policies.iter().filter_map(|policy| policy.spec.each_connection.as_ref());
    all.fold(Each::default(), Each::and)
}

/// Who is to be asked besides about requests that these are for.
pub fn globals(policies: &[Arc<Policy>]) -> impl Iterator<Item = &Arc<Global>> {
    policies.iter().filter_map(|policy| policy.global.as_ref())
}

/// Whether a connection may be that these are for.
pub fn connection(policies: &[Arc<Policy>], caller: &Caller<'_>, now: Instant) -> Outcome {
    let rules = policies.iter().filter_map(|policy| Some((policy, policy.connections.as_ref()?)));
    all(rules.map(|(policy, rule)| (policy, "", &rule.counts, rule.counts.key_of_connection(caller))), now)
}

fn all<'a>(
    counts: impl Iterator<Item = (&'a Arc<Policy>, &'a str, &'a Counts, u64)>,
    now: Instant,
) -> Outcome {
    let (mut taken, mut nearest) = (Vec::new(), None::<Standing>);
    for (policy, rule, counts, key) in counts {
        match counts.take(key, now) {
            (place, Ok(standing)) => {
                taken.push((counts, key, place));
                if nearest.is_none_or(|nearest| standing.is_nearer(&nearest)) {
                    nearest = Some(standing);
                }
            }
            (_, Err(standing)) => {
                taken.iter().for_each(|(counts, key, place)| counts.give_back(*key, *place));
                let ObjectKey { namespace, name, .. } = &policy.key;
                let by = match rule {
                    "" => format!("{namespace}/{name}"),
                    rule => format!("{namespace}/{name}.{rule}"),
                };
                return Outcome::Over(Over { by, standing });
            }
        }
    }
    nearest.map_or(Outcome::Free, Outcome::Within)
}

impl Standing {
    /// Whether it is nearer to its end than another.
    fn is_nearer(&self, other: &Self) -> bool {
        (self.remaining, other.next) < (other.remaining, self.next)
    }

    /// [`Self::next`] in whole seconds as headers have it, rounded up: who waits so long does not come too early.
    pub fn next_seconds(&self) -> u64 {
        let whole = self.next.as_secs();
        if self.next > Duration::from_secs(whole) { whole + 1 } else { whole }
    }
}

impl std::fmt::Display for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Standing { limit, next, .. } = self.standing;
        write!(f, "RateLimit {} allows {limit} at once; the next in {} ms", self.by, next.as_millis())
    }
}

/// Who a connection is from.
impl<'a> Caller<'a> {
    /// With this proven identity, if any, and address.
    pub fn new(identity: Option<&'a crate::id::SpiffeId>, address: IpAddr) -> Self {
        Self { identity, address }
    }
}

/// Where `MeshConfig` says nothing.
const DEFAULT_ROOT: &str = "istio-system";
/// What the pods of a Gateway of Kubernetes have its name in.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

#[cfg(test)]
mod tests;
