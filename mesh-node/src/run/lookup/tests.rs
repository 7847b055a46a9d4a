use super::*;

fn addresses(last: u8) -> Arc<[IpAddr]> {
    Arc::from([IpAddr::from([192, 0, 2, last])])
}

#[test]
fn what_is_known_is_bounded_and_ends() {
    let now = Instant::now();
    let mut known = Known::default();
    for n in 0..MAX_KNOWN {
        let until = now + Duration::from_secs(100 + u64::try_from(n).unwrap());
        known.keep(format!("n{n}.example").into(), addresses(1), (now, until));
    }
    let later = now + Duration::from_secs(10);
    known.keep("more.example".into(), addresses(2), (now, later));
    assert_eq!(known.0.len(), MAX_KNOWN);
    // What would have been forgotten soonest has gone for it.
    assert_eq!((known.of("n0.example", now), known.of("more.example", now)), (None, Some(addresses(2))));
    assert_eq!(known.of("more.example", later), None, "it is too old by then");
    // Of what is too old all goes.
    let late = now + Duration::from_secs(300);
    known.keep("late.example".into(), addresses(3), (late, late + SHORTEST));
    assert!(known.0.len() < MAX_KNOWN - 100, "{}", known.0.len());
    // What is there already takes no other's place.
    let before = known.0.len();
    known.keep("late.example".into(), addresses(4), (late, late + SHORTEST));
    assert_eq!((known.0.len(), known.of("late.example", late)), (before, Some(addresses(4))));
}

#[tokio::test]
async fn without_anybody_who_answers_nothing_is_known() {
    assert!(Lookup::default().find("www.example").await.is_empty());
}
