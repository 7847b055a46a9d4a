//! Policies on the wire. Istio's form says less than the engine's, and where it cannot say something the outcome is
//! stricter, never laxer. Our own nodes are told the rest besides, in [`details`].

use std::sync::Arc;

use ipnet::IpNet;
use mesh_core::policy::{
    AccountMatch, Clause, Effect, Group, MUTUAL_TLS_PREFIX, Matcher, Policy, PolicyName, Rule, Scope,
    StringMatch,
};

use crate::decode::{Invalid, ip};
use crate::encode::octets;
use crate::security::{self, string_match::MatchType};

mod details;

/// Encodes a policy.
pub(crate) fn encode(policy: &Policy) -> security::Authorization {
    let key = policy.key();
    let scope = match policy.scope {
        Scope::Mesh => security::Scope::Global,
        Scope::Namespace => security::Scope::Namespace,
        Scope::Listed => security::Scope::WorkloadSelector,
    };
    let action = match policy.effect {
        Effect::Allow => security::Action::Allow,
        // What an external authorizer would decide is denied where nobody can ask one, and what is only noted
        // travels without its rules, so that it denies nothing.
        Effect::MutualTls | Effect::Custom | Effect::Deny | Effect::Audit => security::Action::Deny,
    };
    let mut rules = Vec::with_capacity(policy.rules.len());
    for rule in policy.rules.iter().filter(|_| policy.effect != Effect::Audit) {
        // A rule keeps its place, by which decisions name it: one that can never match stands in for those before it.
        rules.resize_with(rule.index, never);
        rules.push(encode_rule(rule, policy.effect));
    }
    security::Authorization {
        name: key.name.to_string(),
        namespace: key.namespace.to_string(),
        scope: scope.into(),
        action: action.into(),
        rules,
        dry_run: policy.dry_run,
        mesh_details: details::encode(policy),
    }
}

fn never() -> security::Rule {
    security::Rule { clauses: vec![security::Clause { matches: Vec::new() }] }
}

fn encode_rule(rule: &Rule, effect: Effect) -> security::Rule {
    let mut clauses = Vec::with_capacity(rule.groups.len());
    for Group(alternatives) in &rule.groups {
        let mut matches = Vec::with_capacity(alternatives.len());
        let mut certain = false;
        for alternative in alternatives {
            let Encoded { matched, complete } = encode_alternative(alternative);
            match (complete, effect) {
                (false, Effect::Allow) => {}
                // An alternative that is left with nothing to ask for matches, and with it the whole group.
                _ if matched == security::Match::default() => certain = true,
                _ => matches.push(matched),
            }
        }
        if !certain {
            clauses.push(security::Clause { matches });
        }
    }
    security::Rule { clauses }
}

struct Encoded {
    matched: security::Match,
    /// Everything that the alternative asks for is in it.
    complete: bool,
}

fn encode_alternative(clauses: &[Clause]) -> Encoded {
    let mut encoded = Encoded { matched: security::Match::default(), complete: true };
    for clause in clauses {
        encoded.complete &= encode_clause(clause, &mut encoded.matched);
    }
    encoded
}

