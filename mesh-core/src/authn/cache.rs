//! Tokens that were checked: a signature costs some hundred times what finding it here does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::provider::Accepted;

/// Tokens that rules have accepted, each for as long as it holds. Threads share it.
///
/// It is bounded: entries are in two generations, and when the younger is full the older goes. A rule that changes, or whose keys
/// do, is another rule, which has accepted nothing yet.
#[derive(Debug, Default)]
pub struct Cache(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Tail, Entry>,
    old: HashMap<Tail, Entry>,
    /// Bytes of the tokens in the younger.
    bytes: usize,
}

/// Tells most tokens apart without reading all of them: the end of the signature, which only the owner of a key can choose. The
/// whole token is compared afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Tail {
    provider: u64,
    length: usize,
    end: [u8; 32],
}

#[derive(Debug, Clone)]
struct Entry {
    token: Box<str>,
    /// Seconds since the Unix epoch, the first at which it does not hold.
    until: u64,
    accepted: Arc<Accepted>,
}

impl Tail {
    fn of(provider: u64, token: &str) -> Self {
        let mut end = [0; 32];
        let from = token.len().saturating_sub(end.len());
        let last = token.as_bytes().get(from..).unwrap_or_default();
        end.iter_mut().zip(last).for_each(|(to, from)| *to = *from);
        Self { provider, length: token.len(), end }
    }
}

impl Cache {
    /// What a rule has found in a token before, if that still holds.
    pub(super) fn find(&self, provider: u64, token: &str, now: u64) -> Option<Arc<Accepted>> {
        let tail = Tail::of(provider, token);
        let known = self.lock();
        let entry = known.young.get(&tail).or_else(|| known.old.get(&tail))?;
        (*entry.token == *token && now < entry.until).then(|| Arc::clone(&entry.accepted))
    }

    pub(super) fn keep(&self, provider: u64, token: &str, accepted: &Arc<Accepted>, until: u64) {
        let entry = Entry { token: token.into(), until, accepted: Arc::clone(accepted) };
        let mut known = self.lock();
        if known.young.len() >= MAX_YOUNG || known.bytes.saturating_add(token.len()) > MAX_YOUNG_BYTES {
            known.old = std::mem::take(&mut known.young);
            known.bytes = 0;
        }
        known.bytes += token.len();
        known.young.insert(Tail::of(provider, token), entry);
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens of the younger generation.
const MAX_YOUNG: usize = 4096;
/// Their bytes; what they say takes some four times as much beside.
const MAX_YOUNG_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_the_oldest_go() {
        let cache = Cache::default();
        let accepted = Arc::new(Accepted::default());
        let token = |number: usize| format!("token-{number}");
        for number in 0..3 * MAX_YOUNG {
            cache.keep(1, &token(number), &accepted, 10);
        }
        let known = |number| cache.find(1, &token(number), 9).is_some();
        assert!(!known(0) && !known(MAX_YOUNG - 1), "gone");
        assert!(known(MAX_YOUNG) && known(3 * MAX_YOUNG - 1), "there");
        let held = cache.lock();
        assert_eq!((held.young.len(), held.old.len()), (MAX_YOUNG, MAX_YOUNG));
        drop(held);
        let long = "x".repeat(16 << 10);
        (0..3000).for_each(|number| cache.keep(number, &long, &accepted, 10));
        let held = cache.lock();
        let bytes = |all: &HashMap<Tail, Entry>| all.values().map(|it| it.token.len()).sum::<usize>();
        assert!(bytes(&held.young) <= MAX_YOUNG_BYTES && bytes(&held.old) <= MAX_YOUNG_BYTES);
    }

    #[test]
    fn only_the_same_token_of_the_same_rule_is_found_and_in_its_time() {
        let cache = Cache::default();
        let accepted = Arc::new(Accepted::default());
        let end = "e".repeat(40);
        cache.keep(1, &format!("one{end}"), &accepted, 10);
        let found =
            |provider, start: &str, now| cache.find(provider, &format!("{start}{end}"), now).is_some();
        assert!(found(1, "one", 9));
        assert!(!found(1, "one", 10), "its time is over");
        assert!(!found(2, "one", 9), "another rule");
        assert!(!found(1, "two", 9), "the same end");
        assert!(!found(1, "three", 9));
    }
}
