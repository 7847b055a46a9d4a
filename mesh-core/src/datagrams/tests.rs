use super::*;

const BOUNDS: Bounds =
    Bounds { sessions: 4, of_source: 3, idle: Duration::from_secs(60), respite: Duration::from_secs(10) };

fn key(client: &str) -> SessionKey {
    SessionKey { client: client.parse().expect("an address"), local: [10, 0, 0, 1].into() }
}

fn id(verdict: Verdict) -> SessionId {
    match verdict {
        Verdict::Known(id) | Verdict::New { id, .. } => id,
        Verdict::NoRoom => panic!("no room"),
    }
}

fn given_up(verdict: Verdict) -> Option<SessionId> {
    match verdict {
        Verdict::New { given_up, .. } => given_up,
        other => panic!("{other:?}"),
    }
}

struct Clock(Instant);

impl Clock {
    fn after(&self, seconds: u64) -> Instant {
        self.0 + Duration::from_secs(seconds)
    }
}

fn start() -> (Sessions, Clock) {
    (Sessions::new(BOUNDS), Clock(Instant::now()))
}

#[test]
fn a_client_keeps_its_session_and_another_address_of_ours_is_another() {
    let (mut all, at) = start();
    let one = id(all.datagram(key("192.0.2.1:1000"), at.after(0)));
    assert_eq!(all.datagram(key("192.0.2.1:1000"), at.after(1)), Verdict::Known(one));
    let other = SessionKey { local: [10, 0, 0, 2].into(), ..key("192.0.2.1:1000") };
    assert_ne!(id(all.datagram(other, at.after(1))), one);
    assert_eq!(all.used(key("192.0.2.2:1000"), at.after(1)), None, "nobody gets one so");
    assert_eq!(all.len(), 2);
}

#[test]
fn what_is_quiet_for_so_long_is_over() {
    let (mut all, at) = start();
    let one = id(all.datagram(key("192.0.2.1:1000"), at.after(0)));
    let two = id(all.datagram(key("192.0.2.1:1001"), at.after(0)));
    all.answered(two, at.after(30));
    assert!(all.expire(at.after(59)).is_empty());
    assert_eq!(all.expire(at.after(60)), [one]);
    assert_eq!(all.key(two), Some(key("192.0.2.1:1001")));
    // It goes on, which is kept elsewhere.
    assert_eq!(all.datagram(key("192.0.2.1:1001"), at.after(80)), Verdict::Known(two));
    assert!(all.expire(at.after(139)).is_empty());
    assert_eq!(all.expire(at.after(140)), [two]);
    assert!(all.is_empty() && all.by_source.is_empty() && all.by_key.is_empty());
    all.set_idle(Duration::from_secs(1));
    let last = id(all.datagram(key("192.0.2.1:1000"), at.after(200)));
    assert_eq!(all.expire(at.after(201)), [last]);
}

#[test]
fn a_source_has_its_share_and_gives_up_its_own() {
    let (mut all, at) = start();
    let other = id(all.datagram(key("192.0.2.9:1"), at.after(0)));
    let first = id(all.datagram(key("192.0.2.1:1"), at.after(1)));
    for port in 2..=3 {
        all.datagram(key(&format!("192.0.2.1:{port}")), at.after(2));
    }
    let fourth = all.datagram(key("192.0.2.1:4"), at.after(3));
    assert_eq!(given_up(fourth), Some(first), "not {other}, which is older");
    assert_eq!(all.len(), 4);
    // All of a network of IPv6 are one source.
    let (mut all, at) = start();
    for last in 1..=4 {
        all.datagram(key(&format!("[2001:db8::{last}]:1")), at.after(0));
    }
    assert_eq!(all.len(), 3);
    all.datagram(key("[2001:db8:0:1::1]:1"), at.after(0));
    assert_eq!(all.len(), 4);
}

#[test]
fn who_only_asks_goes_before_who_was_answered_and_goes_on() {
    let (mut all, at) = start();
    let good = id(all.datagram(key("192.0.2.1:1"), at.after(0)));
    all.answered(good, at.after(0));
    all.datagram(key("192.0.2.1:1"), at.after(1));
    for last in 2..=200 {
        // Answers alone prove nothing: they go to whoever has the address.
        let verdict = all.datagram(key(&format!("192.0.2.{last}:1")), at.after(2));
        all.answered(id(verdict), at.after(2));
    }
    assert_eq!(all.len(), 4);
    assert_eq!(all.used(key("192.0.2.1:1"), at.after(3)), Some(good));
}

#[test]
fn without_anybody_to_give_up_there_is_no_room() {
    let (mut all, at) = start();
    for last in 1..=4 {
        let client = key(&format!("192.0.2.{last}:1"));
        let one = id(all.datagram(client, at.after(0)));
        all.answered(one, at.after(0));
        all.datagram(client, at.after(1));
    }
    assert_eq!(all.datagram(key("192.0.2.9:1"), at.after(10)), Verdict::NoRoom);
    assert_eq!(given_up(all.datagram(key("192.0.2.9:1"), at.after(11))), Some(0));
    assert_eq!(all.len(), 4);
}

#[test]
fn endpoints_are_chosen_by_load_or_by_client_and_failed_ones_avoided() {
    let all: Vec<Endpoint> = (1..=3).map(|last| Endpoint::new(([10, 0, 1, last], 53).into(), None)).collect();
    let busy = all[0].id;
    let load = |id| u32::from(id == busy) * 9;
    let picked = |seed| choose(&all, None, (seed, &|_| false), load).expect("one").id;
    // Both draws fall on the busy one, or one of them on another.
    assert_eq!(picked(0), busy);
    assert_eq!(picked(1), all[1].id);
    assert_eq!(picked(2 << 32), all[2].id);
    for seed in 0..9 {
        let other = choose(&all[..2], None, (seed, &|id| id == busy), load).expect("one");
        assert_eq!(other.id, all[1].id);
    }
    assert_eq!(choose(&all[..1], None, (7, &|id| id == busy), load).expect("the only one").id, busy);
    assert!(choose(&[], None, (7, &|_| false), load).is_none());
    let of = |client: u8, all: &[Endpoint]| {
        choose(all, Some([192, 0, 2, client].into()), (client.into(), &|_| false), load).expect("one").id
    };
    let before: Vec<_> = (0..200).map(|client| of(client, &all)).collect();
    assert!(all.iter().all(|one| before.iter().filter(|id| **id == one.id).count() > 30), "{before:?}");
    // Who was not with the one that is gone stays where it was.
    for (client, was) in (0..200).zip(&before).filter(|(_, was)| **was != all[2].id) {
        assert_eq!(of(client, &all[..2]), *was);
    }
}
