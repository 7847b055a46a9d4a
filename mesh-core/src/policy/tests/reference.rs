//! A second evaluator, written straight from the resources and their documentation, slow and without any of the
//! compiled forms. Property tests compare the two.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::HeaderMap;
use serde_json::Value;

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

/// A request, written down as plainly as possible.
#[derive(Debug, Clone)]
pub(super) struct Plain {
    pub(super) method: String,
    pub(super) authority: Option<String>,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) remote_ip: IpAddr,
    pub(super) server_name: Option<String>,
    /// The payload of its token.
    pub(super) token: Option<Value>,
}

/// What a connection carries.
#[derive(Debug, Clone, Copy)]
pub(super) enum Carried<'a> {
    /// Nobody knows.
    Unread,
    /// No request, and TLS that asks for this name.
    Bytes(Option<&'a str>),
    Request(&'a Plain),
}

/// The outcome, with every answer that the engine may give for it.
#[derive(Debug)]
pub(super) enum Outcome {
    Allowed {
        would_be_denied: bool,
        audited: bool,
    },
    MutualTls(String),
    /// `namespace/name` and rule.
    Policy(Vec<(String, usize)>),
    NoAllowMatched(usize),
}

impl Outcome {
    /// `answer` is whether something would be denied, and whether it was noted; or why it is denied.
    pub(super) fn agrees(&self, answer: Result<(bool, bool), &DeniedBy>) -> bool {
        match (self, answer) {
            (Self::Allowed { would_be_denied, audited }, Ok(noted)) => (*would_be_denied, *audited) == noted,
            (Self::MutualTls(name), Err(DeniedBy::MutualTls { policy })) => *name == policy.to_string(),
            (Self::Policy(matches), Err(DeniedBy::Policy { policy, rule })) => {
                matches.contains(&(policy.to_string(), *rule))
            }
            (Self::NoAllowMatched(count), Err(DeniedBy::NoAllowMatched { applied, .. })) => count == applied,
            _ => false,
        }
    }
}

impl Reference<'_> {
    /// `asked` are the external authorizers that have said yes.
    pub(super) fn decide(&self, c: &Connection<'_>, carried: Carried<'_>, asked: &[&str]) -> Outcome {
        if c.peer.is_none()
            && let Some(name) = self.strict(c.destination.port())
        {
            return Outcome::MutualTls(name);
        }
        let (mut customs, mut denies, mut audited) = (Vec::new(), Vec::new(), false);
        let (mut allows, mut allowed) = (0, false);
        let (mut dry_denied, mut dry_allows, mut dry_allowed) = (false, 0, false);
        for (object, spec) in self.applicable() {
            let dry = object.meta.annotations.get("istio.io/dry-run").is_some_and(|value| value == "true");
            let hits: Vec<_> = (0..spec.rules.len())
                .filter(|index| {
                    let about = About { action: spec.action, namespace: &object.meta.namespace, carried };
                    self.rule(&spec.rules[*index], about, c)
                })
                .map(|index| (name(object), index))
                .collect();
            match (spec.action, dry) {
                (Action::Deny, true) => dry_denied |= !hits.is_empty(),
                (Action::Deny, false) => denies.extend(hits),
                (Action::Custom, _) => {
                    let provider = spec.provider.as_ref().map_or("", |provider| &provider.name);
                    if !asked.contains(&provider) {
                        customs.extend(hits);
                    }
                }
                (Action::Allow, true) => {
                    (dry_allows, dry_allowed) = (dry_allows + 1, dry_allowed | !hits.is_empty());
                }
                (Action::Allow, false) => {
                    (allows, allowed) = (allows + 1, allowed | !hits.is_empty());
                }
                (Action::Audit, _) => audited |= !hits.is_empty(),
            }
        }
        if let Some(hits) = [customs, denies].into_iter().find(|hits| !hits.is_empty()) {
            return Outcome::Policy(hits);
        }
        if allows > 0 && !allowed {
            return Outcome::NoAllowMatched(allows);
        }
        let all_allows = allows + dry_allows;
        let would_be_denied = dry_denied || (all_allows > 0 && !allowed && !dry_allowed);
        Outcome::Allowed { would_be_denied, audited }
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

    fn rule(&self, rule: &Rule, about: About<'_>, c: &Connection<'_>) -> bool {
        let can_be_known = |key: &str| match about.carried {
            Carried::Unread => CONNECTION.contains(&key),
            Carried::Bytes(_) => CONNECTION.contains(&key) || key == "connection.sni",
            Carried::Request(_) => true,
        };
        let is_request = matches!(about.carried, Carried::Request(_));
        let source = |from: &Source| layer_7_of_source(from).iter().all(|list| list.is_empty());
        let operation = |to: &Operation| layer_7_of_operation(to).iter().all(|list| list.is_empty());
        let complete = (is_request
            || rule.from.iter().all(|from| source(&from.source))
                && rule.to.iter().all(|to| operation(&to.operation)))
            && rule.when.iter().all(|when| can_be_known(&when.key))
            && rule.when.iter().all(|when| !when.key.starts_with("experimental."));
        if about.action == Action::Allow && !complete {
            return false;
        }
        let from = rule.from.is_empty() || rule.from.iter().any(|from| self.source(&from.source, about, c));
        let to = rule.to.is_empty() || rule.to.iter().any(|to| self::operation(&to.operation, about, c));
        from && to && rule.when.iter().all(|when| !can_be_known(&when.key) || self.condition(when, about, c))
    }

    fn source(&self, s: &Source, about: About<'_>, c: &Connection<'_>) -> bool {
        let principal = |pattern: &String| self.principal(pattern, c);
        let namespace = |pattern: &String| c.peer.is_some_and(|peer| text(pattern, peer.namespace()));
        let domain =
            |pattern: &String| c.peer.is_some_and(|peer| text(pattern, peer.trust_domain().as_str()));
        let account = |pattern: &String| is_account(pattern, about.namespace, c);
        let block = |pattern: &String| in_block(pattern, c.source_ip);
        let of_connection = one(&s.principals, principal)
            && none(&s.not_principals, principal)
            && one(&s.namespaces, namespace)
            && none(&s.not_namespaces, namespace)
            && one(&s.trust_domains, domain)
            && none(&s.not_trust_domains, domain)
            && one(&s.service_accounts, account)
            && none(&s.not_service_accounts, account)
            && one(&s.ip_blocks, block)
            && none(&s.not_ip_blocks, block);
        let Carried::Request(request) = about.carried else { return of_connection };
        let token = |pattern: &String| request.subject().is_some_and(|subject| text(pattern, &subject));
        let remote = |pattern: &String| in_block(pattern, request.remote_ip);
        of_connection
            && one(&s.request_principals, token)
            && none(&s.not_request_principals, token)
            && one(&s.remote_ip_blocks, remote)
            && none(&s.not_remote_ip_blocks, remote)
    }

    fn condition(&self, when: &Condition, about: About<'_>, c: &Connection<'_>) -> bool {
        let key = when.key.as_str();
        if let (Some(name), Carried::Request(request)) =
            (key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']')), about.carried)
        {
            return header(name, &request.headers, when, about.action);
        }
        let holds = |value: &String| match key {
            "source.ip" => in_block(value, c.source_ip),
            "source.namespace" => c.peer.is_some_and(|peer| text(value, peer.namespace())),
            "source.principal" => self.principal(value, c),
            "source.serviceAccount" => is_account(value, about.namespace, c),
            "source.trustDomain" => c.peer.is_some_and(|peer| text(value, peer.trust_domain().as_str())),
            "destination.ip" => in_block(value, c.destination.ip()),
            "destination.port" => *value == c.destination.port().to_string(),
            "connection.sni" => match about.carried {
                Carried::Bytes(name) => name.is_some_and(|name| text(&value.to_lowercase(), name)),
                Carried::Request(request) => {
                    request.server_name.as_ref().is_some_and(|name| text(&value.to_lowercase(), name))
                }
                Carried::Unread => unreachable!(),
            },
            _ => {
                let Carried::Request(request) = about.carried else { unreachable!() };
                request.holds(key, value)
            }
        };
        // Those of Envoy's filters are left out of what denies.
        key.starts_with("experimental.") || one(&when.values, holds) && none(&when.not_values, holds)
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

/// Whose rule it is, and what it is asked about.
#[derive(Clone, Copy)]
struct About<'a> {
    action: Action,
    namespace: &'a str,
    carried: Carried<'a>,
}

