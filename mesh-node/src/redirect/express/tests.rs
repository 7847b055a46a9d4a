use std::collections::BTreeMap;

use super::*;

/// A map with room for so many.
struct Small {
    room: usize,
    entries: BTreeMap<Key, u32>,
}

fn put(map: &mut Small, key: Question, value: u32) -> Result<(), MapError> {
    if map.entries.len() == map.room && !map.entries.contains_key(&key.into()) {
        return Err(MapError::OutOfBounds { index: 0, max_entries: 0 });
    }
    map.entries.insert(key.into(), value);
    Ok(())
}

fn remove(map: &mut Small, key: Question) -> Result<(), MapError> {
    map.entries.remove(&key.into()).map(drop).ok_or(MapError::KeyNotFound)
}

fn key(last: u8, port: u16) -> Key {
    Key { netns: 1, ip: [last; 16], port }
}

const ALLOW: u32 = Verdict::ALLOW;
const DENY: u32 = Verdict::DENY;

#[test]
fn a_full_map_never_says_more_than_is_wanted() {
    let before = BTreeMap::from([(key(1, 0), ALLOW), (key(2, 0), ALLOW), (key(3, 0), ALLOW)]);
    let (mut known, mut map) = (before.clone(), Small { room: 3, entries: before });
    // The first two get a port that is closed, for which there is no room; the last is closed.
    let mut wanted = known.clone();
    wanted.extend([(key(1, 80), DENY), (key(2, 80), DENY), (key(3, 0), DENY)]);
    assert!(follow(&mut known, &wanted, &mut map, put, remove).is_err());
    assert_eq!(map.entries, known);
    assert_eq!(known.get(&key(3, 0)), Some(&DENY), "what has its place already changes");
    for last in [1, 2] {
        let (all, one) = (known.get(&key(last, 0)), known.get(&key(last, 80)));
        assert!(matches!((all, one), (None, None) | (Some(&ALLOW), Some(&DENY))), "{last}: {all:?}, {one:?}");
    }
    // With room it comes to what is wanted.
    map.room = 10;
    assert!(follow(&mut known, &wanted, &mut map, put, remove).is_ok());
    assert_eq!((&map.entries, &known), (&wanted, &wanted));
}
