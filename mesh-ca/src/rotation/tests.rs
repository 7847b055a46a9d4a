use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::testkit::{DAY, HOUR, MemoryVault, TestCa, csr, domain, id, is_accepted, now};
use crate::{Authority, Bundle, Ca, FileVault, Grant, Limits, Signed, Vault};

const DWELL: Dwell = Dwell::of(DAY);

/// A vault with a self-made CA.
async fn vault() -> MemoryVault {
    let vault = MemoryVault::default();
    let made = Material::self_made(&domain(), now()).expect("a CA");
    vault.write(&vault.contents(), &made.changes(&CURRENT)).await.expect("written");
    vault
}

fn authority(contents: &Contents, at: SystemTime) -> Authority {
    Authority::load(contents, &domain(), Limits::up_to(DAY), at).expect("a CA that works")
}

fn sign(authority: &Authority, at: SystemTime) -> Signed {
    authority.sign(&Grant::embedded(id("client"), csr(), DAY), at).expect("signed")
}

fn next() -> Material {
    Material::self_made(&domain(), now()).expect("a root")
}

/// Goes to the end, every step as early as may be; what the vault held in each phase.
async fn whole_way(vault: &MemoryVault) -> [Contents; 4] {
    let (domain, next) = (domain(), next());
    let wait = Duration::from_secs(DWELL.seconds());
    let steady = vault.contents();
    begin(vault, &domain, &next, DWELL, now()).await.expect("begin");
    let added = vault.contents();
    switch(vault, &domain, DWELL, now() + wait).await.expect("switch");
    let switched = vault.contents();
    finish(vault, &domain, DWELL, now() + wait * 2).await.expect("finish");
    [steady, added, switched, vault.contents()]
}

#[test]
fn steps_have_their_turn() {
    use Phase::{Added, Removed, Steady, Switched};
    let later = now() + DAY * 100;
    for (phase, step, after) in [
        (Steady, Step::Begin, Some(Added)),
        (Steady, Step::Switch, None),
        (Steady, Step::Finish, None),
        (Steady, Step::Abort, None),
        (Added, Step::Begin, None),
        (Added, Step::Switch, Some(Switched)),
        (Added, Step::Finish, None),
        (Added, Step::Abort, Some(Steady)),
        (Switched, Step::Begin, None),
        (Switched, Step::Switch, None),
        (Switched, Step::Finish, Some(Removed)),
        (Switched, Step::Abort, None),
        (Removed, Step::Begin, Some(Added)),
        (Removed, Step::Switch, None),
        (Removed, Step::Finish, None),
        (Removed, Step::Abort, None),
    ] {
        let rotation = Rotation { phase, since: seconds(now()), ..Rotation::default() };
        let outcome = rotation.step(step, DWELL, later);
        assert_eq!(outcome.as_ref().ok().map(Rotation::phase), after, "{phase} {step}");
        if let Err(error) = outcome {
            assert_eq!(error, StepError::WrongPhase { step, phase });
            assert!(error.to_string().contains("the next step is"), "{error}");
        }
    }
}

#[test]
fn steps_have_their_time() {
    let added = Rotation::default().step(Step::Begin, DWELL, now()).expect("begin");
    let wait = Duration::from_secs(24 * 3600 + 600 + 1);
    for (at, step) in [
        (now(), Step::Switch),
        (now() + DAY, Step::Switch),
        (now() + wait - Duration::from_secs(1), Step::Switch),
        // A clock that was set back.
        (now() - DAY * 365, Step::Switch),
    ] {
        let error = added.step(step, DWELL, at).expect_err("too early");
        assert!(matches!(error, StepError::TooEarly { .. }), "{error}");
    }
    added.step(Step::Abort, DWELL, now()).expect("nothing was signed, so nothing is waited for");
    let switched = added.step(Step::Switch, DWELL, now() + wait).expect("switch");
    switched.step(Step::Finish, DWELL, now() + wait * 2 - Duration::from_secs(1)).expect_err("too early");
    switched.step(Step::Finish, DWELL, now() + wait * 2).expect("finish");

    // The longest dwell that anybody has named counts, whoever comes with a shorter one.
    let short = Dwell { longest_leaf: HOUR, propagation: Duration::ZERO };
    added.step(Step::Switch, short, now() + HOUR * 2).expect_err("too early");
    let begun_short = Rotation::default().step(Step::Begin, short, now()).expect("begin");
    begun_short.step(Step::Switch, DWELL, now() + HOUR * 2).expect_err("too early");
    let switched_short = added.step(Step::Switch, short, now() + wait).expect("switch");
    switched_short.step(Step::Finish, short, now() + wait + HOUR * 2).expect_err("too early");
    let switched_long = begun_short.step(Step::Switch, DWELL, now() + wait).expect("switch");
    switched_long.step(Step::Finish, short, now() + wait + HOUR * 2).expect_err("too early");
    let again = switched.step(Step::Finish, DWELL, now() + wait * 2).expect("finish");
    let again = again.step(Step::Begin, short, now() + wait * 2).expect("begin");
    again
        .step(Step::Switch, short, now() + wait * 2 + HOUR * 2)
        .expect("a new change has a dwell of its own");
    let endless = Dwell::of(Duration::MAX);
    let added = Rotation::default().step(Step::Begin, endless, now()).expect("begin");
    added.step(Step::Switch, endless, now() + DAY * 365 * 100).expect_err("never");
}

