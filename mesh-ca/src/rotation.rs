//! From one root to the next without a failed handshake: add, switch, remove.
//!
//! 1. [`Step::Begin`] adds the next root to what everybody trusts; the old one still signs.
//! 2. [`Step::Switch`] signs with the next one; the old root is still trusted.
//! 3. [`Step::Finish`] removes the old root and its key.
//!
//! Between two steps lies a dwell: the life of the longest certificate, and the time that a new bundle takes to reach
//! everybody. Before its end somebody may not yet trust what the next step begins to use, or may still use what the
//! next step takes away, so an earlier step is refused and there is no way around it. [`Step::Abort`] takes back a
//! beginning that has signed nothing yet.
//!
//! The entry `rotation.json` says which phase it is; everything else about a step is written before it, so that its
//! replacement is the step.

use std::fmt;
use std::time::{Duration, SystemTime};

use mesh_core::id::TrustDomain;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::error::CaError;
use crate::material::{self, CURRENT, Material, NEXT, ROTATION};
use crate::vault::{Change, Contents};

mod steps;

pub use steps::{RootStatus, RotateError, Status, abort, begin, finish, status, switch};

/// How far a change of the root has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// No change has ever been made, or the last one was taken back.
    #[default]
    Steady,
    /// The next root is trusted, the old one signs.
    Added,
    /// The next root signs, the old one is trusted.
    Switched,
    /// The old root is gone; otherwise like [`Phase::Steady`].
    Removed,
}

/// What can be done about the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Add the next root.
    Begin,
    /// Sign with the next root.
    Switch,
    /// Remove the old root.
    Finish,
    /// Take back what was begun.
    Abort,
}

/// What the time between two steps is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dwell {
    /// The longest life of a certificate of this CA; see [`crate::Limits::max_ttl`].
    pub longest_leaf: Duration,
    /// How long until everybody has a new bundle and asks the CA as it is now.
    pub propagation: Duration,
}

impl Dwell {
    /// The dwell for certificates of at most `longest_leaf`, with [`DEFAULT_PROPAGATION`].
    pub const fn of(longest_leaf: Duration) -> Self {
        Self { longest_leaf, propagation: DEFAULT_PROPAGATION }
    }

    fn seconds(self) -> u64 {
        let total = self.longest_leaf.saturating_add(self.propagation);
        // A part of a second counts as a whole one.
        total.as_secs().saturating_add(1)
    }
}

/// The state of a change of the root. Pure: every step makes a new one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rotation {
    phase: Phase,
    /// When the phase began, in seconds since 1970.
    since: u64,
    /// How long it lasts at least.
    dwell_seconds: u64,
    /// What certificates were and are limited to, for as long as the change goes on.
    longest_leaf_seconds: u64,
    /// SHA-256 of the roots that go away at the end.
    retiring: Vec<String>,
}

/// Why a step is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// It is another step's turn.
    #[error("cannot {step}: {}", explain(*phase))]
    WrongPhase {
        /// What was asked for.
        step: Step,
        /// How far the change has come.
        phase: Phase,
    },
    /// The dwell is not over.
    #[error("cannot {step} yet: certificates and bundles from before are in use for another {} seconds", left.as_secs())]
    TooEarly {
        /// What was asked for.
        step: Step,
        /// How long to wait.
        left: Duration,
    },
}

impl Rotation {
    /// The state that `contents` tell of.
    pub fn load(contents: &Contents) -> Result<Self, CaError> {
        let Some(text) = contents.get(ROTATION) else { return Ok(Self::default()) };
        serde_json::from_slice(text).map_err(material::malformed(&contents.place_of(ROTATION)))
    }

