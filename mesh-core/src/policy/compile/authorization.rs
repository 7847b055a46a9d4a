//! The rules of an AuthorizationPolicy.
//!
//! What cannot be understood fails closed both ways: an ALLOW rule with such a part never matches, and a rule that denies
//! matches as if that part were not there.

use http::HeaderName;

use super::super::matcher::{AccountMatch, StringMatch, TrustDomains, parse_ip_block, parse_port};
use super::super::rule::{Clause, Effect, Group, Matcher, Rule};
use super::super::template::PathMatch;
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
enum Attribute<'a> {
    Principal,
    Namespace,
    TrustDomain,
    ServiceAccount,
    SourceIp,
    DestinationIp,
    DestinationPort,
    Host,
    Method,
    Path,
    RemoteIp,
    RequestPrincipal,
    Audience,
    Presenter,
    ServerName,
    /// A header, by its name.
    Header(&'a str),
    /// A claim, by what stands in the brackets behind the first.
    Claim(&'a str),
    /// Metadata of a filter of Envoy.
    Filter,
    /// Nothing that is known.
    Unknown,
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
        use Attribute::{
            Namespace, Principal, RemoteIp, RequestPrincipal, ServiceAccount, SourceIp, TrustDomain,
        };
        self.fields(
            path,
            &[
                ("principals", Principal, false, &source.principals),
                ("notPrincipals", Principal, true, &source.not_principals),
                ("requestPrincipals", RequestPrincipal, false, &source.request_principals),
                ("notRequestPrincipals", RequestPrincipal, true, &source.not_request_principals),
                ("namespaces", Namespace, false, &source.namespaces),
                ("notNamespaces", Namespace, true, &source.not_namespaces),
                ("serviceAccounts", ServiceAccount, false, &source.service_accounts),
                ("notServiceAccounts", ServiceAccount, true, &source.not_service_accounts),
                ("trustDomains", TrustDomain, false, &source.trust_domains),
                ("notTrustDomains", TrustDomain, true, &source.not_trust_domains),
                ("ipBlocks", SourceIp, false, &source.ip_blocks),
                ("notIpBlocks", SourceIp, true, &source.not_ip_blocks),
                ("remoteIpBlocks", RemoteIp, false, &source.remote_ip_blocks),
                ("notRemoteIpBlocks", RemoteIp, true, &source.not_remote_ip_blocks),
            ],
        )
    }

    fn operation(&mut self, path: &str, operation: &Operation) -> Vec<Clause> {
        use Attribute::{DestinationPort, Host, Method, Path};
        self.fields(
            path,
            &[
                ("hosts", Host, false, &operation.hosts),
                ("notHosts", Host, true, &operation.not_hosts),
                ("ports", DestinationPort, false, &operation.ports),
                ("notPorts", DestinationPort, true, &operation.not_ports),
                ("methods", Method, false, &operation.methods),
                ("notMethods", Method, true, &operation.not_methods),
                ("paths", Path, false, &operation.paths),
                ("notPaths", Path, true, &operation.not_paths),
            ],
        )
    }

    fn condition(&mut self, path: &str, condition: &Condition) -> Vec<Clause> {
        let attribute = Attribute::of_key(&condition.key);
        self.fields(
            path,
            &[
                ("values", attribute, false, &condition.values),
                ("notValues", attribute, true, &condition.not_values),
            ],
        )
    }

    fn fields(&mut self, path: &str, fields: &[(&str, Attribute<'_>, bool, &Vec<String>)]) -> Vec<Clause> {
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

    fn matcher(&self, attribute: Attribute<'_>, values: &[String]) -> Result<Matcher, String> {
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
            Attribute::Host => Matcher::Host(folded(values)),
            Attribute::Method => Matcher::Method(strings()),
            Attribute::Path => {
                Matcher::Path(values.iter().map(|path| PathMatch::parse(path)).collect::<Result<_, _>>()?)
            }
            Attribute::RemoteIp => Matcher::RemoteIp(parse_all(values, IP_BLOCK, parse_ip_block)?),
            Attribute::RequestPrincipal => Matcher::RequestPrincipal(strings()),
            Attribute::Audience => Matcher::Audience(strings()),
            Attribute::Presenter => Matcher::Presenter(strings()),
            Attribute::ServerName => Matcher::ServerName(folded(values)),
            Attribute::Header(name) => Matcher::Header {
                name: HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| format!("\"{name}\" is no name of a header"))?,
                values: strings(),
            },
            Attribute::Claim(path) => Matcher::Claim { path: claim(path)?, values: strings() },
            Attribute::Filter => {
                return Err("there is no filter of Envoy whose metadata it could be".to_owned());
            }
            Attribute::Unknown => return Err("is about no attribute that is known".to_owned()),
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

impl<'a> Attribute<'a> {
    /// What a condition is about.
    fn of_key(key: &'a str) -> Self {
        let within = |start: &str| key.strip_prefix(start)?.strip_suffix(']');
        match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::Namespace,
            "source.principal" => Self::Principal,
            "source.serviceAccount" => Self::ServiceAccount,
            "source.trustDomain" => Self::TrustDomain,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "request.auth.principal" => Self::RequestPrincipal,
            "request.auth.audiences" => Self::Audience,
            "request.auth.presenter" => Self::Presenter,
            "connection.sni" => Self::ServerName,
            _ if key.starts_with("experimental.envoy.filters.") => Self::Filter,
            _ => match (within("request.headers["), within("request.auth.claims[")) {
                // Requests have one host, whatever it was sent as.
                (Some(name), _) if name.eq_ignore_ascii_case("host") || name == ":authority" => Self::Host,
                (Some(":method"), _) => Self::Method,
                (Some(name), _) => Self::Header(name),
                (None, Some(path)) => Self::Claim(path),
                (None, None) => Self::Unknown,
            },
        }
    }
}

/// What is compared without regard to case.
fn folded(values: &[String]) -> Vec<StringMatch> {
    values.iter().map(|value| StringMatch::parse(&value.to_ascii_lowercase())).collect()
}

/// The names of `a][b`, which leads through objects.
fn claim(path: &str) -> Result<Vec<Box<str>>, String> {
    let names: Vec<Box<str>> = path.split("][").map(Box::from).collect();
    let wrong = names.iter().any(|name| name.is_empty() || name.contains(['[', ']']));
    if wrong { Err(format!("\"{path}\" is no name of a claim")) } else { Ok(names) }
}

fn parse_all<T>(values: &[String], what: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    values.iter().map(|value| parse(value).ok_or_else(|| format!("\"{value}\" is not a {what}"))).collect()
}

const IP_BLOCK: &str = "network or IP address";
