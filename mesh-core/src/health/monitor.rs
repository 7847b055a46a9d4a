//! What is known of the endpoints of a cluster by asking them. A state machine: it says whom to ask when, and is told what
//! came of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Check;
use crate::balance::Health;
use crate::model::EndpointId;

/// The endpoints of one cluster that are asked, for one client.
#[derive(Debug, Default)]
pub struct Monitor {
    members: HashMap<EndpointId, Member>,
    unhealthy: usize,
    generation: u64,
    /// Of questions so far.
    asked: u64,
}

/// What an endpoint is known to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has answered yet: it is used.
    #[default]
    Unknown,
    /// Used.
    Healthy,
    /// Left out.
    Unhealthy,
}

/// Somebody to be asked. Whoever has it says what came of it by [`Monitor::record`], or that nothing did by
/// [`Monitor::give_back`].
#[derive(Debug, Clone)]
pub struct Question {
    /// Who.
    pub id: EndpointId,
    /// How.
    pub check: Arc<Check>,
    number: u64,
}

/// An answer made a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The endpoint is left out from now on.
    LeftOut,
    /// The endpoint is back.
    Back,
}

/// An endpoint, for whoever wants to look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Who.
    pub id: EndpointId,
    /// What asks for the check.
    pub by: Arc<str>,
    /// What it is known to be.
    pub standing: Standing,
    /// How the last question failed; empty if it did not.
    pub reason: Arc<str>,
}

#[derive(Debug)]
struct Member {
    check: Arc<Check>,
    due: Instant,
    /// The question that is under way.
    asking: Option<u64>,
    standing: Standing,
    /// Answers in a row that speak against the standing.
    against: u32,
    reason: Arc<str>,
}

impl Monitor {
    /// Those who are asked are these now. What is known of those that stay, and are asked as before, stays.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = (EndpointId, Arc<Check>)>, now: Instant) {
        let mut old = std::mem::take(&mut self.members);
        self.members = members
            .into_iter()
            .map(|(id, check)| match old.remove(&id).filter(|member| member.check == check) {
                Some(member) => (id, member),
                None => (id, Member::new(check, now)),
            })
            .collect();
        self.count();
    }

    /// Whether nobody is asked.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// At most so many of those who are to be asked now. They are not told again until an answer is recorded.
    pub fn due(&mut self, now: Instant, most: usize) -> Vec<Question> {
        let waiting =
            self.members.iter_mut().filter(|(_, member)| member.asking.is_none() && member.due <= now);
        let questions = waiting.take(most).map(|(id, member)| {
            self.asked += 1;
            member.asking = Some(self.asked);
            Question { id: *id, check: Arc::clone(&member.check), number: self.asked }
        });
        questions.collect()
    }

    /// When [`Self::due`] has somebody; `None` while nobody waits for a question.
    pub fn next_due(&self) -> Option<Instant> {
        self.members.values().filter(|member| member.asking.is_none()).map(|member| member.due).min()
    }

    /// Takes note of an answer; `Err` says what is wrong with it. The next question comes after the interval, a tenth more or
    /// less by `seed`. An answer to a question that is not this monitor's last one of the endpoint is ignored.
    pub fn record(
        &mut self,
        question: &Question,
        answer: Result<(), &str>,
        (now, seed): (Instant, u64),
    ) -> Option<Change> {
        let member = self.members.get_mut(&question.id)?;
        if member.asking != Some(question.number) {
            return None;
        }
        member.asking = None;
        member.due = now + jittered(member.check.interval, seed);
        let reason = answer.err().unwrap_or_default();
        if *member.reason != *reason {
            member.reason = reason.into();
        }
        let change = member.weigh(answer.is_ok());
        if change.is_some() {
            self.count();
        }
        change
    }

    /// Nothing came of a question: somebody else may ask at once.
    pub fn give_back(&mut self, question: &Question) {
        if let Some(member) = self.members.get_mut(&question.id)
            && member.asking == Some(question.number)
        {
            member.asking = None;
        }
    }

    /// How many are left out.
    pub fn unhealthy(&self) -> usize {
        self.unhealthy
    }

    /// All of them, in no order.
    pub fn views(&self) -> impl Iterator<Item = View> {
        self.members.iter().map(|(id, member)| View {
            id: *id,
            by: Arc::clone(&member.check.by),
            standing: member.standing,
            reason: Arc::clone(&member.reason),
        })
    }

    /// Who is left out has changed, or may have.
    fn count(&mut self) {
        self.unhealthy =
            self.members.values().filter(|member| member.standing == Standing::Unhealthy).count();
        self.generation += 1;
    }
}

