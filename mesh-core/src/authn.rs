//! Who sent a request, as its token says: RequestAuthentication, and the claims that policies and routes ask for.
//!
//! A request without a token passes, as nobody's. Each token that it has, wherever a rule looks for one, must be accepted by a
//! rule that looks there; each rule is asked alone. Keys decide which algorithm a token may use, and without keys of its
//! issuer none is accepted: there is nothing to fall back to.
//!
//! Invariant: [`Claims`] of a request come from a token whose signature was checked, or from [`Cache`], which has only such.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::{HeaderMap, HeaderName};

pub use self::algorithm::Algorithm;
pub use self::cache::Cache;
pub use self::claims::Claims;
pub use self::key::{Curve, Key, KeySet, KeySetError, MAX_TEXT as MAX_KEY_SET, PublicKey};
pub use self::place::Place;
pub use self::provider::{Accepted, KEPT, Provider, SKEW, Verify};
pub use self::site::{Discovered, KeySite, PATIENCE, Url, Wanted, Wish, may_be_asked, places_of};
pub use self::token::{Invalid, MAX_TOKEN, Token};
use crate::model::{Service, Snapshot, Workload};
use crate::own::Own;
use crate::resource::security::WorkloadSelector;
use crate::resource::{ObjectKey, RequestAuthenticationSpec, Spec};
use crate::route::RequestView;
use crate::waypoint::{WAYPOINT_CLASS, targets};

mod algorithm;
mod cache;
mod claims;
mod json;
mod key;
mod place;
mod provider;
mod site;
mod token;

/// All `RequestAuthentications` of a configuration, and the tokens that were checked. Threads share it.
#[derive(Debug, Default)]
pub struct Authentication {
    /// The namespace whose resources are for all.
    root: Arc<str>,
    all: Vec<Rules>,
    /// By every rule that was compiled, how many there were.
    compiled: u64,
    cache: Arc<Cache>,
}

/// One RequestAuthentication.
#[derive(Debug, Clone)]
struct Rules {
    key: ObjectKey,
    selector: Option<WorkloadSelector>,
    /// Kind and name.
    targets: Vec<(Box<str>, Box<str>)>,
    providers: Vec<Arc<Provider>>,
}

/// The rules that are for a workload, a gateway or a service: those of all `RequestAuthentications` that are.
#[derive(Debug, Clone, Default)]
pub struct Providers {
    all: Vec<Arc<Provider>>,
    cache: Arc<Cache>,
}

/// What becomes of a request whose tokens, if it has any, are accepted.
#[derive(Debug, Default)]
pub struct Passed<'p> {
    /// What its first token says, in the order of rules; `None` without one.
    pub claims: Option<Arc<Claims>>,
    accepted: Vec<Arc<Accepted>>,
    /// Where tokens are that do not go on.
    removed: Vec<&'p Place>,
    providers: Option<&'p Providers>,
}

impl Authentication {
    /// Those of a configuration. What did not change since `before` keeps the tokens that it has checked.
    pub fn of(snapshot: &Snapshot, before: &Self) -> Self {
        let known: HashMap<&ObjectKey, &Rules> = before.all.iter().map(|it| (&it.key, it)).collect();
        let root = &*snapshot.mesh().root_namespace;
        let root = if root.is_empty() { DEFAULT_ROOT } else { root }.into();
        let mut this = Self { root, all: Vec::new(), compiled: before.compiled, cache: before.cache.clone() };
        for config in snapshot.configs_of("RequestAuthentication") {
            let object = config.object();
            let Spec::RequestAuthentication(spec) = &object.spec else { continue };
            let key = object.key();
            let before = known.get(&key).map(|it| it.providers.as_slice()).unwrap_or_default();
            let providers = this.compile(spec, before);
            let targets = targets(&object.spec);
            let targets = targets.map(|it| (it.kind.as_str().into(), it.name.as_str().into())).collect();
            this.all.push(Rules { key, selector: spec.selector.clone(), targets, providers });
        }
        this
    }

