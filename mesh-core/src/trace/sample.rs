//! Which requests are traced, of those about which nobody has decided yet.

use super::context::Incoming;
use super::hex;
use crate::resource::value::Percent;

/// What there is to decide with.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// What the request says.
    pub incoming: &'a Incoming,
    /// Whether somebody who is trusted wants it (`x-envoy-force-trace`).
    pub forced: bool,
    /// `x-request-id`, where it decides: Envoy's way, by which all who meet a request decide the same.
    pub request_id: Option<&'a [u8]>,
    /// How many.
    pub sampling: Percent,
    /// A number drawn at random.
    pub draw: u64,
}

/// Whether a request is traced. A decision that came with it stays as it is.
pub fn is_traced(wish: &Wish<'_>) -> bool {
    if let Some(decided) = wish.incoming.decided {
        return decided;
    }
    let id = wish.request_id.filter(|id| looks_like_uuid(id));
    if wish.forced || id.is_some_and(is_marked) {
        return true;
    }
    is_drawn(id.and_then(number).map_or(wish.draw, drawn_by), wish.sampling)
}

/// Whether a draw is one of so many.
pub fn is_drawn(draw: u64, sampling: Percent) -> bool {
    draw % MILLION < u64::from(sampling.parts_per_million())
}

/// What a request id that begins with this number draws.
pub fn drawn_by(number: u32) -> u64 {
    u64::from(number % STEPS) * STEP
}

/// Marks a request id that is a random UUID as that of a request that is traced.
pub fn mark(id: &mut [u8]) {
    if let Some(version) = id.get_mut(MARK) {
        *version = b'9';
    }
}

/// Made of a random number; never 0, which is no id.
pub fn random_id(draw: u64) -> u64 {
    draw.max(1)
}

/// The version of a UUID says so, by which Envoy remembers that it is traced: by chance, because the server or the client wants it.
fn is_marked(id: &[u8]) -> bool {
    matches!(id.get(MARK), Some(b'9' | b'a' | b'b'))
}

/// The first 32 bits of a UUID.
fn number(id: &[u8]) -> Option<u32> {
    u32::try_from(hex::read(id.get(..8)?, true)?).ok()
}

/// Every request is asked: what a decision does not need is not looked at.
fn looks_like_uuid(id: &[u8]) -> bool {
    id.len() == 36 && DASHES.iter().all(|at| id.get(*at) == Some(&b'-'))
}

/// Where the version stands.
const MARK: usize = 14;
/// Where a UUID has dashes.
const DASHES: [usize; 4] = [8, 13, 18, 23];
/// A request id decides in steps of 0.01 %: Envoy's.
const STEPS: u32 = 10_000;
/// Parts per million of one.
const STEP: u64 = 100;
const MILLION: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"00000064-d7cf-4c68-9468-6fbc5f927335";

    fn wish(incoming: &Incoming, percent: u32) -> Wish<'_> {
        let sampling = Percent::whole(percent).unwrap();
        Wish { incoming, forced: false, request_id: None, sampling, draw: 15_000 }
    }

    #[test]
    fn a_decision_that_came_is_kept_and_others_are_drawn() {
        let fresh = Incoming::default();
        let [yes, no] = [true, false].map(|it| Incoming { decided: Some(it), ..Incoming::default() });
        for (wish, expected) in [
            (wish(&fresh, 1), false),
            (wish(&fresh, 2), true),
            (wish(&yes, 0), true),
            (wish(&no, 100), false),
            (Wish { forced: true, ..wish(&no, 100) }, false),
            (Wish { forced: true, ..wish(&fresh, 0) }, true),
            (Wish { draw: 0, ..wish(&fresh, 0) }, false),
            (Wish { draw: u64::MAX, ..wish(&fresh, 100) }, true),
            // 100 of 10,000 is not below 1 %.
            (Wish { request_id: Some(PLAIN), ..wish(&fresh, 1) }, false),
            (Wish { request_id: Some(PLAIN), draw: 999_999, ..wish(&fresh, 2) }, true),
            (Wish { request_id: Some(b"mine"), ..wish(&fresh, 2) }, true),
            // As long as one, and no number: drawn.
            (Wish { request_id: Some(b"0000006g-d7cf-4c68-9468-6fbc5f927335"), ..wish(&fresh, 1) }, false),
            (Wish { request_id: Some(b"0000006g-d7cf-4c68-9468-6fbc5f927335"), ..wish(&fresh, 2) }, true),
            (Wish { request_id: Some(b"00000064-d7cf-9c68-9468-6fbc5f927335"), ..wish(&fresh, 0) }, true),
            (Wish { request_id: Some(b"00000064-d7cf-bc68-9468-6fbc5f927335"), ..wish(&no, 0) }, false),
        ] {
            assert_eq!(is_traced(&wish), expected, "{wish:?}");
        }
    }

    #[test]
    fn an_id_remembers_that_it_is_traced() {
        let mut id = PLAIN.to_vec();
        mark(&mut id);
        assert_eq!(id, b"00000064-d7cf-9c68-9468-6fbc5f927335");
        let incoming = Incoming::default();
        assert!(is_traced(&Wish { request_id: Some(&id), ..wish(&incoming, 0) }));
        assert_eq!([random_id(0), random_id(9)], [1, 9]);
    }
}
