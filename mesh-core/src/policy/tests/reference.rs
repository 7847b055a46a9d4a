//! A second evaluator, written straight from the resources and their documentation, slow and without any of the
//! compiled forms. Property tests compare the two.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::policy::{Connection, DeniedBy};
use crate::resource::security::{
    Action, AuthorizationPolicySpec, Condition, MutualTlsMode, Operation, PeerAuthenticationSpec, Rule,
    Source,
};
use crate::resource::{Object, Spec};

/// What the evaluator knows of the mesh and of the workload that is connected to.
pub(super) struct Reference<'a> {
    pub(super) objects: &'a [Object],
    pub(super) root: &'a str,
    /// The trust domain and its aliases.
    pub(super) domains: &'a [&'a str],
    pub(super) namespace: &'a str,
    pub(super) labels: &'a BTreeMap<String, String>,
}

/// The outcome, with every answer that the engine may give for it.
#[derive(Debug)]
pub(super) enum Outcome {
    Allowed {
        would_be_denied: bool,
    },
    MutualTls(String),
    /// `namespace/name` and rule.
    Policy(Vec<(String, usize)>),
    NoAllowMatched(usize),
}

impl Outcome {
    pub(super) fn agrees(&self, answer: Result<bool, &DeniedBy>) -> bool {
        match (self, answer) {
            (Self::Allowed { would_be_denied }, Ok(noted)) => *would_be_denied == noted,
            (Self::MutualTls(name), Err(DeniedBy::MutualTls { policy })) => *name == policy.to_string(),
            (Self::Policy(matches), Err(DeniedBy::Policy { policy, rule })) => {
                matches.contains(&(policy.to_string(), *rule))
            }
            (Self::NoAllowMatched(count), Err(DeniedBy::NoAllowMatched { applied })) => count == applied,
            _ => false,
        }
    }
}

