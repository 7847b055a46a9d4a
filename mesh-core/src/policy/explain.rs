//! Why a decision is what it is: each policy that applies, each of its rules, and what of it did not match.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::effective::Effective;
use super::request::{Seen, Truth};
use super::rule::{Attributes, Clause, Effect, Group, Matcher, Policy, Rule};
use super::told::{Attribute, Told};
use super::{PolicyName, PolicySet, Question};
use crate::authn::Claims;
use crate::id::SpiffeId;
use crate::model::Workload;

/// What one policy that applies has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// Its name.
    pub policy: Arc<PolicyName>,
    /// What a match of it does.
    pub effect: Effect,
    /// It is only tried out.
    pub dry_run: bool,
    /// Whether any of its rules matches.
    pub matches: Matches,
    /// Those of its rules that can match at all.
    pub rules: Vec<ExplainedRule>,
}

/// What one rule has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedRule {
    /// Into `spec.rules`.
    pub index: usize,
    /// Whether it matches.
    pub matches: Matches,
    /// Why it does not, or what it depends on; empty if it matches.
    pub because: Vec<String>,
}

/// Whether something matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Matches {
    /// It does not.
    No,
    /// That depends on a request.
    Open,
    /// It does.
    Yes,
}

impl PolicySet {
    /// What each policy that applies to `workload` says of something, in the order in which they are asked. `None` if nothing
    /// is known of the workload.
    pub fn explain(&self, workload: &Workload, question: &Question<'_>) -> Option<Vec<Explained>> {
        let effective = self.effective.get(&workload.uid).filter(|_| self.loaded)?;
        Some(explain(effective, question))
    }
}

pub(super) fn explain(effective: &Effective, question: &Question<'_>) -> Vec<Explained> {
    let attributes = question.attributes();
    effective.policies().map(|policy| of_policy(policy, &attributes)).collect()
}

fn of_policy(policy: &Policy, attributes: &Attributes<'_>) -> Explained {
    let rule = |rule: &Rule| {
        let matches = rule.matches(attributes, policy.effect).into();
        let because =
            if matches == Matches::Yes { Vec::new() } else { reasons(rule, attributes, policy.effect) };
        ExplainedRule { index: rule.index, matches, because }
    };
    let rules: Vec<_> = policy.rules.iter().map(rule).collect();
    Explained {
        policy: Arc::clone(&policy.name),
        effect: policy.effect,
        dry_run: policy.dry_run,
        matches: rules.iter().map(|rule| rule.matches).max().unwrap_or(Matches::No),
        rules,
    }
}

/// What keeps a rule from matching: of each group without an alternative that matches, what fails of each.
fn reasons(rule: &Rule, attributes: &Attributes<'_>, effect: Effect) -> Vec<String> {
    let holds = |clause: &Clause| clause.matches(attributes, effect) == Truth::Yes;
    let failing =
        rule.groups.iter().filter(|Group(all)| !all.iter().any(|clauses| clauses.iter().all(holds)));
    let clauses =
        failing.flat_map(|Group(all)| all).filter_map(|clauses| clauses.iter().find(|it| !holds(it)));
    let mut reasons: Vec<_> = clauses.map(|clause| reason(clause, attributes)).collect();
    if reasons.is_empty() {
        reasons.push("it asks for a request, and there is none".to_owned());
    }
    reasons
}

fn reason(clause: &Clause, attributes: &Attributes<'_>) -> String {
    let Told { attribute, names, values } = clause.matcher.tell();
    let mut what = name_of(attribute).to_owned();
    if !names.is_empty() {
        what = format!("{what}[{}]", names.join("]["));
    }
    let is = match value_of(&clause.matcher, attributes) {
        None => "is not known before there is a request".to_owned(),
        Some(values) if values.is_empty() => "is not there".to_owned(),
        Some(values) => format!("is {}", values.join(" and ")),
    };
    let wanted = if clause.negated { "must be none of" } else { "must be one of" };
    format!("{what} {is}, and {wanted} {}", values.join(", "))
}

/// `None` where it is not known.
fn value_of(matcher: &Matcher, attributes: &Attributes<'_>) -> Option<Vec<String>> {
    let peer = |of: fn(&SpiffeId) -> String| attributes.peer.map(of).into_iter().collect();
    let request = match attributes.seen {
        Seen::Request(request) => Some(request),
        _ => None,
    };
    let text = |text: Option<&str>| text.map(str::to_owned).into_iter().collect();
    let ip = |ip: IpAddr| vec![ip.to_string()];
    Some(match matcher {
        Matcher::Principal(_) => peer(|id| id.principal().to_owned()),
        Matcher::Namespace(_) => peer(|id| id.namespace().to_owned()),
        Matcher::TrustDomain(_) => peer(|id| id.trust_domain().as_str().to_owned()),
        Matcher::ServiceAccount(_) => peer(|id| format!("{}/{}", id.namespace(), id.service_account())),
        Matcher::SourceIp(_) => ip(attributes.source_ip),
        Matcher::DestinationIp(_) => ip(attributes.destination.ip()),
        Matcher::DestinationPort(_) => vec![attributes.destination.port().to_string()],
        Matcher::Host(_) => request?.host.map(ToString::to_string).into_iter().collect(),
        Matcher::Method(_) => text(Some(request?.method)),
        Matcher::Path(_) => text(Some(request?.path)),
        Matcher::Header { name, .. } => {
            let values = request?.headers.get_all(name).iter();
            values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
        }
        Matcher::RemoteIp(_) => ip(request?.remote_ip),
        Matcher::RequestPrincipal(_) => text(request?.claims.and_then(|claims| claims.principal())),
        Matcher::Presenter(_) => text(request?.claims.and_then(|claims| claims.presenter())),
        Matcher::Audience(_) => owned(request?.claims.map(Claims::audiences)),
        Matcher::Claim { path, .. } => {
            owned(request?.claims.map(|claims| claims.values(path.iter().map(|name| &**name))))
        }
        Matcher::ServerName(_) => match attributes.seen {
            Seen::Bytes { server_name } => text(server_name),
            _ => text(request?.server_name),
        },
    })
}

fn owned(values: Option<Vec<std::borrow::Cow<'_, str>>>) -> Vec<String> {
    values.unwrap_or_default().into_iter().map(std::borrow::Cow::into_owned).collect()
}

const fn name_of(attribute: Attribute) -> &'static str {
    match attribute {
        Attribute::Principal => "source.principal",
        Attribute::Namespace => "source.namespace",
        Attribute::TrustDomain => "source.trustDomain",
        Attribute::ServiceAccount => "source.serviceAccount",
        Attribute::SourceIp => "source.ip",
        Attribute::DestinationIp => "destination.ip",
        Attribute::DestinationPort => "destination.port",
        Attribute::Host => "the host",
        Attribute::Method => "the method",
        Attribute::Path => "the path",
        Attribute::Header => "request.headers",
        Attribute::RemoteIp => "remote.ip",
        Attribute::RequestPrincipal => "request.auth.principal",
        Attribute::Audience => "request.auth.audiences",
        Attribute::Presenter => "request.auth.presenter",
        Attribute::Claim => "request.auth.claims",
        Attribute::ServerName => "connection.sni",
    }
}

impl From<Truth> for Matches {
    fn from(truth: Truth) -> Self {
        match truth {
            Truth::No => Self::No,
            Truth::Open => Self::Open,
            Truth::Yes => Self::Yes,
        }
    }
}
