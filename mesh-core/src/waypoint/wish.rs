//! What labels and annotations say about waypoints.

use std::sync::Arc;

use super::{GATEWAY_NAME, Labels};
use crate::resource::Meta;

/// What an object asks for, for itself or, as a namespace, for what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) primary: Option<Asked>,
    pub(super) canary: Option<Canary>,
    /// Whether gateways are to send their requests through it.
    pub(super) ingress: Option<bool>,
    /// The Gateway that it says it is of itself.
    pub(super) runs: Option<Arc<str>>,
}

/// A waypoint by name, of its own namespace unless it says another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) name: Arc<str>,
    pub(super) namespace: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Canary {
    pub(super) asked: Asked,
    /// From 0 to 100; `None` if it says something else.
    pub(super) percent: Option<u8>,
}

impl Wish {
    pub(super) fn of(meta: &Meta) -> Self {
        let wish = Self::of_labels(&meta.labels);
        let canary = Asked::of(&meta.labels, CANARY, CANARY_NAMESPACE);
        let percent = match meta.annotations.get(CANARY_WEIGHT) {
            None => Some(0),
            Some(text) => text.trim().parse().ok().filter(|percent| *percent <= 100),
        };
        Self { canary: canary.map(|asked| Canary { asked, percent }), ..wish }
    }

    /// Of what has no canary.
    pub(super) fn of_labels(labels: &Labels) -> Self {
        Self {
            primary: Asked::of(labels, USE_WAYPOINT, USE_WAYPOINT_NAMESPACE),
            canary: None,
            ingress: label(labels, INGRESS_USE_WAYPOINT).map(|value| *value == *"true"),
            runs: label(labels, GATEWAY_NAME),
        }
    }
}

impl Asked {
    fn of(labels: &Labels, name: &str, namespace: &str) -> Option<Self> {
        Some(Self { name: label(labels, name)?, namespace: label(labels, namespace) })
    }
}

/// Whether labels ask for a waypoint, or for none.
pub(super) fn asks(labels: &Labels) -> bool {
    label(labels, USE_WAYPOINT).is_some()
}

/// The value of a label; an empty one says nothing.
pub(super) fn label(labels: &Labels, key: &str) -> Option<Arc<str>> {
    labels.get(key).filter(|value| !value.is_empty()).map(|value| value.as_str().into())
}

/// Istio's labels.
const USE_WAYPOINT: &str = "istio.io/use-waypoint";
const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const INGRESS_USE_WAYPOINT: &str = "istio.io/ingress-use-waypoint";
const CANARY: &str = "istio.io/use-waypoint-canary";
const CANARY_NAMESPACE: &str = "istio.io/use-waypoint-canary-namespace";
/// And its annotation.
const CANARY_WEIGHT: &str = "istio.io/use-waypoint-canary-weight";