/// Whether everybody who may talk to each other at some time can: `begins` says when each phase begins, in seconds.
fn never_fails(accepted: &[[bool; 4]; 4], begins: [u64; 4]) -> bool {
    let phase_at = |at: u64| begins.iter().filter(|begin| **begin <= at).count() - 1;
    let (leaf, lag) = (DWELL.longest_leaf.as_secs(), DWELL.propagation.as_secs());
    (2 * leaf..begins[3] + 2 * leaf).step_by(299).all(|at| {
        [0, lag / 2, lag].into_iter().all(|signer_lag| {
            [0, leaf / 2, leaf].into_iter().all(|age| {
                let signer = phase_at(at - age - signer_lag);
                [0, lag / 2, lag].into_iter().all(|lag| accepted[signer][phase_at(at - lag)])
            })
        })
    })
}

#[tokio::test]
async fn the_dwell_is_long_enough_and_not_much_longer() {
    let phases = whole_way(&vault().await).await;
    let at = now() + DAY * 3;
    let authorities = phases.each_ref().map(|contents| authority(contents, at));
    let accepted = authorities.each_ref().map(|signer| {
        let signed = sign(signer, at);
        authorities.each_ref().map(|verifier| is_accepted(&signed, verifier.bundle(), at))
    });
    // What each phase signs, as seen by somebody in each phase.
    assert_eq!(
        accepted,
        [
            [true, true, true, false],
            [true, true, true, false],
            [false, true, true, true],
            [false, true, true, true]
        ]
    );
    let (start, dwell) = (5 * DAY.as_secs(), DWELL.seconds());
    assert!(never_fails(&accepted, [0, start, start + dwell, start + 2 * dwell]));
    let less = DWELL.longest_leaf.as_secs();
    assert!(
        !never_fails(&accepted, [0, start, start + dwell, start + dwell + less - 600]),
        "finished too early"
    );
    assert!(!never_fails(&accepted, [0, start, start + 300, start + 300 + dwell]), "switched too early");
}

#[tokio::test]
async fn a_crash_at_any_write_leaves_a_ca_that_works() {
    let (domain, next) = (domain(), next());
    let wait = Duration::from_secs(DWELL.seconds());
    let at = now() + wait * 2;
    let fresh = vault().await.state.into_inner().expect("vault").entries;
    for step in [Step::Begin, Step::Abort, Step::Switch, Step::Finish] {
        for dies_after in 0..20 {
            let vault = MemoryVault::with(fresh.clone());
            if step != Step::Begin {
                begin(&vault, &domain, &next, DWELL, now()).await.expect("begin");
            }
            if step == Step::Finish {
                switch(&vault, &domain, DWELL, now() + wait).await.expect("switch");
            }
            let before = authority(&vault.contents(), at);
            vault.state.lock().expect("vault").dies_after = Some(dies_after);
            let make = async || match step {
                Step::Begin => begin(&vault, &domain, &next, DWELL, at).await,
                Step::Switch => switch(&vault, &domain, DWELL, at).await,
                Step::Finish => finish(&vault, &domain, DWELL, at).await,
                Step::Abort => abort(&vault, &domain, DWELL, at).await,
            };
            make().await.expect_err("the power failed");

            let between = authority(&vault.contents(), at);
            assert!(is_accepted(&sign(&between, at), before.bundle(), at), "{step} {dies_after}: new by old");
            assert!(is_accepted(&sign(&before, at), between.bundle(), at) || step == Step::Finish);
            vault.state.lock().expect("vault").dies_after = None;
            if between.phase() == before.phase() {
                make().await.expect("the step can be made again");
            }
            let after = authority(&vault.contents(), at);
            assert_ne!(after.phase(), before.phase());
            assert!(
                is_accepted(&sign(&after, at), between.bundle(), at),
                "{step} {dies_after}: after by between"
            );
        }
    }
}

