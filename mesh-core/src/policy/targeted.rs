//! Policies in force at waypoints and gateways: those that name what they are for, and, at gateways, those that select them
//! as they would any workload.

use std::sync::Arc;

use super::compile::{TrustDomains, targeted};
use super::effective::Effective;
use super::explain::{Explained, explain};
use super::rule::{Effect, Policy, Scope};
use super::{Decision, DeniedBy, EVERYWHERE, Notes, Question};
use crate::model::{Report, Service, Snapshot};
use crate::own::Own;
use crate::resource::Spec;
use crate::resource::security::PolicyTargetReference;
use crate::waypoint::{WAYPOINT_CLASS, targets};

/// The policies that one waypoint or gateway enforces, as one version of the configuration has them.
#[derive(Debug, Default)]
pub struct Targeted {
    /// With what each is for here.
    policies: Vec<(Vec<Aim>, Arc<Policy>)>,
}

/// Those of them that are for what one connection is to. The default is that of a configuration that was not received yet,
/// which lets nothing through.
#[derive(Debug, Default)]
pub struct Gate(Option<Effective>);

/// What a policy is for, as far as that is this waypoint's business.
#[derive(Debug, PartialEq, Eq)]
enum Aim {
    /// Everything that comes through.
    Everything,
    /// A service of Kubernetes.
    Service { namespace: Arc<str>, name: Arc<str> },
    /// The hosts of a ServiceEntry.
    Entry { namespace: Arc<str>, name: Arc<str> },
}

impl Targeted {
    /// Those for the waypoint `name` of `namespace`.
    pub fn of(snapshot: &Snapshot, (namespace, name): (&str, &str)) -> Self {
        let root = root_of(snapshot);
        let aim = |own: &Arc<str>, target: &PolicyTargetReference| match &*target.kind {
            "Gateway" => (**own == *namespace && *target.name == *name).then_some(Aim::Everything),
            "GatewayClass" => (**own == *root && *target.name == *WAYPOINT_CLASS).then_some(Aim::Everything),
            "Service" => Some(Aim::Service { namespace: own.clone(), name: target.name.as_str().into() }),
            "ServiceEntry" => Some(Aim::Entry { namespace: own.clone(), name: target.name.as_str().into() }),
            _ => None,
        };
        Self { policies: aimed(snapshot, aim) }
    }

    /// Those for a gateway: of its namespace and of the root namespace, with a selector for its labels or without one, and
    /// those that name a Gateway of Kubernetes that it is.
    pub fn of_gateway(snapshot: &Snapshot, own: &Own) -> Self {
        let is_own = |name: &str| {
            *name == *own.name || own.labels.get(GATEWAY_NAME).is_some_and(|gateway| gateway == name)
        };
        let aim = |namespace: &Arc<str>, target: &PolicyTargetReference| {
            let named = *target.kind == *"Gateway" && *namespace == own.namespace && is_own(&target.name);
            named.then_some(Aim::Everything)
        };
        let (root, all) = (root_of(snapshot), snapshot.policies());
        let listed = all.by_key.values().filter(|policy| {
            let namespace = &*policy.name.namespace;
            let selects = |(key, value): (&String, &String)| own.labels.get(key) == Some(value);
            let selected = policy.selector.as_ref().is_some_and(|labels| labels.iter().all(selects));
            policy.scope == Scope::Listed && selected && (*namespace == *own.namespace || *namespace == *root)
        });
        let scoped = [EVERYWHERE, &own.namespace].into_iter().filter_map(|scope| all.scoped.get(scope));
        let scoped = scoped.flat_map(rpds::RedBlackTreeMapSync::values);
        // Who may speak plainly to a gateway, its listeners say.
        let selected = listed.chain(scoped).filter(|policy| policy.effect != Effect::MutualTls);
        let selected = selected.map(|policy| (vec![Aim::Everything], Arc::clone(policy)));
        Self { policies: aimed(snapshot, aim).into_iter().chain(selected).collect() }
    }

    /// Whether there is nothing to decide.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Those for what goes to `service`, if it goes to one.
    pub fn gate(&self, service: Option<&Service>) -> Gate {
        let concerns = |aim: &Aim| match (aim, service) {
            (Aim::Everything, _) => true,
            (Aim::Service { namespace, name }, Some(service)) => {
                service.entry.is_none() && service.namespace == *namespace && service.name == *name
            }
            (Aim::Entry { namespace, name }, Some(service)) => {
                let own = service.entry.as_ref().is_some_and(|entry| entry.name == *name);
                own && service.namespace == *namespace
            }
            (_, None) => false,
        };
        let own = self.policies.iter().filter(|(aims, _)| aims.iter().any(concerns));
        let mut own: Vec<_> = own.map(|(_, policy)| policy).collect();
        own.sort_by(|a, b| (a.effect, &a.name).cmp(&(b.effect, &b.name)));
        Gate(Some(Effective::of(&own)))
    }
}

impl Gate {
    /// Decides about a connection that comes through, as far as it was looked into, or about one of its requests.
    /// [`super::Connection::destination`] is what the client asked for: of a service its address and port.
    pub fn decide(&self, question: &Question<'_>) -> Decision<Notes> {
        match &self.0 {
            Some(effective) => effective.decide(&question.attributes(), question.approved),
            None => DeniedBy::NotLoaded.into(),
        }
    }

    /// What each policy says of it, in the order in which they are asked; nothing before there is a configuration.
    pub fn explain(&self, question: &Question<'_>) -> Vec<Explained> {
        self.0.as_ref().map(|effective| explain(effective, question)).unwrap_or_default()
    }

    /// Whether there is nothing to decide.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_some_and(Effective::is_empty)
    }
}

