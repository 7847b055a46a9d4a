use std::sync::atomic::AtomicBool;

use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};

use super::*;
use crate::tls::testkit::{TestCa, domain, id, on_data_thread, tcp_pair};

/// A CA that can be told to fail.
struct Moody {
    ca: TestCa,
    fails: AtomicBool,
}

impl Moody {
    fn new() -> Arc<Self> {
        Arc::new(Self { ca: TestCa::new("root"), fails: AtomicBool::new(false) })
    }
}

impl Sign for Moody {
    fn sign(
        &self,
        id: &SpiffeId,
        csr: &CertificateSigningRequestDer<'_>,
        lifetime: Duration,
    ) -> Result<IssuedChain, CaError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(CaError::Refused("not today".into()));
        }
        self.ca.sign(id, csr, lifetime)
    }

    fn roots(&self) -> Arc<[CertificateDer<'static>]> {
        self.ca.roots()
    }
}

fn store(ca: Arc<Moody>, lifetime: Duration) -> Arc<IdentityStore> {
    let options = Options {
        lifetime,
        min_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_millis(400),
        ..Options::new(vec![domain()])
    };
    Arc::new(IdentityStore::new(ca, options).expect("store"))
}

fn set(accounts: &[&str]) -> BTreeSet<SpiffeId> {
    accounts.iter().map(|account| id(account)).collect()
}

#[test]
fn holds_what_is_wanted() {
    let store = store(Moody::new(), Duration::from_secs(60));
    assert!(store.current(&id("a")).is_none());
    store.want(&set(&["a", "b"]));
    let a = store.current(&id("a")).expect("issued before `want` returns");
    assert_eq!(a.id(), &id("a"));
    store.want(&set(&["a", "c"]));
    assert!(Arc::ptr_eq(&a, &store.current(&id("a")).expect("kept")), "what stays is not issued again");
    assert!(store.current(&id("b")).is_none(), "what is not wanted is gone");
    assert!(store.current(&id("c")).is_some());
    assert_eq!(store.counters().issued.load(Ordering::Relaxed), 3);
    let statuses = store.statuses();
    assert_eq!(statuses.len(), 2);
    assert!(statuses.iter().all(|s| s.state == CertificateState::Valid && !s.serial.is_empty()));
    store.want(&BTreeSet::new());
    assert!(store.statuses().is_empty());
    assert!(!format!("{store:?} {a:?}").contains("key"));
}

#[test]
fn many_identities_are_no_trouble() {
    let store = store(Moody::new(), Duration::from_secs(60));
    let ids: BTreeSet<_> = (0..110).map(|i| id(&format!("sa{i}"))).collect();
    store.want(&ids);
    assert!(ids.iter().all(|id| store.current(id).is_some()));
}

#[test]
fn certificates_overlap() {
    on_data_thread(async {
        let store = store(Moody::new(), Duration::from_secs(3));
        store.want(&set(&["a", "b"]));
        let rotation = tokio::task::spawn_local(store.clone().run_rotation());
        let first = store.current(&id("a")).expect("first");
        let mut serials = BTreeSet::new();
        let begin = tokio::time::Instant::now();
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
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(serials.len() >= 3, "rotated at half life: {serials:?}");
        assert!(serials.len() <= 12, "and not in a storm: {serials:?}");
        rotation.abort();
    });
}

#[test]
fn a_failing_ca_is_retried_slowly_and_the_last_good_serves() {
    on_data_thread(async {
        let ca = Moody::new();
        let store = store(ca.clone(), Duration::from_secs(3));
        store.want(&set(&["a"]));
        let first = store.current(&id("a")).expect("first");
        let rotation = tokio::task::spawn_local(store.clone().run_rotation());
        ca.fails.store(true, Ordering::Relaxed);
        store.want(&set(&["a", "late"]));
        assert!(store.current(&id("late")).is_none());
        while store.counters().failed.load(Ordering::Relaxed) < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let late = &store.statuses()[1];
        assert_eq!((late.state, late.serial.as_str()), (CertificateState::Pending, ""));
        assert_eq!(late.last_error.as_deref(), Some("not today"));

        while store.statuses()[0].state == CertificateState::Valid {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(store.statuses()[0].state, CertificateState::RenewalFailing);
        assert_eq!(store.current(&id("a")).expect("last good").serial(), first.serial());
        while store.statuses()[0].state != CertificateState::Expired {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(store.current(&id("a")).is_none(), "past its end it serves nothing");
        let failed = store.counters().failed.load(Ordering::Relaxed);
        assert!(failed < 40, "{failed} attempts in 3 s");

        ca.fails.store(false, Ordering::Relaxed);
        while store.current(&id("a")).is_none() || store.current(&id("late")).is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(
            store.statuses().iter().all(|s| s.state == CertificateState::Valid && s.last_error.is_none())
        );
        rotation.abort();
    });
}

#[test]
fn pauses_double_up_to_the_cap() {
    let store = store(Moody::new(), Duration::from_secs(60));
    for (failures, milliseconds) in [(1, 100), (2, 200), (3, 400), (4, 400), (40, 400), (u32::MAX, 400)] {
        let pause = store.backoff(failures).as_secs_f64() * 1000.0;
        let expected = f64::from(milliseconds);
        assert!((expected * 0.89..expected * 1.11).contains(&pause), "{failures}: {pause}");
    }
}