impl Health for Monitor {
    fn generation(&self) -> u64 {
        self.generation
    }

    fn is_ejected(&self, id: EndpointId) -> bool {
        self.unhealthy > 0
            && self.members.get(&id).is_some_and(|member| member.standing == Standing::Unhealthy)
    }
}

impl Member {
    fn new(check: Arc<Check>, now: Instant) -> Self {
        let due = now + check.delay;
        Self { check, due, asking: None, standing: Standing::Unknown, against: 0, reason: "".into() }
    }

    /// The first answer counts at once, as with Envoy: until then nothing was known.
    fn weigh(&mut self, is_good: bool) -> Option<Change> {
        let (limit, change) = match (self.standing, is_good) {
            (Standing::Unknown, true) => {
                self.standing = Standing::Healthy;
                return None;
            }
            (Standing::Healthy, true) | (Standing::Unhealthy, false) => {
                self.against = 0;
                return None;
            }
            (Standing::Unknown, false) => (1, Change::LeftOut),
            (Standing::Healthy, false) => (self.check.unhealthy, Change::LeftOut),
            (Standing::Unhealthy, true) => (self.check.healthy, Change::Back),
        };
        self.against += 1;
        if self.against < limit {
            return None;
        }
        self.against = 0;
        self.standing = if change == Change::Back { Standing::Healthy } else { Standing::Unhealthy };
        Some(change)
    }
}

/// One [`Monitor`] for all data threads: each question is asked by one of them, and what is answered counts for all. Who is
/// left out is looked up only where [`Health::generation`] has changed; the lock is never held while waiting.
#[derive(Debug, Default)]
pub struct SharedMonitor {
    generation: AtomicU64,
    inner: Mutex<Monitor>,
}

impl SharedMonitor {
    /// As [`Monitor::set_members`].
    pub fn set_members(&self, members: impl IntoIterator<Item = (EndpointId, Arc<Check>)>, now: Instant) {
        self.with(|monitor| monitor.set_members(members, now));
    }

    /// As [`Monitor::is_empty`].
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// As [`Monitor::due`].
    pub fn due(&self, now: Instant, most: usize) -> Vec<Question> {
        self.with(|monitor| monitor.due(now, most))
    }

    /// As [`Monitor::next_due`].
    pub fn next_due(&self) -> Option<Instant> {
        self.lock().next_due()
    }

    /// As [`Monitor::record`].
    pub fn record(
        &self,
        question: &Question,
        answer: Result<(), &str>,
        at: (Instant, u64),
    ) -> Option<Change> {
        self.with(|monitor| monitor.record(question, answer, at))
    }

    /// As [`Monitor::give_back`].
    pub fn give_back(&self, question: &Question) {
        self.with(|monitor| monitor.give_back(question));
    }

    /// As [`Monitor::views`].
    pub fn views(&self) -> Vec<View> {
        self.lock().views().collect()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Monitor) -> T) -> T {
        let mut monitor = self.lock();
        let result = act(&mut monitor);
        self.generation.store(monitor.generation(), Ordering::Release);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Monitor> {
        // Nothing panics while it is held; if it did, a lost answer would be the worst of it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health for SharedMonitor {
    /// Does not take the lock.
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Takes the lock.
    fn is_ejected(&self, id: EndpointId) -> bool {
        self.lock().is_ejected(id)
    }
}

/// A tenth more or less: those who began together need not ask together for ever.
fn jittered(interval: Duration, seed: u64) -> Duration {
    let part = u32::try_from(seed % PARTS).unwrap_or(0);
    let parts = u32::try_from(PARTS).unwrap_or(u32::MAX);
    interval * 9 / 10 + interval / 5 * part / parts
}

/// Steps of the jitter.
const PARTS: u64 = 1_024;

#[cfg(test)]
mod tests;
