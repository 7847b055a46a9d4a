//! Whether to try again.

use proptest::prelude::*;

use super::*;
use crate::resource::networking::virtual_service::RetryOn as Condition;

const REQUEST: Request = Request { idempotent: true, body: Body::Replayable, sent: true, answered: false };

fn policy(on: &str) -> RetryPolicy {
    RetryPolicy { on: RetryOn::parse(on).unwrap(), ..RetryPolicy::new(None, false) }
}

fn answer(status: u16) -> Attempt {
    Attempt::Answer(Answer { status, ..Answer::default() })
}

fn retries(on: &str, attempt: &Attempt, request: Request) -> bool {
    matches!(should_retry(&policy(on), attempt, 1, request, 0), RetryDecision::Retry(_))
}

/// How a try went, in a word: a status, what precedes one, or a failure.
fn attempt(word: &str) -> Attempt {
    let status = |text: &str| text.parse().unwrap();
    let head = match word.split_once(':') {
        Some(("grpc", number)) => {
            Answer { status: 200, grpc_status: number.parse().ok(), ..Answer::default() }
        }
        Some(("limited", number)) => {
            Answer { status: status(number), rate_limited: true, ..Answer::default() }
        }
        Some((_, number)) => Answer { status: status(number), retriable_header: true, ..Answer::default() },
        None => {
            return match word {
                "connect" => Attempt::Failed(Failure::Connect),
                "refused" => Attempt::Failed(Failure::Refused),
                "stale" => Attempt::Failed(Failure::Stale),
                "reset" => Attempt::Failed(Failure::Reset),
                "late" => Attempt::Failed(Failure::PerTryTimeout),
                "overflow" => Attempt::Failed(Failure::Overflow),
                "nobody" => Attempt::Failed(Failure::NoEndpoint),
                number => answer(status(number)),
            };
        }
    };
    Attempt::Answer(head)
}

#[test]
fn conditions() {
    for (on, yes, no) in CONDITIONS {
        let retries = |word: &&str| retries(on, &attempt(word), REQUEST);
        let wrongly_not: Vec<_> = yes.split_whitespace().filter(|word| !retries(word)).collect();
        // The last two nobody can help.
        let never = no.split_whitespace().chain(["overflow", "nobody"]);
        let wrongly: Vec<_> = never.filter(retries).collect();
        assert!(
            wrongly_not.is_empty() && wrongly.is_empty(),
            "{on}: not on {wrongly_not:?}, but on {wrongly:?}"
        );
    }
}

/// What is written, what is tried again, and what is not.
const CONDITIONS: &[(&str, &str, &str)] = &[
    ("", "connect refused stale grpc:14 grpc:1", "503 500 reset late grpc:4 grpc:0"),
    ("5xx", "500 599 connect reset refused late stale", "499 600 200 grpc:14"),
    ("gateway-error", "502 503 504 reset late connect", "500 501 505"),
    ("reset", "reset late refused connect stale", "503"),
    ("reset-before-request", "", "reset late 503"),
    ("connect-failure", "connect stale", "reset refused 503"),
    ("refused-stream", "refused", "reset connect"),
    ("retriable-4xx", "409", "400 404 429"),
    ("retriable-headers", "marked:200", "200"),
    ("retriable-status-codes", "", "503"),
    ("retriable-status-codes,418", "418", "503"),
    ("418, 503", "418 503", "500 reset"),
    ("envoy-ratelimited", "limited:429 limited:200", "429"),
    ("5xx,retriable-4xx", "500 409", "limited:500 limited:409"),
    ("cancelled", "grpc:1", "grpc:4"),
    ("deadline-exceeded", "grpc:4", "grpc:1"),
    ("resource-exhausted", "grpc:8", "grpc:14"),
    ("internal", "grpc:13", "grpc:2"),
    ("unavailable", "grpc:14", "grpc:13 503"),
    ("http3-post-connect-failure", "", "connect reset"),
];

#[test]
fn what_was_not_sent_is_not_done_twice() {
    let unsent = Request { sent: false, idempotent: false, ..REQUEST };
    let sent = Request { idempotent: false, ..REQUEST };
    let (reset, stale) = (Attempt::Failed(Failure::Reset), Attempt::Failed(Failure::Stale));
    assert!(
        retries("reset-before-request", &reset, unsent) && !retries("reset-before-request", &reset, sent)
    );
    assert!(!retries("connect-failure", &reset, unsent));
    assert!(retries("connect-failure", &stale, unsent) && !retries("connect-failure", &stale, sent));
    assert!(retries("connect-failure", &stale, REQUEST));
    assert!(retries("reset", &stale, sent), "the user asked for it");
}

#[test]
fn what_is_gone_is_not_sent_again() {
    let decide = |request, tries| should_retry(&policy("5xx"), &answer(503), tries, request, 1);
    let retry = |decision| matches!(decision, RetryDecision::Retry(_));
    assert!(retry(decide(REQUEST, 1)) && retry(decide(REQUEST, 2)));
    assert!(retry(decide(Request { body: Body::Untouched, ..REQUEST }, 1)));
    let consumed = Request { body: Body::Consumed, ..REQUEST };
    assert_eq!(decide(consumed, 1), RetryDecision::Give(Reason::Consumed));
    let answered = Request { answered: true, ..REQUEST };
    assert_eq!(decide(answered, 1), RetryDecision::Give(Reason::Answered));
    assert_eq!(decide(REQUEST, 3), RetryDecision::Give(Reason::Exhausted));
    assert_eq!(
        should_retry(&policy("5xx"), &answer(404), 3, REQUEST, 1),
        RetryDecision::Give(Reason::NotWanted)
    );
}

