//! Metrics of a gateway beside those of its connections and requests.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::state::GatewayState;
use super::tls::Refused;
use crate::run::figures::encode_certificates;

/// Totals since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Attempts to listen that failed.
    pub(super) bind_failures: AtomicU64,
    /// Handshakes that came to nothing, by [`Refused`].
    refused: [AtomicU64; Refused::ALL.len()],
}

impl Counters {
    /// Counts a handshake that came to nothing.
    pub(super) fn refuse(&self, why: Refused) {
        if let Some(counter) = self.refused.get(why as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Adds a gateway's figures to every scrape.
pub(super) struct GatewayFigures {
    pub(super) state: Arc<GatewayState>,
    pub(super) counters: Arc<Counters>,
}

impl fmt::Debug for GatewayFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GatewayFigures").field(&self.state.name).finish()
    }
}

impl Collector for GatewayFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.state.edge.borrow().clone();
        let help = "Addresses that a gateway listens on, or should.";
        let mut family =
            encoder.encode_descriptor("mesh_gateway_listeners", help, None, MetricType::Gauge)?;
        let failing = status.listeners.iter().filter(|listener| listener.error.is_some()).count();
        for (state, count) in [("open", status.listeners.len() - failing), ("failed", failing)] {
            let gauge = u64::try_from(count).unwrap_or(u64::MAX);
            encode(&mut family.encode_family(&[("state", state)])?, &gauge)?;
        }
        let help = "Attempts to listen that failed.";
        let mut family =
            encoder.encode_descriptor("mesh_gateway_bind_failures", help, None, MetricType::Counter)?;
        let failures = self.counters.bind_failures.load(Ordering::Relaxed);
        family.encode_counter::<NoLabelSet, _, u64>(&failures, None)?;
        let help = "TLS handshakes with clients of a gateway that came to nothing.";
        let mut family =
            encoder.encode_descriptor("mesh_gateway_handshakes_refused", help, None, MetricType::Counter)?;
        for (why, counter) in Refused::ALL.iter().zip(&self.counters.refused) {
            let count = counter.load(Ordering::Relaxed);
            family
                .encode_family(&[("reason", why.reason())])?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let help = "When the certificate of a gateway's server ends, in seconds since 1970.";
        let name = "mesh_gateway_certificate_expiry_timestamp_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (fingerprint, not_after) in &status.certificates {
            encode(&mut family.encode_family(&[("fingerprint", fingerprint)])?, not_after)?;
        }
        encode_certificates(&self.state.identities, &mut encoder)
    }
}

fn encode(
    encoder: &mut prometheus_client::encoding::MetricEncoder<'_>,
    value: &impl EncodeGaugeValue,
) -> fmt::Result {
    encoder.encode_gauge(value)
}
