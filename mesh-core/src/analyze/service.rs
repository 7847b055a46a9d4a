//! Ports of Services: names by which the mesh knows what they speak.

use k8s_openapi::api::core::v1::ServicePort;

use super::index::Index;
use super::{Code, Message};
use crate::model::real_name;
use crate::resource::{Object, Spec, quote};

pub(super) fn analyze(index: &Index<'_>, messages: &mut Vec<Message>) {
    for object in index.objects {
        let Spec::Service(service) = &object.spec else { continue };
        if index.is_system(&object.meta.namespace) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let is_alias = spec.type_.as_deref() == Some("ExternalName");
        messages.extend(real_name(service).and_then(|real| circle(index, object, real)));
        for (at, port) in spec.ports.iter().flatten().enumerate() {
            messages.extend(judge(object, at, port, is_alias));
        }
    }
}

/// Says so if an alias leads to itself, or on and on.
fn circle(index: &Index<'_>, object: &Object, real: &str) -> Option<Message> {
    if index.hosts.real(real, &object.meta.namespace).is_some() {
        return None;
    }
    let reason =
        format!("{} leads back here or through too many aliases: the name leads nowhere", quote(real));
    let message = Message::new(Code::ReferencedResourceNotFound, object, "spec.externalName", reason);
    Some(message.hint("name a host that is no Service of type ExternalName"))
}

fn judge(object: &Object, at: usize, port: &ServicePort, is_alias: bool) -> Option<Message> {
    if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
        return None;
    }
    let name = port.name.as_deref().unwrap_or_default();
    let (field, text) = match port.app_protocol.as_deref() {
        Some(protocol) => (format!("spec.ports[{at}].appProtocol"), protocol),
        None => (format!("spec.ports[{at}].name"), name),
    };
    let is_unclear = !says_protocol(text) && !SILENT_PORTS.contains(&port.port);
    if is_alias && (is_unclear || name == "tcp") {
        let code = Code::ExternalNameServiceTypeInvalidPortName;
        let reason = format!(
            "ports of an alias say nothing here, but to proxies that read them {} means all TCP to port {}",
            quote(text),
            port.port
        );
        return Some(
            Message::new(code, object, field, reason).hint(format!("name the protocol, {PROTOCOL_HINT}")),
        );
    }
    if !is_unclear {
        return None;
    }
    let reason = match text {
        "" => format!("port {} has no name, so nothing says what it speaks", port.port),
        text => format!("{} does not say what port {} speaks", quote(text), port.port),
    };
    let message = Message::new(Code::PortNameIsNotUnderNamingConvention, object, field, reason);
    Some(message.hint(format!("write PROTOCOL or PROTOCOL-SUFFIX, {PROTOCOL_HINT}")))
}

/// `PROTOCOL` or `PROTOCOL-SUFFIX` in any case; or one of the names that Kubernetes has for `appProtocol`.
fn says_protocol(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let first = text.split_once('-').map_or(text.as_str(), |(first, _)| first);
    KUBERNETES.contains(&text.as_str()) || PROTOCOLS.contains(&first)
}

const PROTOCOL_HINT: &str = "for example http, http2-web, grpc or tcp-db";

/// What a name can begin with. `grpc-web` begins with `grpc`.
const PROTOCOLS: [&str; 11] =
    ["grpc", "hbone", "http", "http2", "https", "mongo", "mysql", "redis", "tcp", "tls", "udp"];

/// Standard names of `appProtocol`.
const KUBERNETES: [&str; 3] = ["kubernetes.io/h2c", "kubernetes.io/ws", "kubernetes.io/wss"];

/// Well-known ports of mail, DNS and two databases, where nobody would expect HTTP.
const SILENT_PORTS: [i32; 4] = [25, 53, 3306, 27017];