/// Whether the clause could be said. Two clauses about one attribute would have to hold both: the second cannot be.
fn encode_clause(clause: &Clause, matched: &mut security::Match) -> bool {
    fn put<T>(place: &mut Vec<T>, values: Vec<T>) -> bool {
        let free = place.is_empty();
        if free {
            *place = values;
        }
        free
    }
    let Clause { negated, matcher } = clause;
    let strings = |values: &[StringMatch]| values.iter().map(encode_string).collect::<Vec<_>>();
    let networks = |values: &[IpNet]| values.iter().map(encode_network).collect::<Vec<_>>();
    let pick = *negated;
    match matcher {
        Matcher::Principal(values) => {
            put(if pick { &mut matched.not_principals } else { &mut matched.principals }, strings(values))
        }
        Matcher::Namespace(values) => {
            put(if pick { &mut matched.not_namespaces } else { &mut matched.namespaces }, strings(values))
        }
        Matcher::TrustDomain(values) => {
            let Some(values) = values.iter().map(encode_trust_domain).collect::<Option<Vec<_>>>() else {
                return false;
            };
            put(if pick { &mut matched.not_principals } else { &mut matched.principals }, values)
        }
        Matcher::ServiceAccount(values) => {
            let values = values.iter().map(encode_account).collect();
            put(if pick { &mut matched.not_service_accounts } else { &mut matched.service_accounts }, values)
        }
        Matcher::SourceIp(values) => {
            put(if pick { &mut matched.not_source_ips } else { &mut matched.source_ips }, networks(values))
        }
        Matcher::DestinationIp(values) => put(
            if pick { &mut matched.not_destination_ips } else { &mut matched.destination_ips },
            networks(values),
        ),
        Matcher::DestinationPort(values) => put(
            if pick { &mut matched.not_destination_ports } else { &mut matched.destination_ports },
            values.iter().copied().map(u32::from).collect(),
        ),
        _ => false,
    }
}

fn encode_string(value: &StringMatch) -> security::StringMatch {
    let kind = match value {
        StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
        StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
        StringMatch::Present => MatchType::Presence(()),
    };
    security::StringMatch { match_type: Some(kind) }
}

/// A principal begins with its trust domain.
fn encode_trust_domain(value: &StringMatch) -> Option<security::StringMatch> {
    let kind = match value {
        StringMatch::Exact(text) => MatchType::Prefix(format!("{text}/")),
        StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
        StringMatch::Suffix(_) => return None,
        StringMatch::Present => MatchType::Presence(()),
    };
    Some(security::StringMatch { match_type: Some(kind) })
}

fn encode_account(value: &AccountMatch) -> security::ServiceAccountMatch {
    security::ServiceAccountMatch {
        namespace: value.namespace.to_string(),
        service_account: value.name.to_string(),
    }
}

fn encode_network(network: &IpNet) -> security::Address {
    security::Address { address: octets(network.addr()), length: network.prefix_len().into() }
}

/// Decodes a policy.
pub(crate) fn decode(from: &security::Authorization) -> Result<Policy, Invalid> {
    let (name, mutual_tls) = match from.name.strip_prefix(MUTUAL_TLS_PREFIX) {
        Some(name) => (name, true),
        None => (&*from.name, false),
    };
    if name.is_empty() || from.namespace.is_empty() {
        return Err(Invalid::new("name", "name or namespace is empty"));
    }
    let effect = match from.action() {
        _ if mutual_tls => Effect::MutualTls,
        security::Action::Allow => Effect::Allow,
        security::Action::Deny => Effect::Deny,
    };
    let scope = match from.scope() {
        security::Scope::Global => Scope::Mesh,
        security::Scope::Namespace => Scope::Namespace,
        security::Scope::WorkloadSelector => Scope::Listed,
    };
    let name = Arc::new(PolicyName { namespace: from.namespace.as_str().into(), name: name.into() });
    let (dry_run, selector, provider) = (from.dry_run, None, None);
    if let Some(details) = details::decode(&from.mesh_details).transpose()?.filter(|_| !mutual_tls) {
        return Ok(details.into_policy(name, scope, dry_run));
    }
    let rules = from.rules.iter().enumerate();
    let rules = rules.filter_map(|(index, rule)| decode_rule(index, rule, effect).transpose());
    let rules = rules.collect::<Result<_, _>>()?;
    Ok(Policy { name, effect, dry_run, scope, selector, provider, rules })
}