impl Plain {
    fn claim(&self, names: &[&str]) -> Vec<String> {
        let mut value = self.token.as_ref();
        for name in names {
            value = value.and_then(|value| value.get(name));
        }
        let scalar = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        };
        match value {
            Some(Value::Array(all)) => all.iter().filter_map(scalar).collect(),
            Some(Value::String(words)) if names == ["scope"] => words.split(' ').map(str::to_owned).collect(),
            Some(value) => scalar(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    fn subject(&self) -> Option<String> {
        let (issuer, subject) = (self.claim(&["iss"]).pop()?, self.claim(&["sub"]).pop()?);
        Some(format!("{issuer}/{subject}"))
    }

    fn holds(&self, key: &str, value: &str) -> bool {
        let any = |texts: Vec<String>| texts.iter().any(|own| text(value, own));
        match key {
            "remote.ip" => in_block(value, self.remote_ip),
            "request.auth.principal" => any(self.subject().into_iter().collect()),
            "request.auth.audiences" => any(self.claim(&["aud"])),
            "request.auth.presenter" => any(self.claim(&["azp"])),
            _ => {
                let names = key.trim_start_matches("request.auth.claims[").trim_end_matches(']');
                any(self.claim(&names.split("][").collect::<Vec<_>>()))
            }
        }
    }
}

/// Each value by itself: one that is bad is enough to refuse, and all must be good to allow.
fn header(name: &str, headers: &HeaderMap, when: &Condition, action: Action) -> bool {
    let values: Vec<String> =
        headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect();
    let all = |patterns: &[String]| {
        !values.is_empty() && values.iter().all(|value| patterns.iter().any(|pattern| text(pattern, value)))
    };
    let any = |patterns: &[String]| {
        values.iter().any(|value| {
            let mut parts: Vec<&str> = value.split(',').map(str::trim).collect();
            parts.push(value);
            patterns.iter().any(|pattern| pattern == "*" || parts.iter().any(|part| text(pattern, part)))
        })
    };
    let (wanted, unwanted) = (&when.values, &when.not_values);
    if action == Action::Allow {
        (wanted.is_empty() || all(wanted)) && (unwanted.is_empty() || !any(unwanted))
    } else {
        (wanted.is_empty() || any(wanted)) && (unwanted.is_empty() || !all(unwanted))
    }
}

fn operation(o: &Operation, about: About<'_>, c: &Connection<'_>) -> bool {
    let port = |value: &String| *value == c.destination.port().to_string();
    let ports = one(&o.ports, port) && none(&o.not_ports, port);
    let Carried::Request(request) = about.carried else { return ports };
    let host = |pattern: &String| {
        let Some(authority) = &request.authority else { return false };
        let authority = authority.to_lowercase();
        let (name, port) = authority.split_once(':').map_or((&*authority, ""), |(name, port)| (name, port));
        let (pattern, name) = (pattern.to_lowercase(), name.trim_end_matches('.'));
        text(&pattern, name) || !port.is_empty() && text(&pattern, &format!("{name}:{port}"))
    };
    let method = |pattern: &String| text(pattern, &request.method);
    let path = |pattern: &String| is_path(pattern, &request.path);
    ports
        && one(&o.hosts, host)
        && none(&o.not_hosts, host)
        && one(&o.methods, method)
        && none(&o.not_methods, method)
        && one(&o.paths, path)
        && none(&o.not_paths, path)
}

/// A template is an expression, as Envoy has it.
fn is_path(pattern: &str, path: &str) -> bool {
    if !pattern.contains("{*}") && !pattern.contains("{**}") {
        return text(pattern, path);
    }
    let expression = regex::escape(pattern).replace(r"\{\*\*\}", ".*").replace(r"\{\*\}", "[^/]+");
    regex::Regex::new(&format!("^{expression}$")).unwrap().is_match(path)
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

/// What is known of a connection before it carries anything.
const CONNECTION: &[&str] = &[
    "source.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "destination.ip",
    "destination.port",
];