#[tokio::test]
async fn the_old_key_is_gone_in_the_end() {
    let vault = vault().await;
    let [steady, _, switched, removed] = whole_way(&vault).await;
    let name = CURRENT.key;
    assert_ne!(steady.get(name), removed.get(name));
    assert_eq!(switched.get(NEXT.key), removed.get(name), "the next signer has become the signer");
    let holds = |contents: &Contents, pem: &[u8]| contents.entries().values().any(|entry| *entry == pem);
    assert!(holds(&switched, steady.get(name).expect("key")), "until then it is still there");
    assert!(!holds(&removed, steady.get(name).expect("key")));
    assert!(NEXT.names().iter().all(|name| removed.get(name).is_none()));
}

#[tokio::test]
async fn lifetimes_stay_below_what_the_dwell_counts_on() {
    let vault = vault().await;
    let long = Limits::up_to(DAY * 30);
    let load =
        |vault: &MemoryVault| Authority::load(&vault.contents(), &domain(), long, now()).expect("a CA");
    assert_eq!(load(&vault).limits().max_ttl, DAY * 30);
    begin(&vault, &domain(), &next(), DWELL, now()).await.expect("begin");
    assert_eq!(load(&vault).limits().max_ttl, DAY, "somebody has not heard of the right limit");
}

#[tokio::test]
async fn other_roots_stay() {
    let (ours, friend) = (TestCa::new("ours"), TestCa::new("a friend's"));
    let mut files = ours.root_files();
    files.insert(CURRENT.root.into(), (ours.pem() + &friend.pem()).into());
    let vault = MemoryVault::with(files);
    whole_way(&vault).await;
    let status = status(&vault, &domain(), DWELL, now() + DAY * 3).await.expect("status");
    let subjects: Vec<_> = status.roots.iter().map(|root| (&*root.subject, root.signs)).collect();
    assert_eq!(subjects.len(), 2, "{subjects:?}");
    assert!(subjects[0].0.contains("Mesh root") && subjects[0].1, "{subjects:?}");
    assert!(subjects[1].0.contains("a friend's") && !subjects[1].1, "{subjects:?}");
}

#[tokio::test]
async fn an_intermediate_can_be_exchanged_under_one_root() {
    let root = TestCa::new("root");
    let [first, second] = ["first", "second"].map(|name| root.intermediate(name));
    let vault = MemoryVault::with(first.files(&root, &first.pem()));
    let brought = crate::testkit::contents(second.files(&root, &second.pem()));
    let next = Material::plugged_in(&brought, &domain(), now()).expect("good files");
    let wait = Duration::from_secs(DWELL.seconds());
    begin(&vault, &domain(), &next, DWELL, now()).await.expect("begin");
    switch(&vault, &domain(), DWELL, now() + wait).await.expect("switch");
    let status = finish(&vault, &domain(), DWELL, now() + wait * 2).await.expect("finish");
    assert_eq!(status.roots.len(), 1, "the root is the same and stays");
    let authority = authority(&vault.contents(), now());
    let bundle = Bundle::parse(root.pem().as_bytes(), b"").expect("bundle");
    assert!(is_accepted(&sign(&authority, now()), &bundle, now()));
}

#[tokio::test]
async fn a_next_signer_that_does_not_work_is_not_begun_with() {
    let (root, other) = (TestCa::new("root"), TestCa::new("other"));
    let brought = crate::testkit::contents(root.intermediate("lost").files(&other, &other.pem()));
    let error = Material::plugged_in(&brought, &domain(), now()).expect_err("its chain is broken");
    assert_eq!(error.reason(), "ca_chain_broken");
}

