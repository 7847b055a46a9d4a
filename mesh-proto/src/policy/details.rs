//! What our own nodes are told of a policy. Values travel as users write them, and are read by what reads those of users.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::policy::{Attribute, Clause, Effect, Group, Matcher, Policy, PolicyName, Rule, Scope, Told};
use prost::Message as _;

use crate::decode::Invalid;
use crate::mesh::policy_clause::Attribute as WireAttribute;
use crate::mesh::policy_details::Effect as WireEffect;
use crate::mesh::{PolicyAlternative, PolicyClause, PolicyDetails, PolicyGroup, PolicyRule};

/// Of a policy that Istio's form is not enough for; empty for any other.
pub(super) fn encode(policy: &Policy) -> bytes::Bytes {
    let effect = match policy.effect {
        Effect::MutualTls => return bytes::Bytes::new(),
        Effect::Allow => WireEffect::Allow,
        Effect::Deny => WireEffect::Deny,
        Effect::Custom => WireEffect::Custom,
        Effect::Audit => WireEffect::Audit,
    };
    if policy.selector.is_none()
        && matches!(policy.effect, Effect::Allow | Effect::Deny)
        && is_plain(&policy.rules)
    {
        return bytes::Bytes::new();
    }
    let selector = policy.selector.iter().flat_map(|labels| labels.iter());
    let details = PolicyDetails {
        effect: effect.into(),
        provider: policy.provider.as_deref().unwrap_or_default().to_owned(),
        selector: selector.map(|(key, value)| (key.clone(), value.clone())).collect(),
        rules: policy.rules.iter().map(rule).collect(),
    };
    details.encode_to_vec().into()
}

fn is_plain(rules: &[Rule]) -> bool {
    let groups = rules.iter().flat_map(|rule| &rule.groups);
    let clauses = groups.flat_map(|Group(alternatives)| alternatives).flatten();
    !clauses.into_iter().any(|clause| clause.matcher.is_of_stream())
}

fn rule(rule: &Rule) -> PolicyRule {
    let alternative =
        |clauses: &Vec<Clause>| PolicyAlternative { clauses: clauses.iter().map(clause).collect() };
    let group = |Group(alternatives): &Group| PolicyGroup {
        alternatives: alternatives.iter().map(alternative).collect(),
    };
    PolicyRule {
        // No resource has so many.
        index: u32::try_from(rule.index).unwrap_or(u32::MAX),
        groups: rule.groups.iter().map(group).collect(),
    }
}

fn clause(clause: &Clause) -> PolicyClause {
    let Told { attribute, names, values } = clause.matcher.tell();
    let attribute = ATTRIBUTES.iter().find(|(known, _)| *known == attribute);
    // All are there.
    let attribute = attribute.map_or(WireAttribute::Unknown, |(_, wire)| *wire);
    PolicyClause { attribute: attribute.into(), negated: clause.negated, name: names, values }
}

/// The details of a policy, read.
pub(super) struct Details {
    effect: Effect,
    provider: Option<Arc<str>>,
    selector: Option<Arc<BTreeMap<String, String>>>,
    rules: Vec<Rule>,
}

impl Details {
    pub(super) fn into_policy(self, name: Arc<PolicyName>, scope: Scope, dry_run: bool) -> Policy {
        let Self { effect, provider, selector, rules } = self;
        Policy { name, effect, dry_run, scope, selector, provider, rules }
    }
}

/// Reads what [`encode`] makes; `None` where there is nothing to read. What is not understood makes the policy unusable, and
/// whatever lists it closed.
pub(super) fn decode(bytes: &[u8]) -> Option<Result<Details, Invalid>> {
    (!bytes.is_empty()).then(|| read(bytes))
}

fn read(bytes: &[u8]) -> Result<Details, Invalid> {
    let bad = || Invalid::new("mesh_details", "cannot be read");
    let details = PolicyDetails::decode(bytes).map_err(|_| bad())?;
    let effect = match details.effect() {
        WireEffect::Allow => Effect::Allow,
        WireEffect::Deny => Effect::Deny,
        WireEffect::Custom => Effect::Custom,
        WireEffect::Audit => Effect::Audit,
        WireEffect::Unknown => return Err(Invalid::new("mesh_details", "does what nobody here knows")),
    };
    let selector: BTreeMap<_, _> = details.selector.into_iter().collect();
    Ok(Details {
        effect,
        provider: Some(details.provider).filter(|name| !name.is_empty()).map(Arc::from),
        selector: Some(selector).filter(|labels| !labels.is_empty()).map(Arc::new),
        rules: details.rules.iter().map(read_rule).collect::<Result<_, _>>()?,
    })
}

fn read_rule(rule: &PolicyRule) -> Result<Rule, Invalid> {
    let alternative =
        |one: &PolicyAlternative| one.clauses.iter().map(read_clause).collect::<Result<Vec<_>, _>>();
    let group = |one: &PolicyGroup| {
        one.alternatives.iter().map(alternative).collect::<Result<Vec<_>, _>>().map(Group)
    };
    let groups = rule.groups.iter().map(group).collect::<Result<_, _>>()?;
    Ok(Rule { index: usize::try_from(rule.index).unwrap_or(usize::MAX), groups })
}

fn read_clause(from: &PolicyClause) -> Result<Clause, Invalid> {
    let attribute = ATTRIBUTES.iter().find(|(_, wire)| *wire == from.attribute());
    let told = attribute.map(|(attribute, _)| Told {
        attribute: *attribute,
        names: from.name.clone(),
        values: from.values.clone(),
    });
    let matcher = told.as_ref().and_then(Matcher::of_told);
    let matcher = matcher.ok_or(Invalid::new("mesh_details", "asks for what nobody here knows"))?;
    Ok(Clause { negated: from.negated, matcher })
}

const ATTRIBUTES: [(Attribute, WireAttribute); 17] = [
    (Attribute::Principal, WireAttribute::Principal),
    (Attribute::Namespace, WireAttribute::Namespace),
    (Attribute::TrustDomain, WireAttribute::TrustDomain),
    (Attribute::ServiceAccount, WireAttribute::ServiceAccount),
    (Attribute::SourceIp, WireAttribute::SourceIp),
    (Attribute::DestinationIp, WireAttribute::DestinationIp),
    (Attribute::DestinationPort, WireAttribute::DestinationPort),
    (Attribute::Host, WireAttribute::Host),
    (Attribute::Method, WireAttribute::Method),
    (Attribute::Path, WireAttribute::Path),
    (Attribute::Header, WireAttribute::Header),
    (Attribute::RemoteIp, WireAttribute::RemoteIp),
    (Attribute::RequestPrincipal, WireAttribute::RequestPrincipal),
    (Attribute::Audience, WireAttribute::Audience),
    (Attribute::Presenter, WireAttribute::Presenter),
    (Attribute::Claim, WireAttribute::Claim),
    (Attribute::ServerName, WireAttribute::ServerName),
];