/// Policies with targets that `aim` finds something at.
fn aimed(
    snapshot: &Snapshot,
    aim: impl Fn(&Arc<str>, &PolicyTargetReference) -> Option<Aim>,
) -> Vec<(Vec<Aim>, Arc<Policy>)> {
    let domains = TrustDomains { own: snapshot.trust_domain(), aliases: snapshot.trust_domain_aliases() };
    let policies = snapshot.configs().filter_map(|config| {
        let object = config.object();
        let Spec::AuthorizationPolicy(spec) = &object.spec else { return None };
        let aims: Vec<_> =
            targets(&object.spec).filter_map(|target| aim(&object.meta.namespace, target)).collect();
        if aims.is_empty() {
            return None;
        }
        Some((aims, Arc::new(targeted(object, spec, domains, &mut Report::default()))))
    });
    policies.collect()
}

fn root_of(snapshot: &Snapshot) -> &str {
    let root = &*snapshot.mesh().root_namespace;
    if root.is_empty() { DEFAULT_ROOT } else { root }
}

/// The label of the pods that a Gateway of Kubernetes consists of.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Where `MeshConfig` says nothing.
const DEFAULT_ROOT: &str = "istio-system";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SpiffeId;
    use crate::model::{CompileOptions, compile};
    use crate::policy::{Connection, Seen};
    use crate::resource::{SourceFile, parse};

    fn snapshot(policies: &[(&str, &str, &str)]) -> Snapshot {
        let mut text = String::from(
            "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.0.0.1, \
             ports: [{port: 80}]}}\n---\n\
             {apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: db, namespace: shop}, spec: \
             {hosts: [db.example], addresses: [10.0.0.2], resolution: STATIC, ports: [{name: tcp, number: 80}]}}\n",
        );
        let policy = |(index, (namespace, target, spec)): (usize, &(&str, &str, &str))| {
            format!(
                "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p{index}, \
                 namespace: {namespace}}}, spec: {{targetRefs: [{target}], {spec}}}}}\n"
            )
        };
        text.extend(policies.iter().enumerate().map(policy));
        let parsed = parse(&SourceFile { name: "t.yaml", text: &text });
        assert!(parsed.rejected.is_empty(), "{:?}", parsed.findings);
        compile(&parsed.objects, &CompileOptions::default()).snapshot
    }

    /// Whether `account` of `shop` comes through to the Service, to the ServiceEntry and to a workload.
    fn passes(policies: &[(&str, &str, &str)], account: &str) -> [bool; 3] {
        let snapshot = snapshot(policies);
        let targeted = Targeted::of(&snapshot, ("shop", "way"));
        let peer = SpiffeId::new(snapshot.trust_domain(), "shop", account).unwrap();
        let service = |ip: &str| {
            let service = snapshot.services().find(|it| it.vips.contains(&ip.parse().unwrap()));
            Some(Arc::clone(service.unwrap()))
        };
        let to = [(service("10.0.0.1"), "10.0.0.1:80"), (service("10.0.0.2"), "10.0.0.2:80")];
        let to = to.into_iter().chain([(None, "10.1.0.1:80")]);
        let passes = to.map(|(service, destination)| {
            let connection = Connection {
                peer: Some(&peer),
                source_ip: "10.1.0.9".parse().unwrap(),
                destination: destination.parse().unwrap(),
                encrypted: true,
            };
            let question = Question { connection: &connection, seen: Seen::Unread, approved: &[] };
            targeted.gate(service.as_deref()).decide(&question).strict().is_ok()
        });
        passes.collect::<Vec<_>>().try_into().unwrap()
    }

    #[test]
    fn a_policy_is_in_force_for_its_targets_and_for_nothing_else() {
        let from =
            |account: &str| format!("rules: [{{from: [{{source: {{principals: [\"*/sa/{account}\"]}}}}]}}]");
        let web = "{kind: Service, name: web}";
        let db = "{group: networking.istio.io, kind: ServiceEntry, name: db}";
        let way = "{group: gateway.networking.k8s.io, kind: Gateway, name: way}";
        let other = "{group: gateway.networking.k8s.io, kind: Gateway, name: other}";
        let class = "{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}";
        let allow = |account: &str| from(account);
        let deny = |account: &str| format!("action: DENY, {}", from(account));
        for (policies, ann, bob) in [
            (vec![], [true; 3], [true; 3]),
            (vec![("shop", web, allow("ann"))], [true; 3], [false, true, true]),
            (vec![("shop", db, allow("ann"))], [true; 3], [true, false, true]),
            (vec![("shop", way, allow("ann"))], [true; 3], [false; 3]),
            (vec![("shop", other, allow("ann"))], [true; 3], [true; 3]),
            (vec![("elsewhere", web, allow("ann"))], [true; 3], [true; 3]),
            (vec![("istio-system", class, allow("ann"))], [true; 3], [false; 3]),
            (vec![("shop", way, deny("ann"))], [false; 3], [true; 3]),
            (vec![("shop", way, allow("ann")), ("shop", web, deny("ann"))], [false, true, true], [false; 3]),
            (vec![("shop", way, allow("ann")), ("shop", web, allow("bob"))], [true; 3], [true, false, false]),
            // What nothing here can look at allows nobody.
            (
                vec![("shop", web, "rules: [{to: [{operation: {methods: [GET]}}]}]".to_owned())],
                [false, true, true],
                [false, true, true],
            ),
        ] {
            let policies: Vec<_> = policies.iter().map(|(of, to, spec)| (*of, *to, spec.as_str())).collect();
            assert_eq!(passes(&policies, "ann"), ann, "{policies:?}");
            assert_eq!(passes(&policies, "bob"), bob, "{policies:?}");
        }
    }
}