impl Reference<'_> {
    pub(super) fn decide(&self, c: &Connection<'_>) -> Outcome {
        if c.peer.is_none()
            && let Some(name) = self.strict(c.destination.port())
        {
            return Outcome::MutualTls(name);
        }
        let mut denies = Vec::new();
        let (mut allows, mut allowed) = (0, false);
        let (mut dry_denied, mut dry_allows, mut dry_allowed) = (false, 0, false);
        for (object, spec) in self.applicable() {
            let dry = object.meta.annotations.get("istio.io/dry-run").is_some_and(|value| value == "true");
            let hits: Vec<_> = (0..spec.rules.len())
                .filter(|index| self.rule(&spec.rules[*index], spec.action, &object.meta.namespace, c))
                .map(|index| (name(object), index))
                .collect();
            match (spec.action, dry) {
                (Action::Deny, true) => dry_denied |= !hits.is_empty(),
                (Action::Deny | Action::Custom, _) => denies.extend(hits),
                (Action::Allow, true) => {
                    (dry_allows, dry_allowed) = (dry_allows + 1, dry_allowed | !hits.is_empty());
                }
                (Action::Allow, false) => {
                    (allows, allowed) = (allows + 1, allowed | !hits.is_empty());
                }
                (Action::Audit, _) => {}
            }
        }
        if !denies.is_empty() {
            return Outcome::Policy(denies);
        }
        if allows > 0 && !allowed {
            return Outcome::NoAllowMatched(allows);
        }
        let all_allows = allows + dry_allows;
        Outcome::Allowed { would_be_denied: dry_denied || (all_allows > 0 && !allowed && !dry_allowed) }
    }

    fn applicable(&self) -> impl Iterator<Item = (&Object, &AuthorizationPolicySpec)> {
        self.objects.iter().filter_map(|object| {
            let Spec::AuthorizationPolicy(spec) = &object.spec else { return None };
            let here = *object.meta.namespace == *self.namespace || *object.meta.namespace == *self.root;
            let labels = spec.selector.as_ref().map(|selector| &selector.match_labels);
            let attached = spec.target_ref.is_some() || !spec.target_refs.is_empty();
            (here && self.selects(labels) && !attached).then_some((object, spec))
        })
    }

    fn selects(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        labels.is_none_or(|labels| labels.iter().all(|(key, value)| self.labels.get(key) == Some(value)))
    }

    /// The name of the policy that refuses plaintext.
    fn strict(&self, port: u16) -> Option<String> {
        let oldest = |level: &dyn Fn(&Object, &PeerAuthenticationSpec) -> bool| {
            let policies = self.objects.iter().filter_map(|object| match &object.spec {
                Spec::PeerAuthentication(spec) if level(object, spec) => Some((object, spec)),
                _ => None,
            });
            policies.min_by_key(|(object, _)| (object.meta.creation_timestamp, name(object)))
        };
        let unselective =
            |spec: &PeerAuthenticationSpec| spec.selector.as_ref().is_none_or(|s| s.match_labels.is_empty());
        let mesh = oldest(&|o, spec| *o.meta.namespace == *self.root && unselective(spec));
        let namespace = oldest(&|o, spec| {
            *o.meta.namespace == *self.namespace && *o.meta.namespace != *self.root && unselective(spec)
        });
        let own = oldest(&|o, spec| {
            *o.meta.namespace == *self.namespace
                && *o.meta.namespace != *self.root
                && !unselective(spec)
                && self.selects(spec.selector.as_ref().map(|s| &s.match_labels))
        });
        let port_mode = own.and_then(|(object, spec)| Some((object, spec.port_level_mtls.get(&port)?.mode)));
        let modes = [own, namespace, mesh].into_iter().flatten();
        let modes = modes.map(|(object, spec)| (object, spec.mtls.unwrap_or_default().mode));
        let (object, mode) =
            port_mode.into_iter().chain(modes).find(|(_, mode)| *mode != MutualTlsMode::Unset)?;
        // One that sets ports speaks for its workload on all ports.
        let sets_ports = |spec: &PeerAuthenticationSpec| {
            spec.port_level_mtls.values().any(|mtls| mtls.mode != MutualTlsMode::Unset)
        };
        let speaker = own.filter(|(_, spec)| sets_ports(spec)).map_or(object, |(own, _)| own);
        (mode == MutualTlsMode::Strict).then(|| name(speaker))
    }

    fn rule(&self, rule: &Rule, action: Action, namespace: &str, c: &Connection<'_>) -> bool {
        let complete =
            rule.from.iter().all(|from| layer_7_of_source(&from.source).iter().all(|list| list.is_empty()))
                && rule
                    .to
                    .iter()
                    .all(|to| layer_7_of_operation(&to.operation).iter().all(|list| list.is_empty()))
                && rule.when.iter().all(|when| KNOWN.contains(&when.key.as_str()));
        if action == Action::Allow && !complete {
            return false;
        }
        let from =
            rule.from.is_empty() || rule.from.iter().any(|from| self.source(&from.source, namespace, c));
        let to = rule.to.is_empty() || rule.to.iter().any(|to| operation(&to.operation, c));
        from && to && rule.when.iter().all(|when| self.condition(when, namespace, c))
    }

    fn source(&self, s: &Source, policy_namespace: &str, c: &Connection<'_>) -> bool {
        let principal = |pattern: &String| self.principal(pattern, c);
        let namespace = |pattern: &String| c.peer.is_some_and(|peer| text(pattern, peer.namespace()));
        let domain =
            |pattern: &String| c.peer.is_some_and(|peer| text(pattern, peer.trust_domain().as_str()));
        let account = |pattern: &String| is_account(pattern, policy_namespace, c);
        let block = |pattern: &String| in_block(pattern, c.source_ip);
        one(&s.principals, principal)
            && none(&s.not_principals, principal)
            && one(&s.namespaces, namespace)
            && none(&s.not_namespaces, namespace)
            && one(&s.trust_domains, domain)
            && none(&s.not_trust_domains, domain)
            && one(&s.service_accounts, account)
            && none(&s.not_service_accounts, account)
            && one(&s.ip_blocks, block)
            && none(&s.not_ip_blocks, block)
    }

    fn condition(&self, when: &Condition, policy_namespace: &str, c: &Connection<'_>) -> bool {
        let holds = |value: &String| match when.key.as_str() {
            "source.ip" => in_block(value, c.source_ip),
            "source.namespace" => c.peer.is_some_and(|peer| text(value, peer.namespace())),
            "source.principal" => self.principal(value, c),
            "source.serviceAccount" => is_account(value, policy_namespace, c),
            "source.trustDomain" => c.peer.is_some_and(|peer| text(value, peer.trust_domain().as_str())),
            "destination.ip" => in_block(value, c.destination.ip()),
            _ => *value == c.destination.port().to_string(),
        };
        // The only rules that get here with other keys are those that deny.
        !KNOWN.contains(&when.key.as_str()) || (one(&when.values, holds) && none(&when.not_values, holds))
    }

    /// An identity of any of the mesh's trust domains may be meant by the name of any other one.
    fn principal(&self, pattern: &str, c: &Connection<'_>) -> bool {
        let Some(peer) = c.peer else { return false };
        let (own, rest) = peer.principal().split_once('/').unwrap();
        let Some((domain, _)) = pattern.split_once('/') else {
            return text(pattern, peer.principal());
        };
        if !self.domains.contains(&own) {
            // For a foreign peer, `cluster.local` and the mesh's own names are those of somebody else.
            return domain != "cluster.local" && text(pattern, peer.principal());
        }
        let mut names = self.domains.to_vec();
        if domain == "cluster.local" {
            names.push("cluster.local");
        }
        names.iter().any(|name| text(pattern, &format!("{name}/{rest}")))
    }
}

