//! Faults that are made on purpose.

use std::time::Duration;

use crate::resource::networking::virtual_service::{self, AbortError};
use crate::resource::value::Percent;

/// Makes requests wait or fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    delay: Option<(Duration, Percent)>,
    abort: Option<(AbortError, Percent)>,
}

/// What happens to one request: first it waits, then it fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Injection {
    /// For how long it waits.
    pub delay: Option<Duration>,
    /// How it fails, without being sent.
    pub abort: Option<AbortError>,
}

impl Fault {
    /// `None` for one that never happens.
    pub(super) fn of(fault: &virtual_service::Fault) -> Option<Self> {
        let delay = fault.delay.as_ref().and_then(|it| Some((it.fixed_delay?.get(), it.share())));
        let abort = fault.abort.as_ref().and_then(|it| Some((it.error()?, it.share())));
        let delay = delay.filter(|(_, share)| *share > Percent::default());
        let abort = abort.filter(|(_, share)| *share > Percent::default());
        (delay.is_some() || abort.is_some()).then_some(Self { delay, abort })
    }

    /// How requests are made to wait, and which share of them.
    pub fn delay(&self) -> Option<(Duration, Percent)> {
        self.delay
    }

    /// How requests are made to fail, and which share of them.
    pub fn abort(&self) -> Option<(AbortError, Percent)> {
        self.abort
    }

    /// What happens to a request. Both lots are drawn from all of `u64`, and independent.
    pub fn decide(&self, delay_lot: u64, abort_lot: u64) -> Injection {
        Injection {
            delay: self.delay.filter(|(_, share)| is_drawn(*share, delay_lot)).map(|(delay, _)| delay),
            abort: self.abort.filter(|(_, share)| is_drawn(*share, abort_lot)).map(|(abort, _)| abort),
        }
    }
}

/// Whether a request is of the `share` that something happens to. `lot` is drawn from all of `u64`.
pub fn is_drawn(share: Percent, lot: u64) -> bool {
    // The whole range is cut into a million parts whose sizes differ by one lot at most.
    (u128::from(lot) * MILLION) >> 64 < u128::from(share.parts_per_million())
}

const MILLION: u128 = 1_000_000;
