//! What routes and listeners refer to.

use std::sync::Arc;

use super::grants::Referred;
use super::{Grants, Name, Owner, Resources, RouteKind};
use crate::resource::ObjectKey;
use crate::resource::gateway_api::{Backend, CertificateMode, GatewaySpec, ObjectRef, SecretRef};
use crate::resource::value::Port;
use crate::route::{Backends, ClusterRef};

/// The backends of the routes of one kind and namespace.
#[derive(Debug, Clone, Copy)]
pub struct RouteBackends<'a> {
    /// Who may refer to what.
    pub grants: &'a Grants<'a>,
    /// Who refers.
    pub kind: RouteKind,
    /// Where they are.
    pub namespace: &'a str,
}

/// Why nothing is sent to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendFault {
    /// It is no Service, and no host either.
    InvalidKind,
    /// It is of another namespace, which has not permitted it.
    RefNotPermitted,
}

impl RouteBackends<'_> {
    /// The cluster that a backend means.
    pub fn resolve(&self, backend: &Backend) -> Result<ClusterRef, BackendFault> {
        let port = backend.port.map(Port::get);
        // Of what a ServiceEntry says about UDP nothing is kept.
        if self.kind != RouteKind::Udp && *backend.group == *ISTIO && *backend.kind == *"Hostname" {
            return Ok(ClusterRef { host: Arc::from(&*backend.name), subset: None, port });
        }
        if !backend.is_service() {
            return Err(BackendFault::InvalidKind);
        }
        let namespace = backend.namespace.as_deref().unwrap_or(self.namespace);
        let to = Referred { group: "", kind: "Service", namespace, name: &backend.name };
        if !self.grants.permit(self.kind.name(), self.namespace, to) {
            return Err(BackendFault::RefNotPermitted);
        }
        Ok(ClusterRef { host: service_host(&backend.name, namespace), subset: None, port })
    }
}

impl Backends for RouteBackends<'_> {
    fn find(&self, backend: &Backend) -> Option<ClusterRef> {
        self.resolve(backend).ok()
    }
}

/// Why a certificate is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFault {
    /// It is no Secret.
    InvalidCertificateRef,
    /// It is of another namespace, which has not permitted it.
    RefNotPermitted,
}

/// Who certifies the clients of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authorities {
    /// What the process of the Gateway knows all of them as, together.
    pub(crate) name: String,
    /// The objects that hold them, each in `ca.crt`.
    pub(crate) objects: Vec<ObjectKey>,
    /// Whether clients without a certificate of theirs are let in.
    pub(crate) is_optional: bool,
}

/// Why clients cannot be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityFault {
    /// Neither a ConfigMap nor a Secret.
    InvalidKind,
    /// It is of another namespace, which has not permitted it.
    RefNotPermitted,
}

impl Resources<'_> {
    /// Who certifies the clients of HTTPS on a port of a Gateway; `None` if nobody is asked for a certificate. With the
    /// fault comes the name of the object that has it.
    pub(crate) fn authorities<'s>(
        &self,
        (namespace, name): Name<'_>,
        spec: &'s GatewaySpec,
        port: Port,
    ) -> Option<Result<Authorities, (AuthorityFault, &'s str)>> {
        let validation = spec.tls.frontend.as_ref()?.of_port(port).validation.as_ref()?;
        let object = |it: &'s ObjectRef| {
            let kind =
                ["ConfigMap", "Secret"].into_iter().find(|kind| it.group.is_empty() && *it.kind == **kind);
            let kind = kind.ok_or((AuthorityFault::InvalidKind, &*it.name))?;
            let of = it.namespace.as_deref().unwrap_or(namespace);
            let to = Referred { group: "", kind, namespace: of, name: &it.name };
            if !self.grants.permit("Gateway", namespace, to) {
                return Err((AuthorityFault::RefNotPermitted, &*it.name));
            }
            Ok(ObjectKey { kind, namespace: of.into(), name: Arc::from(&*it.name) })
        };
        let objects = validation.ca_certificate_refs.iter().map(object).collect::<Result<_, _>>();
        let is_optional = validation.mode == CertificateMode::AllowInsecureFallback;
        Some(objects.map(|objects| Authorities {
            name: format!("clients/{name}/{port}"),
            objects,
            is_optional,
        }))
    }

    /// The name by which the process of a Gateway in namespace `gateway` knows a Secret that `from` refers to, which has
    /// listeners of it: the Secret's own, or `NAMESPACE/NAME` for one of another namespace.
    pub(crate) fn credential(
        &self,
        from: Owner<'_>,
        gateway: &str,
        secret: &SecretRef,
    ) -> Result<String, CertificateFault> {
        if !(secret.group.is_empty() && *secret.kind == *"Secret") {
            return Err(CertificateFault::InvalidCertificateRef);
        }
        let of = secret.namespace.as_deref().unwrap_or(from.name.0);
        let to = Referred { group: "", kind: "Secret", namespace: of, name: &secret.name };
        if !self.grants.permit(from.kind.name(), from.name.0, to) {
            return Err(CertificateFault::RefNotPermitted);
        }
        Ok(if of == gateway { secret.name.to_string() } else { format!("{of}/{}", secret.name) })
    }
}

/// The full name of a Service.
pub(super) fn service_host(name: &str, namespace: &str) -> Arc<str> {
    format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}").into()
}

const ISTIO: &str = "networking.istio.io";
/// What names of Services end with after `svc`.
const CLUSTER_DOMAIN: &str = "cluster.local";
