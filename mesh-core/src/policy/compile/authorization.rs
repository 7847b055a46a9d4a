//! The rules of an AuthorizationPolicy.
//!
//! What layer 4 cannot see (HTTP, JWTs, forwarded addresses) and what cannot be understood fails closed both ways: an
//! ALLOW rule with such a part never matches, and a rule that denies matches as if that part were not there.

use super::super::matcher::{AccountMatch, StringMatch, TrustDomains, parse_ip_block, parse_port};
use super::super::rule::{Clause, Effect, Group, Matcher, Rule};
use crate::model::Report;
use crate::resource::Object;
use crate::resource::security::{self, Condition, Operation, Source};

/// Compiles the rules of one policy.
pub(super) struct RuleCompiler<'a> {
    object: &'a Object,
    effect: Effect,
    trust_domains: TrustDomains<'a>,
    report: &'a mut Report,
    /// Whether the rule at hand has a part that cannot be evaluated.
    incomplete: bool,
}

/// What a field or a condition is about.
#[derive(Clone, Copy)]
enum Attribute {
    Principal,
    Namespace,
    TrustDomain,
    ServiceAccount,
    SourceIp,
    DestinationIp,
    DestinationPort,
    /// Something of layer 7.
    Request,
}

impl<'a> RuleCompiler<'a> {
    pub(super) fn new(
        object: &'a Object,
        effect: Effect,
        trust_domains: TrustDomains<'a>,
        report: &'a mut Report,
    ) -> Self {
        Self { object, effect, trust_domains, report, incomplete: false }
    }

    /// `None` if the rule can never match.
    pub(super) fn rule(&mut self, index: usize, rule: &security::Rule) -> Option<Rule> {
        self.incomplete = false;
        let path = format!("spec.rules[{index}]");
        let from = rule.from.iter().enumerate();
        let from =
            from.map(|(i, from)| self.source(&format!("{path}.from[{i}].source"), &from.source)).collect();
        let to = rule.to.iter().enumerate();
        let to =
            to.map(|(i, to)| self.operation(&format!("{path}.to[{i}].operation"), &to.operation)).collect();
        let when = rule.when.iter().enumerate();
        let when: Vec<_> =
            when.flat_map(|(i, when)| self.condition(&format!("{path}.when[{i}]"), when)).collect();
        let alternatives: [Vec<Vec<Clause>>; 2] = [from, to];
        let groups = alternatives.into_iter().filter(|alternatives| !alternatives.is_empty());
        let groups = groups.chain(when.into_iter().map(|clause| vec![vec![clause]])).map(Group).collect();
        (!self.incomplete || self.effect != Effect::Allow).then_some(Rule { index, groups })
    }

    fn source(&mut self, path: &str, source: &Source) -> Vec<Clause> {
        use Attribute::{Namespace, Principal, Request, ServiceAccount, SourceIp, TrustDomain};
        self.fields(
            path,
            &[
                ("principals", Principal, false, &source.principals),
                ("notPrincipals", Principal, true, &source.not_principals),
                ("requestPrincipals", Request, false, &source.request_principals),
                ("notRequestPrincipals", Request, true, &source.not_request_principals),
                ("namespaces", Namespace, false, &source.namespaces),
                ("notNamespaces", Namespace, true, &source.not_namespaces),
                ("serviceAccounts", ServiceAccount, false, &source.service_accounts),
                ("notServiceAccounts", ServiceAccount, true, &source.not_service_accounts),
                ("trustDomains", TrustDomain, false, &source.trust_domains),
                ("notTrustDomains", TrustDomain, true, &source.not_trust_domains),
                ("ipBlocks", SourceIp, false, &source.ip_blocks),
                ("notIpBlocks", SourceIp, true, &source.not_ip_blocks),
                ("remoteIpBlocks", Request, false, &source.remote_ip_blocks),
                ("notRemoteIpBlocks", Request, true, &source.not_remote_ip_blocks),
            ],
        )
    }

