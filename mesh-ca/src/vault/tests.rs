use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("file").permissions().mode() & 0o777
}

#[test]
fn files_appear_together_and_for_our_eyes_only() {
    let state = tempfile::tempdir().expect("directory");
    let vault = FileVault::ca(&state.path().join("made/on/the/way"));
    let nothing = vault.read_now().expect("nothing yet");
    assert!(nothing.entries().is_empty());
    let changes = [Change::put("ca-key.pem", "secret"), Change::put("ca-cert.pem", "public")];
    vault.write_now(&nothing, &changes).expect("written");
    let dir = state.path().join("made/on/the/way/ca");
    assert_eq!(mode(&dir), 0o700);
    assert_eq!((mode(&dir.join("ca-key.pem")), mode(&dir.join("ca-cert.pem"))), (0o600, 0o600));
    let contents = vault.read_now().expect("contents");
    assert_eq!(contents.get("ca-key.pem"), Some(&b"secret"[..]));
    assert_eq!(contents, nothing.with(&changes));
    assert_eq!(contents.place_of("x"), dir.join("x").display().to_string());
    assert!(!format!("{contents:?} {changes:?}").contains("secret"), "keys are not printed");
    assert!(!dir.with_file_name("ca.draft").exists());
}

#[test]
fn changes_replace_and_remove() {
    let state = tempfile::tempdir().expect("directory");
    let vault = FileVault::ca(state.path());
    let write = |changes: &[Change]| vault.write_now(&vault.read_now().expect("contents"), changes);
    write(&[Change::put("ca-key.pem", "1"), Change::put("ca-cert.pem", "1")]).expect("first");
    // Left by a process that died in between.
    fs::write(state.path().join("ca/.ca-key.pem.draft"), "half").expect("draft");
    write(&[Change::put("ca-key.pem", "2"), Change::remove("ca-cert.pem"), Change::remove("rotation.json")])
        .expect("second");
    let contents = vault.read_now().expect("contents");
    assert_eq!(contents.get("ca-key.pem"), Some(&b"2"[..]));
    assert_eq!(contents.entries().len(), 1);
    assert_eq!(mode(&state.path().join("ca/ca-key.pem")), 0o600);
    assert_eq!(fs::read_dir(state.path().join("ca")).expect("directory").count(), 1, "no drafts are left");
}

#[test]
fn a_dead_process_leaves_nothing_in_the_way() {
    let state = tempfile::tempdir().expect("directory");
    fs::create_dir(state.path().join("ca.draft")).expect("draft");
    fs::write(state.path().join("ca.draft/ca-key.pem"), "half").expect("half a key");
    fs::create_dir(state.path().join("ca")).expect("an empty directory is no CA yet");
    let vault = FileVault::ca(state.path());
    let nothing = vault.read_now().expect("nothing yet");
    vault.write_now(&nothing, &[Change::put("ca-cert.pem", "new")]).expect("written");
    assert_eq!(vault.read_now().expect("contents").entries().len(), 1);
}

#[test]
fn changes_of_others_are_not_overwritten() {
    let state = tempfile::tempdir().expect("directory");
    let vault = FileVault::ca(state.path());
    let base = vault.read_now().expect("nothing yet");
    let winners = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (vault, base, winners) = (&vault, &base, &winners);
            scope.spawn(move || match vault.write_now(base, &[Change::put("ca-key.pem", format!("{n}"))]) {
                Ok(()) => winners.fetch_add(1, Ordering::Relaxed),
                Err(VaultError::Conflict { .. }) => 0,
                Err(e) => panic!("{e}"),
            });
        }
    });
    assert_eq!(winners.into_inner(), 1);
}

#[test]
fn a_lock_that_nobody_lets_go_of_is_not_waited_for_for_ever() {
    let state = tempfile::tempdir().expect("directory");
    let vault = FileVault::ca(state.path());
    let base = vault.read_now().expect("nothing yet");
    let lock = fs::File::create(state.path().join("ca.lock")).expect("lock");
    lock.lock().expect("locked");
    assert_eq!(vault.read_now().expect_err("locked").reason(), "ca_busy");
    let refused = vault.write_now(&base, &[Change::put("ca-key.pem", "x")]).expect_err("locked");
    assert_eq!(refused.reason(), "ca_busy");
    drop(lock);
    vault.write_now(&base, &[Change::put("ca-key.pem", "x")]).expect("written");
}

#[test]
fn errors_name_the_file() {
    let state = tempfile::tempdir().expect("directory");
    let dir = state.path().join("ca");
    fs::create_dir(&dir).expect("directory");
    let vault = FileVault::ca(state.path());
    fs::write(dir.join("ca-crl.pem"), vec![b'x'; 1 << 20]).expect("as large as may be");
    vault.read_now().expect("contents");
    fs::write(dir.join("ca-crl.pem"), vec![b'x'; (1 << 20) + 1]).expect("too large");
    let error = vault.read_now().expect_err("too large");
    assert_eq!(error.reason(), "ca_file_malformed");
    assert!(error.to_string().contains("ca/ca-crl.pem"), "{error}");
    fs::remove_file(dir.join("ca-crl.pem")).expect("gone");
    fs::create_dir(dir.join("ca-crl.pem")).expect("a directory instead");
    let error = vault.read_now().expect_err("a directory");
    assert_eq!(error.reason(), "ca_io");
    assert!(error.to_string().contains("ca/ca-crl.pem"), "{error}");
}
