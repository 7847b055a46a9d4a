use mesh_ca::authorize::{Binding, NodeName};

use super::*;

fn caller() -> Caller {
    Caller::JoinToken(Binding::Node(NodeName::parse("n").unwrap()))
}

fn key(number: usize) -> [u8; 32] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key
}

#[tokio::test]
async fn an_answer_counts_for_a_moment() {
    let (mut known, now) = (Known::default(), Instant::now());
    known.put(key(1), now, caller());
    assert_eq!(known.get(&key(1), now + MEMORY / 2), Some(caller()));
    assert_eq!(known.get(&key(1), now + MEMORY), None);
    assert_eq!(known.get(&key(2), now), None);
}

#[tokio::test]
async fn memory_is_bounded_and_old_answers_make_room() {
    let (mut known, now) = (Known::default(), Instant::now());
    for number in 0..MAX_KNOWN + 5 {
        known.put(key(number), now, caller());
    }
    assert_eq!(known.0.len(), MAX_KNOWN);
    assert_eq!(known.get(&key(MAX_KNOWN), now), None);
    let later = now + MEMORY;
    known.put(key(MAX_KNOWN), later, caller());
    assert_eq!(known.0.len(), 1);
    assert_eq!(known.get(&key(MAX_KNOWN), later), Some(caller()));
}
