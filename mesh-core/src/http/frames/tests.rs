use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length.get(1..).unwrap().to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn found(scanner: &mut Scanner, parts: &[&[u8]]) -> Vec<Frame> {
    let mut all = Vec::new();
    parts.iter().for_each(|part| scanner.scan(part, |frame| all.push(frame)));
    all
}

#[test]
fn heads_are_found_however_the_bytes_are_cut() {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[0; 12]));
    bytes.extend(frame(1, 5, 0x8000_0003, b"abc"));
    bytes.extend(frame(6, 0, 0, &[7; 8]));
    bytes.extend(frame(0, 1, 3, b""));
    let expected = vec![
        Frame { kind: 4, flags: 0, stream: 0, length: 12 },
        Frame { kind: 1, flags: 5, stream: 3, length: 3 },
        Frame { kind: 6, flags: 0, stream: 0, length: 8 },
        Frame { kind: 0, flags: 1, stream: 3, length: 0 },
    ];
    for size in 1..=bytes.len() {
        let parts: Vec<_> = bytes.chunks(size).collect();
        assert_eq!(found(&mut Scanner::of_client(), &parts), expected, "in parts of {size}");
    }
    let server = bytes.get(24..).unwrap();
    assert_eq!(found(&mut Scanner::of_server(), &[server]), expected);
}

#[test]
fn only_what_carries_something_earns() {
    let of = |kind, length| Frame { kind, flags: 0, stream: 1, length };
    assert!(of(Frame::HEADERS, 0).carries() && of(Frame::DATA, 1).carries() && !of(Frame::DATA, 0).carries());
    let idle: Vec<u8> = (0..=12).filter(|kind| of(*kind, 5).is_idle()).collect();
    assert_eq!(idle, [2, 3, 4, 6, 7, 8, 10, 11, 12]);
}

#[test]
fn so_many_frames_at_once_and_more_with_time() {
    let (mut budget, start) = (FrameBudget::new(), Instant::now());
    for _ in 0..FrameBudget::MOST {
        assert!(budget.spend(start));
    }
    assert!(!budget.spend(start + Duration::from_millis(9)));
    for _ in 0..FrameBudget::EACH_SECOND {
        assert!(budget.spend(start + Duration::from_secs(1)));
    }
    assert!(!budget.spend(start + Duration::from_secs(1)));
    let later = start + Duration::from_secs(3600);
    for _ in 0..FrameBudget::MOST {
        assert!(budget.spend(later), "an hour saves up no more than {}", FrameBudget::MOST);
    }
    assert!(!budget.spend(later));
}

#[test]
fn slow_frames_add_up_to_nothing() {
    let (mut budget, start) = (FrameBudget::new(), Instant::now());
    for number in 0..20_000 {
        // One in 10 ms: less than a whole one is saved up between two of them, and must not be lost.
        assert!(budget.spend(start + Duration::from_millis(10) * number), "{number}");
    }
}

#[test]
fn what_carries_something_pays() {
    let (mut budget, now) = (FrameBudget::new(), Instant::now());
    for _ in 0..10_000 {
        budget.earn();
        assert!((0..FrameBudget::FOR_EACH).all(|_| budget.spend(now)));
    }
}

#[test]
fn half_of_the_requests_may_be_taken_back() {
    let mut budget = ResetBudget::default();
    for number in 1..250 {
        assert!(budget.end(true), "{number}");
    }
    assert!(!budget.end(true), "250 are half of 500");
    let mut budget = ResetBudget::default();
    for number in 0..10_000 {
        assert!(budget.end(false) && budget.end(false) && budget.end(true), "{number}");
    }
    let more: Vec<_> = (0..10_001).map(|_| budget.end(true)).collect();
    assert_eq!(more.iter().position(|fine| !fine), Some(9_999), "30,000 and as many as make it half");
}