#[tokio::test]
async fn only_one_change_at_a_time() {
    let vault = vault().await;
    vault.state.lock().expect("vault").conflicts = 1;
    let error = begin(&vault, &domain(), &next(), DWELL, now()).await.expect_err("somebody was faster");
    assert!(matches!(error, RotateError::Ca(CaError::Vault(crate::VaultError::Conflict { .. }))), "{error}");
    begin(&vault, &domain(), &next(), DWELL, now()).await.expect("begin");
    let error = begin(&vault, &domain(), &next(), DWELL, now()).await.expect_err("one is under way");
    assert!(matches!(error, RotateError::Step(StepError::WrongPhase { .. })), "{error}");
    let empty = MemoryVault::default();
    let error = begin(&empty, &domain(), &next(), DWELL, now()).await.expect_err("nothing to change");
    assert!(matches!(error, RotateError::NoCa { .. }), "{error}");
}

#[tokio::test]
async fn what_is_written_down_cannot_be_misread() {
    let vault = vault().await;
    begin(&vault, &domain(), &next(), DWELL, now()).await.expect("begin");
    let good = vault.contents();
    let text = String::from_utf8(good.get(ROTATION).expect("state").to_vec()).expect("text");
    for (from, to) in [
        ("added", "Added"),
        ("added", "later"),
        ("\"since\"", "\"sinse\""),
        ("1800000000", "-1"),
        ("1800000000", "1e99"),
        ("{", "["),
        ("{", "{ \"force\": true, "),
    ] {
        assert!(text.contains(from), "{text}");
        let bad = good.with(&[Change::put(ROTATION, text.replacen(from, to, 1))]);
        let error = Authority::load(&bad, &domain(), Limits::default(), now()).expect_err(to);
        assert!(error.to_string().contains("memory/rotation.json"), "{error}");
    }
    let lost = good.with(&[Change::remove(NEXT.root)]);
    let error = Authority::load(&lost, &domain(), Limits::default(), now()).expect_err("half of it is gone");
    assert_eq!(error.reason(), "ca_file_missing");
}

#[tokio::test]
async fn a_process_follows_the_files() {
    let state = tempfile::tempdir().expect("directory");
    let vault = Arc::new(FileVault::ca(state.path()));
    let ca = Ca::open(vault.clone(), &domain(), Limits::default(), now()).await.expect("open");
    let wait = Duration::from_secs(DWELL.seconds());
    let mut seen = BTreeMap::new();
    let mut note = |ca: &Ca| {
        let authority = ca.authority();
        seen.insert(authority.phase().to_string(), authority.bundle().roots().len());
        authority.material().anchors().to_vec()
    };
    let old = note(&ca);
    begin(&*vault, &domain(), &next(), DWELL, now()).await.expect("begin");
    assert!(ca.refresh(now()).await.expect("refresh"));
    assert_eq!(note(&ca), old);
    switch(&*vault, &domain(), DWELL, now() + wait).await.expect("switch");
    assert!(ca.refresh(now()).await.expect("refresh"));
    let new = note(&ca);
    assert_ne!(new, old);
    finish(&*vault, &domain(), DWELL, now() + wait * 2).await.expect("finish");
    assert!(ca.refresh(now()).await.expect("refresh"));
    assert_eq!(note(&ca), new);
    let expected = [("added", 2), ("removed", 1), ("steady", 1), ("switched", 2)];
    assert!(seen.iter().map(|(phase, roots)| (&**phase, *roots)).eq(expected), "{seen:?}");
    let names: Vec<_> = std::fs::read_dir(state.path().join("ca"))
        .expect("directory")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("a name"))
        .collect();
    assert_eq!(names.len(), 5, "the four files and the state: {names:?}");
}

#[tokio::test]
async fn the_status_says_when() {
    let vault = vault().await;
    let before = status(&vault, &domain(), DWELL, now()).await.expect("status");
    assert_eq!((before.phase, before.since, before.left), (Phase::Steady, None, Duration::ZERO));
    begin(&vault, &domain(), &next(), DWELL, now()).await.expect("begin");
    let during = status(&vault, &domain(), DWELL, now() + HOUR).await.expect("status");
    assert_eq!((during.phase, during.since), (Phase::Added, Some(now())));
    assert_eq!(during.left + HOUR, Duration::from_secs(DWELL.seconds()));
    assert_eq!(during.roots.iter().filter(|root| root.signs).count(), 1);
    assert_eq!(during.roots.len(), 2);
    assert_eq!(during.roots[0], before.roots[0], "the signer comes first");
    assert_eq!(during.roots[0].fingerprint.len(), 64);
}
