//! `VirtualServices` that route by claims of tokens, behind gateways that verify no token.

use super::index::Index;
use super::workloads::{Labels, Workload, selects};
use super::{Code, Message};
use crate::resource::networking::VirtualServiceSpec;
use crate::resource::value::HeaderKey;
use crate::resource::{Object, Spec, quote};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    let verified = Verified::of(index);
    for object in index.objects {
        if let Spec::VirtualService(spec) = &object.spec
            && let Some((field, claim)) = claim(spec)
        {
            messages.extend(judge(index, &verified, object, (spec, field, &claim)));
        }
    }
}

/// The workloads that check tokens.
struct Verified<'a> {
    root: &'a str,
    /// Namespace and selector of each `RequestAuthentication`; without labels it is for the whole namespace.
    selectors: Vec<(&'a str, Option<&'a Labels>)>,
}

impl<'a> Verified<'a> {
    fn of(index: &Index<'a>) -> Self {
        let selectors = index.objects.iter().filter_map(|object| match &object.spec {
            // Which workloads a target has behind it is not known here: all of the namespace, for all we know.
            Spec::RequestAuthentication(spec) => {
                let labels = spec.selector.as_ref().map(|selector| &selector.match_labels);
                Some((&*object.meta.namespace, labels))
            }
            _ => None,
        });
        Self { root: &index.options.root_namespace, selectors: selectors.collect() }
    }

    fn covers(&self, workload: &Workload<'_>) -> bool {
        self.selectors.iter().any(|(namespace, labels)| {
            (*namespace == self.root || *namespace == workload.namespace)
                && labels.is_none_or(|labels| selects(labels, &workload.labels))
        })
    }
}

/// The first claim that a route asks for: the field, and how users write it.
fn claim(spec: &VirtualServiceSpec) -> Option<(String, String)> {
    let matches = spec.http.iter().enumerate().flat_map(|(rule, http)| {
        http.matches.iter().enumerate().map(move |(at, one)| (format!("spec.http[{rule}].match[{at}]"), one))
    });
    let mut keys = matches.flat_map(|(path, one)| {
        let headers = one.headers.keys().map(|key| ("headers", key));
        let all = headers.chain(one.without_headers.keys().map(|key| ("withoutHeaders", key)));
        all.map(|(name, key)| (format!("{path}.{name}"), key)).collect::<Vec<_>>()
    });
    keys.find_map(|(field, key)| match key {
        HeaderKey::Claim(path) => Some((field, format!("@request.auth.claims.{}", path.join(".")))),
        HeaderKey::Name(_) => None,
    })
}

fn judge(
    index: &Index<'_>,
    verified: &Verified<'_>,
    object: &Object,
    (spec, field, claim): (&VirtualServiceSpec, String, &str),
) -> Option<Message> {
    if index.has_refused("RequestAuthentication") {
        return None;
    }
    let gateways = spec.gateways.iter().filter_map(|name| {
        let (namespace, name) = name.resolve(&object.meta.namespace)?;
        match &index.find("Gateway", namespace, name)?.spec {
            Spec::Gateway(gateway) => Some((format!("{namespace}/{name}"), gateway)),
            _ => None,
        }
    });
    for (name, gateway) in gateways.filter(|(_, gateway)| !gateway.selector.is_empty()) {
        let mut workloads = index.workloads.select(None, &gateway.selector);
        if workloads.any(|workload| !verified.covers(workload)) {
            let reason = format!("no RequestAuthentication is for the pods of Gateway {}", quote(&name));
            let reason = format!("{} never matches: {reason}", quote(claim));
            let code = Code::JwtClaimBasedRoutingWithoutRequestAuthN;
            let message = Message::new(code, object, field, reason);
            return Some(message.hint("only claims of tokens that were verified can be routed by"));
        }
    }
    None
}
