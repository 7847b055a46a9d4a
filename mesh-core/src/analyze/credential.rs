//! The Secrets whose certificates gateways present: that they exist, and hold what is needed.
//!
//! Whether a certificate has expired or belongs to its key is not looked at: that takes a clock and a parser of X.509.

use std::collections::BTreeSet;

use super::index::{Index, key};
use super::{Code, Message};
use crate::resource::networking::GatewaySpec;
use crate::resource::networking::gateway::{Certificates, ServerTlsMode};
use crate::resource::{Material, Object, ObjectKey, Secret, SecretKind, Spec, gateway_api, quote};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    for object in index.objects {
        for named in named(index, object) {
            messages.extend(named.judge(index, object));
        }
    }
}

/// All Secrets that gateways name, wherever they may be.
pub(super) fn secrets(index: &Index<'_>) -> BTreeSet<ObjectKey> {
    let all = index.objects.iter().flat_map(|object| named(index, object));
    all.flat_map(|named| {
        let names = [named.name.to_owned(), named.authorities()];
        let namespaces = named.namespaces.into_iter();
        namespaces.flat_map(move |namespace| names.clone().map(|name| key(SECRET, namespace, &name)))
    })
    .collect()
}

/// A Secret that an object names.
struct Named<'a> {
    field: String,
    name: &'a str,
    /// Where it may be: one of them has to have it. None if nobody knows where the gateway will run.
    namespaces: BTreeSet<&'a str>,
    /// Whether it must say who signs clients' certificates.
    needs_authorities: bool,
}

fn named<'a>(index: &Index<'a>, object: &'a Object) -> Vec<Named<'a>> {
    match &object.spec {
        Spec::Gateway(gateway) => of_istio(index, gateway),
        Spec::KubernetesGateway(gateway) => of_listeners(object, &gateway.listeners),
        Spec::ListenerSet(set) => of_listeners(object, &set.listeners),
        _ => Vec::new(),
    }
}

/// A gateway reads Secrets of the namespace that its pods run in.
fn of_istio<'a>(index: &Index<'a>, gateway: &'a GatewaySpec) -> Vec<Named<'a>> {
    let mut all = Vec::new();
    let namespaces: BTreeSet<_> = if gateway.selector.is_empty() {
        BTreeSet::new()
    } else {
        index.workloads.select(None, &gateway.selector).map(|workload| workload.namespace).collect()
    };
    for (at, server) in gateway.servers.iter().enumerate() {
        let Some(tls) = &server.tls else { continue };
        let needs_authorities = matches!(tls.mode, ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
        let path = format!("spec.servers[{at}].tls.credentialName");
        let mut add = |field, name: &'a str| {
            // What has a scheme does not come from a Secret of this name.
            if !name.contains("://") {
                all.push(Named { field, name, namespaces: namespaces.clone(), needs_authorities });
            }
        };
        match tls.certificates() {
            Certificates::Secret(name) => add(path, name),
            Certificates::Secrets(names) => {
                names.iter().enumerate().for_each(|(at, name)| add(format!("{path}s[{at}]"), name));
            }
            Certificates::None | Certificates::Files(..) | Certificates::FilePairs(_) => {}
        }
    }
    all
}

fn of_listeners<'a>(object: &'a Object, listeners: &'a [gateway_api::Listener]) -> Vec<Named<'a>> {
    let mut all = Vec::new();
    for (at, listener) in listeners.iter().enumerate() {
        let references = listener.tls.iter().flat_map(|tls| &tls.certificate_refs);
        for (number, reference) in references.enumerate() {
            if reference.group.is_empty() && *reference.kind == *SECRET {
                let own = &*object.meta.namespace;
                all.push(Named {
                    field: format!("spec.listeners[{at}].tls.certificateRefs[{number}].name"),
                    name: &reference.name,
                    namespaces: [reference.namespace.as_ref().map_or(own, |it| &**it)].into(),
                    needs_authorities: false,
                });
            }
        }
    }
    all
}

impl Named<'_> {
    fn judge(&self, index: &Index<'_>, object: &Object) -> Option<Message> {
        let Self { field, name, namespaces, .. } = self;
        if namespaces.is_empty() || namespaces.iter().any(|it| index.is_refused(SECRET, it, name)) {
            return None;
        }
        let mut found = namespaces.iter().filter_map(|namespace| index.secret(namespace, name)).peekable();
        if found.peek().is_some() {
            let reasons: Vec<_> = found.map(|secret| self.unfit(index, secret)).collect();
            let reason = reasons.into_iter().reduce(Option::and).flatten()?;
            let reason = format!("Secret {} {reason}", quote(name));
            return Some(Message::new(Code::InvalidGatewayCredential, object, field, reason));
        }
        let is_known = namespaces.iter().all(|namespace| index.knows_secrets_of(namespace));
        let places: Vec<_> = namespaces.iter().copied().collect();
        let reason = format!("there is no Secret {} in namespace {}", quote(name), places.join(", "));
        is_known.then(|| Message::new(Code::ReferencedResourceNotFound, object, field, reason))
    }

    /// Why a Secret is of no use here.
    fn unfit(&self, index: &Index<'_>, secret: &Secret) -> Option<String> {
        if let SecretKind::Other(kind) = &secret.kind {
            return Some(format!("is of type {}, which is not for certificates", quote(kind)));
        }
        let is_pem =
            |material: &Option<Material>, label| material.as_ref().is_some_and(|it| it.is_pem(label));
        if !is_pem(&secret.certificate, "CERTIFICATE") {
            return Some("has no certificate in tls.crt or cert".to_owned());
        }
        if !is_pem(&secret.key, "PRIVATE KEY") {
            return Some("has no private key in tls.key or key".to_owned());
        }
        let authorities = self.authorities();
        let elsewhere = || self.namespaces.iter().any(|it| index.exists(SECRET, it, &authorities));
        let lacks = self.needs_authorities && !is_pem(&secret.ca, "CERTIFICATE") && !elsewhere();
        lacks.then(|| {
            format!("has no ca.crt or cacert, nor is there {}: no client can be checked", quote(&authorities))
        })
    }

    /// The Secret that may say who signs clients' certificates in place of the one that is named.
    fn authorities(&self) -> String {
        format!("{}-cacert", self.name)
    }
}

const SECRET: &str = "Secret";
