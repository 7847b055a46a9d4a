//! What routes and listeners refer to.

use std::sync::Arc;

use super::grants::Referred;
use super::{Grants, Resources, RouteKind};
use crate::resource::gateway_api::{Backend, SecretRef};
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
        let port = backend.port.map(|port| port.get());
        if *backend.group == *ISTIO && *backend.kind == *"Hostname" {
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

impl Resources<'_> {
    /// The name by which the process of a Gateway in namespace `gateway` knows a Secret that an object of the kind and the
    /// namespace of `from` refers to on its behalf: the Secret's own, or `NAMESPACE/NAME` for one of another namespace.
    pub(crate) fn credential(
        &self,
        from: (&str, &str),
        gateway: &str,
        secret: &SecretRef,
    ) -> Result<String, CertificateFault> {
        if !(secret.group.is_empty() && *secret.kind == *"Secret") {
            return Err(CertificateFault::InvalidCertificateRef);
        }
        let of = secret.namespace.as_deref().unwrap_or(from.1);
        let to = Referred { group: "", kind: "Secret", namespace: of, name: &secret.name };
        if !self.grants.permit(from.0, from.1, to) {
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