fn operation(o: &Operation, c: &Connection<'_>) -> bool {
    let port = |value: &String| *value == c.destination.port().to_string();
    one(&o.ports, port) && none(&o.not_ports, port)
}

fn layer_7_of_source(s: &Source) -> [&Vec<String>; 4] {
    [&s.request_principals, &s.not_request_principals, &s.remote_ip_blocks, &s.not_remote_ip_blocks]
}

fn layer_7_of_operation(o: &Operation) -> [&Vec<String>; 6] {
    [&o.hosts, &o.not_hosts, &o.methods, &o.not_methods, &o.paths, &o.not_paths]
}

fn one(values: &[String], holds: impl Fn(&String) -> bool) -> bool {
    values.is_empty() || values.iter().any(holds)
}

fn none(values: &[String], holds: impl Fn(&String) -> bool) -> bool {
    !values.iter().any(holds)
}

fn text(pattern: &str, value: &str) -> bool {
    match (pattern.starts_with('*'), pattern.ends_with('*')) {
        _ if pattern == "*" => !value.is_empty(),
        (true, _) => value.ends_with(&pattern[1..]),
        (false, true) => value.starts_with(&pattern[..pattern.len() - 1]),
        (false, false) => value == pattern,
    }
}

fn is_account(pattern: &str, policy_namespace: &str, c: &Connection<'_>) -> bool {
    let full =
        if pattern.contains('/') { pattern.to_owned() } else { format!("{policy_namespace}/{pattern}") };
    c.peer.is_some_and(|peer| format!("{}/{}", peer.namespace(), peer.service_account()) == full)
}

/// Bit by bit, in the IPv6 form of everything.
fn in_block(block: &str, ip: IpAddr) -> bool {
    let (address, length) = match block.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u32>().unwrap())),
        None => (block, None),
    };
    let address: IpAddr = address.parse().unwrap();
    let length = match (address, length) {
        (_, None) => 128,
        (IpAddr::V4(_), Some(length)) => length + 96,
        (IpAddr::V6(_), Some(length)) => length,
    };
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let is_v4 = |ip: IpAddr| bits(ip) >> 32 == 0xffff;
    // A block wider than all of IPv4 is about IPv6.
    if is_v4(ip) && (length < 96 || !is_v4(address)) {
        return false;
    }
    let same = (bits(address) ^ bits(ip)).leading_zeros();
    same >= length
}

fn name(object: &Object) -> String {
    format!("{}/{}", object.meta.namespace, object.meta.name)
}

const KNOWN: &[&str] = &[
    "source.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "destination.ip",
    "destination.port",
];