/// `None` for a rule that can never match.
fn decode_rule(index: usize, rule: &security::Rule, effect: Effect) -> Result<Option<Rule>, Invalid> {
    let mut groups = Vec::with_capacity(rule.clauses.len());
    for clause in &rule.clauses {
        if clause.matches.is_empty() {
            return Ok(None);
        }
        let alternatives = clause.matches.iter().map(decode_match).collect::<Result<Vec<_>, _>>()?;
        let empty = alternatives.iter().any(Vec::is_empty);
        match effect {
            // Nothing that can be checked is left of an alternative: it allows nobody, and denies everybody.
            Effect::Allow => {
                let alternatives: Vec<_> = alternatives.into_iter().filter(|one| !one.is_empty()).collect();
                if alternatives.is_empty() {
                    return Ok(None);
                }
                groups.push(Group(alternatives));
            }
            _ if empty => {}
            _ => groups.push(Group(alternatives)),
        }
    }
    Ok(Some(Rule { index, groups }))
}

fn decode_match(from: &security::Match) -> Result<Vec<Clause>, Invalid> {
    let mut clauses = Vec::new();
    let mut put = |negated: bool, matcher: Matcher, given: bool| {
        if given {
            clauses.push(Clause { negated, matcher });
        }
    };
    for (negated, values) in [(false, &from.principals), (true, &from.not_principals)] {
        put(negated, Matcher::Principal(strings(values)?), !values.is_empty());
    }
    for (negated, values) in [(false, &from.namespaces), (true, &from.not_namespaces)] {
        put(negated, Matcher::Namespace(strings(values)?), !values.is_empty());
    }
    for (negated, values) in [(false, &from.service_accounts), (true, &from.not_service_accounts)] {
        let account = |one: &security::ServiceAccountMatch| AccountMatch {
            namespace: one.namespace.as_str().into(),
            name: one.service_account.as_str().into(),
        };
        put(negated, Matcher::ServiceAccount(values.iter().map(account).collect()), !values.is_empty());
    }
    for (negated, values) in [(false, &from.source_ips), (true, &from.not_source_ips)] {
        put(negated, Matcher::SourceIp(networks(values)?), !values.is_empty());
    }
    for (negated, values) in [(false, &from.destination_ips), (true, &from.not_destination_ips)] {
        put(negated, Matcher::DestinationIp(networks(values)?), !values.is_empty());
    }
    for (negated, values) in [(false, &from.destination_ports), (true, &from.not_destination_ports)] {
        let port =
            |port: &u32| u16::try_from(*port).map_err(|_| Invalid::new("rules", "a port is out of range"));
        let ports = values.iter().map(port).collect::<Result<_, _>>()?;
        put(negated, Matcher::DestinationPort(ports), !values.is_empty());
    }
    Ok(clauses)
}

fn strings(from: &[security::StringMatch]) -> Result<Vec<StringMatch>, Invalid> {
    let decode = |one: &security::StringMatch| match &one.match_type {
        Some(MatchType::Exact(text)) => Ok(StringMatch::Exact(unprefixed(text).into())),
        Some(MatchType::Prefix(text)) => Ok(StringMatch::Prefix(unprefixed(text).into())),
        Some(MatchType::Suffix(text)) => Ok(StringMatch::Suffix(text.as_str().into())),
        Some(MatchType::Presence(())) => Ok(StringMatch::Present),
        None => Err(Invalid::new("rules", "a text is matched in no known way")),
    };
    from.iter().map(decode).collect()
}

/// Principals come with and without their scheme.
fn unprefixed(text: &str) -> &str {
    text.strip_prefix("spiffe://").unwrap_or(text)
}

fn networks(from: &[security::Address]) -> Result<Vec<IpNet>, Invalid> {
    let decode = |one: &security::Address| {
        let length = u8::try_from(one.length).ok();
        let network = length.and_then(|length| IpNet::new(ip(&one.address).ok()?, length).ok());
        network.map(|network| network.trunc()).ok_or(Invalid::new("rules", "a network is none"))
    };
    from.iter().map(decode).collect()
}
