//! Rules in Kubernetes' expression language, for what its schemas cannot say otherwise. An API server estimates their cost
//! in the worst case and refuses definitions that could cost too much, so under lists without a limit there are only
//! those of durations.

use serde_json::{Value, json};

/// An expression that must be true, and what is said if it is not.
pub(in crate::resource) type Rule = (&'static str, &'static str);

/// `x-kubernetes-validations`.
pub(in crate::resource) fn rules(rules: &[Rule]) -> Value {
    rules.iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect()
}

pub(in crate::resource) const SERVICE_ENTRY: &[Rule] = &[
    (
        "!(has(self.workloadSelector) && has(self.endpoints))",
        "only one of workloadSelector and endpoints may be given",
    ),
    (
        "!(has(self.addresses) && self.addresses.exists(a, a.contains('/'))) || !has(self.resolution) \
         || self.resolution in ['NONE', 'STATIC']",
        "networks are only for resolution NONE and STATIC",
    ),
    (
        "!has(self.endpoints) || size(self.endpoints) == 0 \
         || (has(self.resolution) && !(self.resolution in ['NONE', 'DYNAMIC_DNS']))",
        "endpoints are only for resolution STATIC and DNS",
    ),
    (
        "!has(self.resolution) || self.resolution != 'DNS_ROUND_ROBIN' || !has(self.endpoints) \
         || size(self.endpoints) <= 1",
        "DNS_ROUND_ROBIN takes one endpoint",
    ),
];

pub(in crate::resource) const SERVICE_HOSTS: &[Rule] =
    &[("self.all(host, host != '*')", "* would be every host there is")];

pub(in crate::resource) const SERVICE_PORTS: &[Rule] =
    &[("self.all(one, self.exists_one(two, one.number == two.number))", "a number is given twice")];

pub(in crate::resource) const WORKLOAD_ENTRY: &[Rule] =
    &[("has(self.address) || has(self.network)", "address is required"), UNIX_HAS_NO_PORTS];

/// As [`WORKLOAD_ENTRY`], where each workload brings its own address.
pub(in crate::resource) const WORKLOAD_TEMPLATE: &[Rule] = &[UNIX_HAS_NO_PORTS];

const UNIX_HAS_NO_PORTS: Rule = (
    "!has(self.address) || !self.address.startsWith('unix://') || !has(self.ports) || size(self.ports) == 0",
    "a Unix domain socket has no ports",
);

pub(in crate::resource) const ADDRESS: &[Rule] = &[(
    "!self.startsWith('unix://') || self.matches('^unix://[/@].*[^/]$')",
    "a Unix domain socket is an absolute path or @NAME",
)];

pub(in crate::resource) const WORKLOAD_PORTS: &[Rule] = &[(
    "self.all(key, size(key) <= 63 && key.matches('^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$'))",
    "the name of a port is a DNS label",
)];

pub(in crate::resource) const PORT_LEVEL_MTLS: &[Rule] =
    &[("self.all(key, 0 < int(key) && int(key) <= 65535)", "a port is between 1 and 65535")];

pub(in crate::resource) const PEER_AUTHENTICATION: &[Rule] = &[(
    "!has(self.portLevelMtls) \
     || (has(self.selector) && has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0)",
    "portLevelMtls needs a selector",
)];

pub(in crate::resource) const AUTHORIZATION_POLICY: &[Rule] = &[(
    "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1",
    "only one of selector, targetRef and targetRefs may be given",
)];

pub(in crate::resource) const LABELS: &[Rule] = &[
    ("self.all(key, key != '')", "a label key must not be empty"),
    ("self.all(key, !key.contains('*'))", "there are no wildcards in labels"),
];

pub(in crate::resource) const LABEL_VALUE: &[Rule] =
    &[("!self.contains('*')", "there are no wildcards in labels")];
