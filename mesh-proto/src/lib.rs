//! What travels between control plane and data plane: ambient Istio's workload discovery and certificates, and this
//! mesh's own types beside them; and the way of each into the types of `mesh-core` and back.
//!
//! Invariant: what comes out of [`decode`] obeys the invariants of the model's types, or is an error that names the
//! resource and the field. A resource is decoded alone: a bad one costs the others nothing.
#![forbid(unsafe_code)]

pub use self::generated::{als, authz, ca, discovery, mesh, otlp, ratelimit, security, topology, workload};

pub mod check;
pub mod codec;
pub mod decode;
pub mod encode;
pub mod limit;
pub mod logs;
pub mod names;
mod policy;
pub mod protocol;
pub mod spans;

/// Messages and services; `proto/` says what they mean.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::excessive_nesting,
    clippy::large_enum_variant,
    clippy::pedantic,
    reason = "generated"
)]
mod generated {
    /// Istio's workload API.
    pub mod workload {
        tonic::include_proto!("istio.workload");
    }

    /// Istio's policy API.
    pub mod security {
        tonic::include_proto!("istio.security");
    }

    /// Incremental xDS.
    pub mod discovery {
        tonic::include_proto!("envoy.service.discovery.v3");
    }

    /// Istio's certificate service.
    pub mod ca {
        tonic::include_proto!("istio.v1.auth");
    }

    /// Envoy's external authorizer.
    pub mod authz {
        tonic::include_proto!("envoy.service.auth.v3");
    }

    /// Envoy's rate limit service.
    pub mod ratelimit {
        tonic::include_proto!("envoy.service.ratelimit.v3");
    }

    /// What proxies tell of the traffic that they carry.
    pub mod topology {
        tonic::include_proto!("mesh.topology.v1");
    }

    /// Envoy's access log service.
    pub mod als {
        tonic::include_proto!("mesh.als.v1");
    }

    /// Spans and logs for collectors of OpenTelemetry.
    pub mod otlp {
        tonic::include_proto!("mesh.otlp.v1");
    }

    /// What only this mesh's own components say to each other.
    pub mod mesh {
        tonic::include_proto!("mesh.discovery.v1");
    }
}

#[cfg(test)]
mod tests;
