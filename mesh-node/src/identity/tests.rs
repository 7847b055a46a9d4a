use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mesh_ca::Bundle;
use rustls_pki_types::CertificateSigningRequestDer;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::*;
use crate::tls::testkit::{TestCa, bundle, domain, id, on_data_thread, tcp_pair};

mod embedded;

/// A CA that can be told to fail, to fall silent, and to gain a root.
struct Moody {
    ca: TestCa,
    other: TestCa,
    fails: AtomicBool,
    silent: AtomicBool,
    trusts_other: AtomicBool,
    /// Requests under way, and the most there ever were.
    busy: AtomicUsize,
    most: AtomicUsize,
}

impl Moody {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            ca: TestCa::new("root"),
            other: TestCa::new("other"),
            fails: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            trusts_other: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }
}

impl Sign for Moody {
    fn sign<'a>(
        &'a self,
        id: &'a SpiffeId,
        csr: CertificateSigningRequestDer<'static>,
        lifetime: Duration,
    ) -> Signing<'a, IssuedChain> {
        Box::pin(async move {
            let busy = self.busy.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(busy, Ordering::Relaxed);
            // As if it were on another machine.
            sleep(Duration::from_millis(1)).await;
            if self.silent.load(Ordering::Relaxed) {
                sleep(Duration::from_secs(3600)).await;
            }
            self.busy.fetch_sub(1, Ordering::Relaxed);
            if self.fails.load(Ordering::Relaxed) {
                return Err(SignError::Refused("not today".into()));
            }
            self.ca.sign(id, csr, lifetime).await
        })
    }

    fn bundle(&self) -> Arc<Bundle> {
        if self.trusts_other.load(Ordering::Relaxed) {
            return bundle(&[&self.ca, &self.other]);
        }
        self.ca.bundle()
    }

    fn refresh(&self) -> Signing<'_, ()> {
        let failed = Err(SignError::Unavailable("it moved away".into()));
        let outcome = if self.fails.load(Ordering::Relaxed) { failed } else { Ok(()) };
        Box::pin(std::future::ready(outcome))
    }
}

/// A store and the task that keeps it fresh.
fn store(ca: Arc<Moody>, lifetime: Duration) -> (Arc<IdentityStore>, JoinHandle<()>) {
    let options = Options {
        lifetime,
        deadline: Duration::from_millis(300),
        min_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_millis(400),
        patience: Duration::from_millis(500),
        ..Options::new(vec![domain()])
    };
    let store = Arc::new(IdentityStore::new(ca, options));
    (store.clone(), tokio::task::spawn_local(store.run_rotation()))
}

fn set(accounts: &[&str]) -> BTreeSet<SpiffeId> {
    accounts.iter().map(|account| id(account)).collect()
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(Duration::from_millis(10)).await;
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn holds_what_is_wanted() {
    on_data_thread(async {
        let (store, _) = store(Moody::new(), MINUTE);
        assert!(store.current(&id("a")).is_none());
        store.prepare(&set(&["a", "b"])).await;
        let a = store.current(&id("a")).expect("issued before `prepare` is over");
        assert_eq!(a.id(), &id("a"));
        store.prepare(&set(&["c"])).await;
        assert!(store.current(&id("b")).is_some(), "preparing drops nothing");
        store.want(&set(&["a", "c", "d"]));
        assert!(Arc::ptr_eq(&a, &store.current(&id("a")).expect("kept")), "what stays is not issued again");
        assert!(store.current(&id("b")).is_none(), "what is not wanted is gone");
        assert!(store.current(&id("c")).is_some());
        until(|| store.current(&id("d")).is_some()).await;
        let counters = store.counters();
        assert_eq!(counters.issued.load(Ordering::Relaxed), 4);
        assert_eq!(counters.rotated.load(Ordering::Relaxed), 0, "these are all first ones");
        let statuses = store.statuses();
        assert_eq!(statuses.len(), 3);
        assert!(statuses.iter().all(|s| s.state == CertificateState::Valid && !s.serial.is_empty()));
        store.want(&BTreeSet::new());
        assert!(store.statuses().is_empty());
        assert!(!format!("{store:?} {a:?}").contains("key"));
    });
}

#[test]
fn many_identities_are_no_trouble() {
    on_data_thread(async {
        let ca = Moody::new();
        let (store, _) = store(ca.clone(), MINUTE);
        let ids: BTreeSet<_> = (0..110).map(|i| id(&format!("sa{i}"))).collect();
        store.prepare(&ids).await;
        until(|| ids.iter().all(|id| store.current(id).is_some())).await;
        let most = ca.most.load(Ordering::Relaxed);
        assert!((2..=8).contains(&most), "{most} requests at one time");
    });
}

#[test]
fn certificates_overlap() {
    on_data_thread(async {
        let (store, rotation) = store(Moody::new(), Duration::from_secs(3));
        store.prepare(&set(&["a", "b"])).await;
        let first = store.current(&id("a")).expect("first");
        let mut serials = BTreeSet::new();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            let now = store.current(&id("a")).expect("there is never a moment without one");
            if serials.insert(now.serial().to_owned()) && serials.len() == 2 {
                assert!(first.is_valid_at(SystemTime::now()), "the old one still serves");
                // Old and new talk to each other.
                let server = store.current(&id("b")).expect("server");
                let (near, far) = tcp_pair().await;
                let expected = id("b");
                let (near, far) = tokio::join!(
                    crate::tls::connect(near, &first, &expected),
                    crate::tls::accept(far, &server)
                );
                assert!(near.is_ok() && far.is_ok());
            }
            sleep(Duration::from_millis(20)).await;
        }
        assert!(serials.len() >= 3, "rotated at half life: {serials:?}");
        assert!(serials.len() <= 12, "and not in a storm: {serials:?}");
        let counters = store.counters();
        let (issued, rotated) =
            (counters.issued.load(Ordering::Relaxed), counters.rotated.load(Ordering::Relaxed));
        assert_eq!(rotated, issued - 2, "all but the first two took the place of others");
        rotation.abort();
    });
}