#[test]
fn istios_notation() {
    let on = RetryOn::parse("5xx, 503,gateway-error").unwrap();
    assert!(on.contains(Condition::FiveXx) && on.contains(Condition::GatewayError));
    assert!(on.contains(Condition::Status(503)) && on.contains(Condition::RetriableStatusCodes));
    assert!(!on.contains(Condition::Status(500)) && !on.contains(Condition::Reset));
    assert_eq!(RetryOn::parse("").unwrap(), RetryOn::default());
    assert_eq!(RetryOn::default(), RetryOn::new(&Condition::DEFAULT));
    for wrong in ["5xxx", "5xx,,reset", "99", "600", ","] {
        assert!(RetryOn::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn policies() {
    let default = RetryPolicy::new(None, false);
    assert_eq!((default.attempts, default.backoff), (2, Duration::from_millis(25)));
    assert_eq!((default.per_try_timeout, default.remote_localities), (None, false));
    assert!(default.ignore_previous_hosts && !RetryPolicy::new(None, true).ignore_previous_hosts);
    let none = RetryPolicy::new(Some(&Retries::default()), false);
    assert_eq!((none.attempts, &none.on), (0, &default.on));
    assert_eq!(
        should_retry(&none, &Attempt::Failed(Failure::Connect), 1, REQUEST, 0),
        RetryDecision::Give(Reason::Exhausted)
    );
    let written = Retries {
        attempts: 7,
        per_try_timeout: crate::resource::value::Duration::parse("2s").ok(),
        retry_on: vec![Condition::Reset],
        retry_remote_localities: Some(true),
        retry_ignore_previous_hosts: Some(true),
        backoff: crate::resource::value::Duration::parse("1s").ok(),
    };
    let expected = RetryPolicy {
        attempts: 7,
        per_try_timeout: Some(Duration::from_secs(2)),
        on: RetryOn::new(&[Condition::Reset]),
        backoff: Duration::from_secs(1),
        remote_localities: true,
        ignore_previous_hosts: true,
    };
    assert_eq!(RetryPolicy::new(Some(&written), true), expected);
}

#[test]
fn tries_end_with_the_request() {
    let seconds = |number| Some(Duration::from_secs(number));
    let policy = |per_try| RetryPolicy { per_try_timeout: per_try, ..RetryPolicy::new(None, false) };
    assert_eq!(policy(None).try_timeout(None), None);
    assert_eq!(policy(seconds(2)).try_timeout(None), seconds(2));
    assert_eq!(policy(None).try_timeout(seconds(3)), seconds(3));
    assert_eq!(policy(seconds(2)).try_timeout(seconds(3)), seconds(2));
    assert_eq!(policy(seconds(2)).try_timeout(seconds(1)), seconds(1));
}

#[test]
fn waits_double_up_to_ten_times() {
    let policy = RetryPolicy::new(None, false);
    for (tries, limit) in [(0, 25), (1, 25), (2, 50), (3, 100), (4, 200), (5, 250), (6, 250), (u32::MAX, 250)]
    {
        let limit = Duration::from_millis(limit);
        let waits: Vec<_> = (0..2000).map(|seed| policy.backoff(tries, seed)).collect();
        assert!(waits.iter().all(|wait| *wait < limit), "{tries}");
        let mean = waits.iter().sum::<Duration>() / 2000;
        assert!(mean > limit * 45 / 100 && mean < limit * 55 / 100, "{tries}: {mean:?}");
    }
}

#[test]
fn recent_requests_fade() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut recent = RecentRequests::new(Duration::from_secs(10), start);
    (0..10).for_each(|_| recent.add(at(5)));
    assert_eq!(recent.count(at(9)), 10);
    assert_eq!(recent.count(at(10)), 10);
    assert_eq!(recent.count(at(15)), 5);
    recent.add(at(15));
    assert_eq!(recent.count(at(19)), 2);
    assert_eq!(recent.count(at(20)), 1);
    assert_eq!(recent.count(at(100)), 0);
}

proptest! {
    /// Whatever happens, nothing is repeated that cannot be.
    #[test]
    fn nothing_unsafe_is_repeated(
        status in 100u16..600, tries in 1u32..10, idempotent: bool, sent: bool, answered: bool, consumed: bool, seed: u64,
    ) {
        let policy = policy("5xx,gateway-error,reset,connect-failure,refused-stream,retriable-4xx,unavailable,500");
        let body = if consumed { Body::Consumed } else { Body::Replayable };
        let request = Request { idempotent, body, sent, answered };
        let failures = [Failure::Connect, Failure::Refused, Failure::Stale, Failure::Reset, Failure::PerTryTimeout];
        for attempt in failures.map(Attempt::Failed).into_iter().chain([answer(status)]) {
            let decision = should_retry(&policy, &attempt, tries, request, seed);
            let allowed = !answered && !consumed && tries <= policy.attempts;
            prop_assert!(allowed || matches!(decision, RetryDecision::Give(_)));
        }
    }
}
