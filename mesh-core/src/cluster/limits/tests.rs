//! Counting.

use std::thread;

use super::*;

const ALL: [Resource; 4] = [Resource::Connection, Resource::Pending, Resource::Request, Resource::Retry];

#[test]
fn each_limit_is_its_own() {
    let admission = Admission::new(Limits { connections: 1, pending: 2, requests: 3, retries: 4 });
    for (resource, limit) in ALL.into_iter().zip(1..) {
        for _ in 0..limit {
            assert!(!admission.is_open(resource));
            assert_eq!(admission.acquire(resource), Ok(()), "{resource:?}");
        }
        assert!(admission.is_open(resource));
        assert_eq!(admission.acquire(resource), Err(Overflow(resource)));
        admission.release(resource);
        assert_eq!(admission.acquire(resource), Ok(()));
        assert_eq!(admission.current(resource), limit);
    }
    assert_eq!(Overflow(Resource::Pending).to_string(), "the limit of pending_requests is reached");
}

#[test]
fn without_limits_there_is_no_overflow() {
    let admission = Admission::new(Limits::default());
    ALL.into_iter().for_each(|resource| (0..1000).for_each(|_| admission.acquire(resource).unwrap()));
    assert_eq!(admission.current(Resource::Request), 1000);
}

#[test]
fn tickets_are_given_back() {
    let admission = Arc::new(Admission::new(Limits { connections: 1, ..Limits::default() }));
    let ticket = admission.ticket(Resource::Connection).unwrap();
    assert_eq!(admission.ticket(Resource::Connection).unwrap_err(), Overflow(Resource::Connection));
    drop(ticket);
    assert_eq!(admission.current(Resource::Connection), 0);
    drop(admission.ticket(Resource::Connection).unwrap());
    drop(admission.retry_ticket(None, 0).unwrap());
    assert_eq!(admission.current(Resource::Retry), 0);
}

#[test]
fn lower_limits_wait_for_what_is_under_way() {
    let admission = Admission::new(Limits::default());
    (0..3).for_each(|_| admission.acquire(Resource::Request).unwrap());
    admission.set_limits(Limits { requests: 1, ..Limits::default() });
    admission.release(Resource::Request);
    admission.release(Resource::Request);
    assert!(admission.acquire(Resource::Request).is_err());
    admission.release(Resource::Request);
    assert!(admission.acquire(Resource::Request).is_ok());
}

#[test]
fn a_budget_counts_instead_of_the_limit() {
    let budget = RetryBudget { parts_per_million: 500_000, min_concurrency: 1, interval: None };
    let admission = Admission::new(Limits { retries: 0, ..Limits::default() });
    assert!(admission.acquire_retry(None, 0).is_err());
    assert!(admission.acquire_retry(Some(&budget), 0).is_ok());
    assert!(admission.acquire_retry(Some(&budget), 0).is_err());
    (0..3).for_each(|_| admission.acquire(Resource::Request).unwrap());
    admission.acquire(Resource::Pending).unwrap();
    assert!(admission.acquire_retry(Some(&budget), 0).is_ok(), "half of four are two");
    assert!(admission.acquire_retry(Some(&budget), 5).is_err());
    assert!(admission.acquire_retry(Some(&budget), 6).is_ok());
}

#[test]
fn threads_never_exceed_a_limit_together() {
    let admission = Arc::new(Admission::new(Limits { requests: 3, ..Limits::default() }));
    let busy = || {
        let tickets = (0..5000).filter_map(|_| admission.ticket(Resource::Request).ok());
        tickets.for_each(|_ticket| assert!(admission.current(Resource::Request) <= 3));
    };
    thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(busy))));
    assert_eq!(admission.current(Resource::Request), 0);
}