#[test]
fn a_failing_ca_is_retried_slowly_and_the_last_good_serves() {
    on_data_thread(async {
        let ca = Moody::new();
        let (store, rotation) = store(ca.clone(), Duration::from_secs(3));
        store.prepare(&set(&["a"])).await;
        let first = store.current(&id("a")).expect("first");
        ca.fails.store(true, Ordering::Relaxed);
        store.prepare(&set(&["a", "late"])).await;
        assert!(store.current(&id("late")).is_none());
        until(|| store.counters().failed.load(Ordering::Relaxed) >= 4).await;
        let late = &store.statuses()[1];
        assert_eq!((late.state, late.serial.as_str()), (CertificateState::Pending, ""));
        assert_eq!(late.last_error.as_deref(), Some("the CA refused: not today"));

        until(|| store.statuses()[0].state != CertificateState::Valid).await;
        assert_eq!(store.statuses()[0].state, CertificateState::RenewalFailing);
        assert_eq!(store.current(&id("a")).expect("last good").serial(), first.serial());
        until(|| store.statuses()[0].state == CertificateState::Expired).await;
        assert!(store.current(&id("a")).is_none(), "past its end it serves nothing");
        let failed = store.counters().failed.load(Ordering::Relaxed);
        assert!(failed < 60, "{failed} attempts in 3 s");

        ca.fails.store(false, Ordering::Relaxed);
        until(|| store.current(&id("a")).is_some() && store.current(&id("late")).is_some()).await;
        assert!(
            store.statuses().iter().all(|s| s.state == CertificateState::Valid && s.last_error.is_none())
        );
        rotation.abort();
    });
}

#[test]
fn a_silent_ca_holds_nobody_up_for_long() {
    on_data_thread(async {
        let ca = Moody::new();
        let (store, _) = store(ca.clone(), MINUTE);
        store.prepare(&set(&["a"])).await;
        ca.silent.store(true, Ordering::Relaxed);
        let begin = Instant::now();
        store.prepare(&set(&["a", "b"])).await;
        let waited = begin.elapsed();
        assert!(waited < Duration::from_secs(2), "{waited:?}");
        until(|| store.counters().failed.load(Ordering::Relaxed) > 0).await;
        let last_error = store.statuses()[1].last_error.clone().expect("an error");
        assert!(last_error.contains("did not answer"), "{last_error}");
        assert!(store.current(&id("a")).is_some());
        let begin = Instant::now();
        store.prepare(&set(&["b"])).await;
        assert!(begin.elapsed() < Duration::from_millis(100), "what has failed once is not waited for again");
        ca.silent.store(false, Ordering::Relaxed);
        until(|| store.current(&id("b")).is_some()).await;
    });
}

#[test]
fn the_bundle_follows_the_ca() {
    on_data_thread(async {
        let ca = Moody::new();
        let (store, _) = store(ca.clone(), MINUTE);
        store.prepare(&set(&["a"])).await;
        assert_eq!(store.trust().bundle().roots().len(), 1);
        ca.trusts_other.store(true, Ordering::Relaxed);
        store.prepare(&set(&["b"])).await;
        assert_eq!(store.trust().bundle().roots().len(), 2, "an answer brings new roots along");
        assert_eq!(store.counters().bundle_changes.load(Ordering::Relaxed), 1);

        ca.fails.store(true, Ordering::Relaxed);
        store.refresh_bundle().await;
        store.refresh_bundle().await;
        assert_eq!(store.counters().bundle_failures.load(Ordering::Relaxed), 2);
        assert_eq!(store.trust().bundle().roots().len(), 2, "the last good one stays");
        ca.trusts_other.store(false, Ordering::Relaxed);
        ca.fails.store(false, Ordering::Relaxed);
        store.refresh_bundle().await;
        assert_eq!(store.trust().bundle().roots().len(), 1);
    });
}

#[test]
fn pauses_double_up_to_the_cap() {
    on_data_thread(async {
        let (store, _) = store(Moody::new(), MINUTE);
        for (failures, milliseconds) in
            [(0, 100), (1, 100), (2, 200), (3, 400), (4, 400), (40, 400), (u32::MAX, 400)]
        {
            let pauses: Vec<_> = (0..50).map(|_| store.backoff(failures).as_secs_f64() * 1000.0).collect();
            let most = f64::from(milliseconds);
            assert!(
                pauses.iter().all(|p| (most * 0.499..most * 1.001).contains(p)),
                "{failures}: {pauses:?}"
            );
            let first = pauses[0];
            assert!(pauses.iter().any(|p| (p - first).abs() > most * 0.05), "spread: {pauses:?}");
        }
    });
}