    fn operation(&mut self, path: &str, operation: &Operation) -> Vec<Clause> {
        use Attribute::{DestinationPort, Request};
        self.fields(
            path,
            &[
                ("hosts", Request, false, &operation.hosts),
                ("notHosts", Request, true, &operation.not_hosts),
                ("ports", DestinationPort, false, &operation.ports),
                ("notPorts", DestinationPort, true, &operation.not_ports),
                ("methods", Request, false, &operation.methods),
                ("notMethods", Request, true, &operation.not_methods),
                ("paths", Request, false, &operation.paths),
                ("notPaths", Request, true, &operation.not_paths),
            ],
        )
    }

    fn condition(&mut self, path: &str, condition: &Condition) -> Vec<Clause> {
        let attribute = match condition.key.as_str() {
            "source.ip" => Attribute::SourceIp,
            "source.namespace" => Attribute::Namespace,
            "source.principal" => Attribute::Principal,
            "source.serviceAccount" => Attribute::ServiceAccount,
            "source.trustDomain" => Attribute::TrustDomain,
            "destination.ip" => Attribute::DestinationIp,
            "destination.port" => Attribute::DestinationPort,
            _ => Attribute::Request,
        };
        self.fields(
            path,
            &[
                ("values", attribute, false, &condition.values),
                ("notValues", attribute, true, &condition.not_values),
            ],
        )
    }

    fn fields(&mut self, path: &str, fields: &[(&str, Attribute, bool, &Vec<String>)]) -> Vec<Clause> {
        let mut clauses = Vec::new();
        let used: Vec<_> = fields.iter().filter(|(.., values)| !values.is_empty()).collect();
        if used.is_empty() {
            // Istio's admission refuses it; "any of nothing" must not come to mean "anybody may".
            self.cannot(path, "is empty");
        }
        for (name, attribute, negated, values) in used {
            match self.matcher(*attribute, values) {
                Ok(matcher) => clauses.push(Clause { negated: *negated, matcher }),
                Err(reason) => self.cannot(&format!("{path}.{name}"), &reason),
            }
        }
        clauses
    }

    fn matcher(&self, attribute: Attribute, values: &[String]) -> Result<Matcher, String> {
        let strings = || values.iter().map(|value| StringMatch::parse(value)).collect();
        Ok(match attribute {
            Attribute::Principal => Matcher::Principal(
                values.iter().flat_map(|value| self.trust_domains.principals(value)).collect(),
            ),
            Attribute::Namespace => Matcher::Namespace(strings()),
            Attribute::TrustDomain => Matcher::TrustDomain(strings()),
            Attribute::ServiceAccount => {
                Matcher::ServiceAccount(parse_all(values, "service account", |value| {
                    AccountMatch::parse(value, &self.object.meta.namespace)
                })?)
            }
            Attribute::SourceIp => Matcher::SourceIp(parse_all(values, IP_BLOCK, parse_ip_block)?),
            Attribute::DestinationIp => Matcher::DestinationIp(parse_all(values, IP_BLOCK, parse_ip_block)?),
            Attribute::DestinationPort => Matcher::DestinationPort(parse_all(values, "port", parse_port)?),
            Attribute::Request => return Err("needs layer 7, which is not enforced yet".to_owned()),
        })
    }

    /// Notes that a part of the rule cannot be evaluated, and what that comes to.
    fn cannot(&mut self, path: &str, reason: &str) {
        self.incomplete = true;
        let (reason, hint) = match self.effect {
            Effect::Allow => {
                (format!("{reason}: the rule never matches"), "the policy allows less than it says")
            }
            _ => (format!("{reason}: the rule matches without it"), "the policy denies more than it says"),
        };
        self.report.warning_with_hint(self.object, path, &reason, hint);
    }
}

fn parse_all<T>(values: &[String], what: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    values.iter().map(|value| parse(value).ok_or_else(|| format!("\"{value}\" is not a {what}"))).collect()
}

const IP_BLOCK: &str = "network or IP address";
