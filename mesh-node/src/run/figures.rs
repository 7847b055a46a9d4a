//! Metrics of the parts that do not report connections: the kernel programs and the certificates.

use std::{
    fmt,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::UNIX_EPOCH,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::state::NodeState;
use crate::identity::IdentityStore;

/// Adds this node's figures to every scrape.
pub struct Figures(pub Arc<NodeState>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Figures").field(&self.0.node).finish()
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.0.maps.lock().unwrap_or_else(PoisonError::into_inner).stats();
        let help = "Decisions of the kernel programs.";
        let mut family = encoder.encode_descriptor("mesh_ebpf_events", help, None, MetricType::Counter)?;
        for (event, count) in stats {
            family.encode_family(&[("event", event)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        encode_certificates(&self.0.identities, &mut encoder)
    }
}

/// The figures of a process's own certificates.
pub fn encode_certificates(identities: &IdentityStore, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let totals = identities.counters();
    for (name, help, value) in [
        ("mesh_certificates_issued", "Certificates issued to this node's pods.", &totals.issued),
        ("mesh_certificate_rotations", "Certificates that took the place of older ones.", &totals.rotated),
        ("mesh_certificate_failures", "Attempts to issue a certificate that failed.", &totals.failed),
        ("mesh_trust_bundle_changes", "Changes of roots or revocation lists.", &totals.bundle_changes),
        (
            "mesh_trust_bundle_failures",
            "Looks at roots and revocation lists that failed.",
            &totals.bundle_failures,
        ),
    ] {
        counter(encoder, name, help, value)?;
    }
    let bundle = identities.trust().bundle();
    let roots = i64::try_from(bundle.roots().len()).unwrap_or(i64::MAX);
    gauge(encoder, "mesh_trust_bundle_roots", "Root certificates that peers may be under.", roots)?;
    let next = bundle.crls().next_update().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let Some(next) = next.and_then(|next| i64::try_from(next.as_secs()).ok()) else { return Ok(()) };
    let help = "When the first revocation list should have been replaced, in seconds since 1970.";
    gauge(encoder, "mesh_crl_next_update_timestamp_seconds", help, next)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: &AtomicU64) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    family.encode_counter::<NoLabelSet, _, u64>(&value.load(Ordering::Relaxed), None)
}