    fn compile(&mut self, spec: &RequestAuthenticationSpec, before: &[Arc<Provider>]) -> Vec<Arc<Provider>> {
        let known = |rule| before.iter().find(|provider| provider.is_of(rule)).cloned();
        let all = spec.jwt_rules.iter().map(|rule| {
            known(rule).unwrap_or_else(|| {
                self.compiled += 1;
                Arc::new(Provider::new(self.compiled, rule))
            })
        });
        all.collect()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those for a workload, which has no say in what names its target.
    pub fn of_workload(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Providers {
        self.providers(|rules| rules.selects(namespace, labels, &self.root))
    }

    /// Those for all that a gateway takes in, by its labels or by its name.
    pub fn of_gateway(&self, own: &Own) -> Providers {
        let named = own.labels.get(GATEWAY_NAME).map_or(&*own.name, |name| name.as_str());
        self.providers(|rules| {
            let is_own = rules.key.namespace == own.namespace;
            let is_named = |name: &str| is_own && (name == named || name == &*own.name);
            rules.selects(&own.namespace, &own.labels, &self.root)
                || rules.targets.iter().any(|(kind, name)| &**kind == "Gateway" && is_named(name))
        })
    }

    /// Those for what comes through a waypoint to a service, if it is one's. Waypoints do not ask selectors.
    pub fn of_waypoint(&self, (namespace, name): (&str, &str), service: Option<&Service>) -> Providers {
        self.providers(|rules| {
            let own = &*rules.key.namespace;
            rules.targets.iter().any(|(kind, target)| match &**kind {
                "Gateway" => own == namespace && **target == *name,
                "GatewayClass" => own == &*self.root && **target == *WAYPOINT_CLASS,
                kind => service.is_some_and(|service| {
                    let entry = service.entry.as_ref();
                    let wanted = if entry.is_some() { "ServiceEntry" } else { "Service" };
                    let known_as = entry.map_or(&service.name, |entry| &entry.name);
                    kind == wanted && own == &*service.namespace && **target == **known_as
                }),
            })
        })
    }

    fn providers(&self, are_for: impl Fn(&Rules) -> bool) -> Providers {
        let rules = self.all.iter().filter(|rules| are_for(rules));
        let all = rules.flat_map(|rules| rules.providers.iter().cloned()).collect();
        Providers { all, cache: Arc::clone(&self.cache) }
    }
}

/// Whether any RequestAuthentication is for a workload: nothing may carry connections past whoever asks for tokens.
pub fn concerns(snapshot: &Snapshot, workload: &Workload) -> bool {
    let root = &*snapshot.mesh().root_namespace;
    let root = if root.is_empty() { DEFAULT_ROOT } else { root };
    snapshot.configs_of("RequestAuthentication").any(|config| {
        let object = config.object();
        let Spec::RequestAuthentication(spec) = &object.spec else { return false };
        let here = object.meta.namespace == workload.namespace || &*object.meta.namespace == root;
        let is_targeted = targets(&object.spec).next().is_some();
        here && !is_targeted
            && !spec.jwt_rules.is_empty()
            && selects(spec.selector.as_ref(), &workload.labels)
    })
}

impl Rules {
    fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>, root: &str) -> bool {
        let here = *self.key.namespace == *namespace || *self.key.namespace == *root;
        here && self.targets.is_empty() && selects(self.selector.as_ref(), labels)
    }
}

/// Without a selector, everything is meant.
fn selects(selector: Option<&WorkloadSelector>, labels: &BTreeMap<String, String>) -> bool {
    selector.is_none_or(|it| it.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

impl Providers {
    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether these are the same rules, with the same keys: what one of them has accepted, the other does.
    pub fn are_same(&self, other: &Self) -> bool {
        self.all.len() == other.all.len()
            && self.all.iter().zip(&other.all).all(|(one, other)| one.id == other.id)
    }

    /// Decides about a request at a time in seconds since the Unix epoch.
    ///
    /// # Errors
    /// If it has a token that no rule accepts which looks where it is: why the last of them does not that is for its issuer.
    pub fn authenticate<'p>(
        &'p self,
        request: &RequestView<'_>,
        now: u64,
        verify: &dyn Verify,
    ) -> Result<Passed<'p>, Invalid> {
        let mut passed = Passed { providers: Some(self), ..Passed::default() };
        let mut seen: Vec<&Place> = Vec::new();
        let mut count = 0;
        for place in self.all.iter().flat_map(|provider| &provider.places) {
            if seen.contains(&place) {
                continue;
            }
            seen.push(place);
            for token in place.tokens(request) {
                count += 1;
                if count > MAX_TOKENS {
                    return Err(Invalid::TooMany);
                }
                let (provider, accepted) = self.check(place, &token, now, verify)?;
                if !provider.forwards() && !passed.removed.contains(&place) {
                    passed.removed.push(place);
                }
                passed.claims.get_or_insert_with(|| Arc::clone(&accepted.claims));
                passed.accepted.push(accepted);
            }
        }
        Ok(passed)
    }

    fn check(
        &self,
        place: &Place,
        text: &str,
        now: u64,
        verify: &dyn Verify,
    ) -> Result<(&Arc<Provider>, Arc<Accepted>), Invalid> {
        let asked = || self.all.iter().filter(|provider| provider.places.contains(place));
        let known = asked().find_map(|provider| Some((provider, self.cache.find(provider.id, text, now)?)));
        if let Some(known) = known {
            return Ok(known);
        }
        let token = Token::parse(text)?;
        let mut why = Invalid::Issuer;
        for provider in asked() {
            match provider.check(&token, now, verify) {
                Ok((accepted, until)) => {
                    let accepted = Arc::new(accepted);
                    self.cache.keep(provider.id, text, &accepted, until);
                    return Ok((provider, accepted));
                }
                Err(Invalid::Issuer) => {}
                Err(other) => why = other,
            }
        }
        Err(why)
    }
}

impl Passed<'_> {
    /// Makes the headers what the workload is to see: tokens that are not for it go, and what it is told of them stands there
    /// alone, whatever the client said in the same words.
    pub fn apply(&self, headers: &mut HeaderMap) {
        self.removed.iter().for_each(|place| place.remove_from(headers));
        let outputs: Vec<_> = self.outputs().collect();
        // Many servers take `_` and `-` for the same.
        let forged = headers.keys().filter(|name| outputs.iter().any(|own| is_taken_for(name, own)));
        let forged: Vec<_> = forged.cloned().collect();
        forged.iter().for_each(|name| _ = headers.remove(name));
        for (name, value) in self.accepted.iter().flat_map(|accepted| &accepted.headers) {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// The query as the workload is to see it, if that is not the one it was.
    pub fn query(&self, query: &str) -> Option<String> {
        self.removed.iter().fold(None, |rest: Option<String>, place| {
            place.remove_from_query(rest.as_deref().unwrap_or(query)).or(rest)
        })
    }

    fn outputs(&self) -> impl Iterator<Item = &HeaderName> {
        self.providers.iter().flat_map(|it| &it.all).flat_map(|provider| provider.outputs())
    }
}

fn is_taken_for(name: &HeaderName, own: &HeaderName) -> bool {
    let same = |a: u8, b: u8| a == b || matches!((a, b), (b'-', b'_') | (b'_', b'-'));
    let (name, own) = (name.as_str(), own.as_str());
    name.len() == own.len() && name.bytes().zip(own.bytes()).all(|(a, b)| same(a, b))
}

/// Where `MeshConfig` says nothing.
const DEFAULT_ROOT: &str = "istio-system";
/// What the pods of a Gateway of Kubernetes have its name in.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Tokens of one request. Each may cost a signature.
const MAX_TOKENS: usize = 8;

#[cfg(test)]
mod tests;