    /// The state after `step` at `now`, if it is its turn and its time.
    pub fn step(&self, step: Step, dwell: Dwell, now: SystemTime) -> Result<Self, StepError> {
        let phase = match (self.phase, step) {
            (Phase::Steady | Phase::Removed, Step::Begin) => Phase::Added,
            (Phase::Added, Step::Switch) => Phase::Switched,
            (Phase::Switched, Step::Finish) => Phase::Removed,
            (Phase::Added, Step::Abort) => Phase::Steady,
            (phase, step) => return Err(StepError::WrongPhase { step, phase }),
        };
        let left = self.time_left(dwell, now);
        if matches!(step, Step::Switch | Step::Finish) && left > Duration::ZERO {
            return Err(StepError::TooEarly { step, left });
        }
        // A new change owes nothing to the one before it.
        let before = if step == Step::Begin { Self::default() } else { self.clone() };
        Ok(Self {
            phase,
            since: seconds(now),
            dwell_seconds: before.dwell_seconds.max(dwell.seconds()),
            longest_leaf_seconds: before.longest_leaf_seconds.max(dwell.longest_leaf.as_secs()),
            retiring: before.retiring,
        })
    }

    /// How long until the next step may be taken, with at least `dwell`.
    ///
    /// A clock that has been set back makes it longer, never shorter.
    pub fn time_left(&self, dwell: Dwell, now: SystemTime) -> Duration {
        if !self.is_under_way() {
            return Duration::ZERO;
        }
        let end = self.since.saturating_add(self.dwell_seconds.max(dwell.seconds()));
        Duration::from_secs(end.saturating_sub(seconds(now)))
    }

    /// How far it has come.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When the phase began; `None` if nothing has ever been changed.
    pub fn since(&self) -> Option<SystemTime> {
        (self.since > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(self.since))
    }

    /// What lifetimes are limited to while the change goes on: its dwells count on no longer ones.
    pub(crate) fn longest_leaf(&self) -> Option<Duration> {
        self.is_under_way().then(|| Duration::from_secs(self.longest_leaf_seconds.max(1)))
    }

    pub(crate) fn is_under_way(&self) -> bool {
        matches!(self.phase, Phase::Added | Phase::Switched)
    }

    pub(crate) fn retiring(&self) -> &[String] {
        &self.retiring
    }

    pub(crate) fn with_retiring(self, retiring: Vec<String>) -> Self {
        Self { retiring, ..self }
    }

    pub(crate) fn change(&self) -> Change {
        let text = serde_json::to_vec_pretty(self).expect("numbers and texts are JSON");
        Change::put(ROTATION, text)
    }

    /// What signs in this phase, and the roots that are trusted besides its own.
    pub(crate) fn materials(
        &self,
        contents: &Contents,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<(Material, Vec<CertificateDer<'static>>), CaError> {
        let (signer, other) = match self.phase {
            Phase::Steady | Phase::Removed => (&CURRENT, None),
            Phase::Added => (&CURRENT, Some(&NEXT)),
            Phase::Switched => (&NEXT, Some(&CURRENT)),
        };
        let material = Material::load(contents, signer, domain, now)?;
        let Some(other) = other else { return Ok((material, Vec::new())) };
        let place = contents.place_of(other.root);
        let pem = contents.get(other.root).ok_or_else(|| CaError::Missing { place: place.clone() })?;
        Ok((material, material::certificates(pem, &place)?))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begin => "begin",
            Self::Switch => "switch",
            Self::Finish => "finish",
            Self::Abort => "abort",
        })
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Steady => "steady",
            Self::Added => "added",
            Self::Switched => "switched",
            Self::Removed => "removed",
        })
    }
}

fn explain(phase: Phase) -> &'static str {
    match phase {
        Phase::Steady | Phase::Removed => "no change of the root is under way, the next step is begin",
        Phase::Added => "the next root has been added and signs nothing yet, the next step is switch",
        Phase::Switched => "the next root signs, the next step is finish",
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Nodes look at their CA once a minute; the rest is for a control plane that is being restarted.
pub const DEFAULT_PROPAGATION: Duration = Duration::from_secs(10 * 60);

#[cfg(test)]
mod tests;
