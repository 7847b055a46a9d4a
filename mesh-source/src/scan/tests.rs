use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::{MAX_FILES, Outcome, Patience, Scanner, is_source};
use crate::directory::Loaded;

fn account(name: &str) -> String {
    format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}}}\n")
}

fn names(loaded: &Loaded) -> Vec<String> {
    loaded.objects.iter().map(|object| format!("{}@{}", object.meta.name, object.origin)).collect()
}

fn lines(loaded: &Loaded) -> Vec<String> {
    loaded.findings.iter().map(ToString::to_string).collect()
}

/// A scan that must find something new.
fn changed(scanner: &mut Scanner) -> Loaded {
    assert_eq!(scanner.scan(Patience::Over), Outcome::Changed);
    scanner.load()
}

fn scanner(path: &Path) -> Scanner {
    Scanner::new(path.to_owned())
}

#[test]
fn only_sources_are_read() {
    for name in ["a.yaml", "b.yml", "c.json", "x.y.yaml"] {
        assert!(is_source(name.as_ref()), "{name}");
    }
    for name in [
        ".a.yaml",
        ".a.yaml.swp",
        "#a.yaml#",
        ".#a.yaml",
        "a.yaml~",
        "~$a.yaml",
        "4913",
        "a.YAML",
        "a.yaml.tmp",
        "",
    ] {
        assert!(!is_source(name.as_ref()), "{name}");
    }
}

#[test]
fn only_what_changed_counts_as_change() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut scanner = scanner(dir.path());
    assert_eq!(scanner.scan(Patience::Over), Outcome::Unchanged);
    fs::write(dir.path().join("b.yaml"), account("b")).expect("written");
    fs::write(dir.path().join("a.yaml"), account("a")).expect("written");
    fs::create_dir(dir.path().join("d.yaml")).expect("made");
    let loaded = changed(&mut scanner);
    assert_eq!(names(&loaded), ["a@a.yaml:1", "b@b.yaml:1"]);
    assert_eq!(loaded.generation, 1);
    assert_eq!(scanner.scan(Patience::Over), Outcome::Unchanged);
    // The same text again is no news, although every stamp differs.
    fs::remove_file(dir.path().join("b.yaml")).expect("removed");
    fs::write(dir.path().join("b.yaml"), account("b")).expect("written");
    assert_eq!(scanner.scan(Patience::Over), Outcome::Unchanged);
    // As long, and within the tick of the clock.
    fs::write(dir.path().join("b.yaml"), account("c")).expect("written");
    assert_eq!(names(&changed(&mut scanner)), ["a@a.yaml:1", "c@b.yaml:1"]);
    fs::remove_file(dir.path().join("a.yaml")).expect("removed");
    let loaded = changed(&mut scanner);
    assert_eq!((names(&loaded), loaded.generation), (vec!["c@b.yaml:1".to_owned()], 3));
}

#[test]
fn the_first_of_duplicates_counts() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("b.yaml"), account("x")).expect("written");
    fs::write(dir.path().join("a.yaml"), format!("{}---\n{}", account("x"), account("x"))).expect("written");
    let loaded = changed(&mut scanner(dir.path()));
    assert_eq!(names(&loaded), ["x@a.yaml:1"]);
    let rest = "Error metadata.name: ServiceAccount default/x is already defined in a.yaml:1 \
                (the first by file name and document counts)";
    assert_eq!(lines(&loaded), [format!("a.yaml:2 {rest}"), format!("b.yaml:1 {rest}")]);
}

#[test]
fn a_broken_document_keeps_its_last_good_object() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.yaml");
    let write = |documents: &[&str]| fs::write(&path, documents.join("---\n")).expect("written");
    let (a, b, c) = (account("a"), account("b"), account("c"));
    let bad_b = format!("{b}x: y\n");
    let mut scanner = scanner(dir.path());
    write(&[&a, &b, &c]);
    assert_eq!(names(&changed(&mut scanner)), ["a@a.yaml:1", "b@a.yaml:2", "c@a.yaml:3"]);
    // Known which object it is.
    write(&[&a, &bad_b, &c]);
    let loaded = changed(&mut scanner);
    assert_eq!(names(&loaded), ["a@a.yaml:1", "c@a.yaml:3", "b@a.yaml:2"]);
    assert_eq!(
        lines(&loaded)[1],
        "a.yaml:2 Warning the last good version of ServiceAccount default/b stays in force"
    );
    // Unknown, but it was document 2.
    write(&[&a, "kind: {\n", &c]);
    assert_eq!(names(&changed(&mut scanner)), ["a@a.yaml:1", "c@a.yaml:3", "b@a.yaml:2"]);
    // Removing another one while it is broken removes just that.
    write(&[&a, "kind: {\n"]);
    assert_eq!(names(&changed(&mut scanner)), ["a@a.yaml:1", "b@a.yaml:2"]);
    // Another file takes it over.
    fs::write(dir.path().join("b.yaml"), &b).expect("written");
    let loaded = changed(&mut scanner);
    assert_eq!(names(&loaded), ["a@a.yaml:1", "b@b.yaml:1"]);
    fs::remove_file(dir.path().join("b.yaml")).expect("removed");
    changed(&mut scanner);
    // Gone for good.
    write(&[&a]);
    assert_eq!(names(&changed(&mut scanner)), ["a@a.yaml:1"]);
    // A document that was never good does not hold back others.
    write(&["kind: {\n", &a, &b]);
    assert_eq!(names(&changed(&mut scanner)).len(), 2);
    write(&["kind: {\n", &a]);
    assert_eq!(names(&changed(&mut scanner)), ["a@a.yaml:2"]);
    // A file that breaks off keeps what came after.
    write(&[&a, &b, &c]);
    changed(&mut scanner);
    write(&[&a, "apiVersion: \"v"]);
    assert_eq!(names(&changed(&mut scanner)), ["a@a.yaml:1", "b@a.yaml:2", "c@a.yaml:3"]);
}

#[test]
fn an_unreadable_file_keeps_its_last_good_version() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.yaml");
    let mut scanner = scanner(dir.path());
    let good = "; its last good version stays in force";
    fs::write(&path, account("a")).expect("written");
    changed(&mut scanner);

    fs::write(&path, b"a: \xff\n").expect("written");
    assert_eq!(scanner.scan(Patience::Left), Outcome::Unsettled);
    let loaded = changed(&mut scanner);
    assert_eq!(names(&loaded), ["a@a.yaml:1"]);
    assert_eq!(lines(&loaded), [format!("a.yaml:0 Error is not UTF-8 text: byte 4 is invalid{good}")]);
    assert_eq!(scanner.scan(Patience::Left), Outcome::Unchanged);

    fs::remove_file(&path).expect("removed");
    symlink("nowhere", &path).expect("linked");
    assert_eq!(lines(&changed(&mut scanner)), [format!("a.yaml:0 Error is a link that leads nowhere{good}")]);

    fs::remove_file(&path).expect("removed");
    let _listener = UnixListener::bind(&path).expect("a socket");
    assert_eq!(lines(&changed(&mut scanner)), [format!("a.yaml:0 Error is not a regular file{good}")]);

    fs::remove_file(&path).expect("removed");
    fs::write(&path, vec![b'#'; (16 << 20) + 1]).expect("written");
    assert_eq!(lines(&changed(&mut scanner)), [format!("a.yaml:0 Error is larger than 16 MiB{good}")]);

    fs::write(&path, account("a")).expect("written");
    let loaded = changed(&mut scanner);
    assert_eq!((names(&loaded), lines(&loaded)), (vec!["a@a.yaml:1".to_owned()], Vec::new()));
}

#[test]
fn an_emptied_file_is_given_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.yaml");
    let mut scanner = scanner(dir.path());
    fs::write(&path, account("a")).expect("written");
    changed(&mut scanner);
    fs::write(&path, "").expect("written");
    assert_eq!(scanner.scan(Patience::Left), Outcome::Unsettled);
    assert_eq!(names(&changed(&mut scanner)), Vec::<String>::new());
}

#[test]
fn a_vanished_directory_keeps_everything() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config");
    fs::create_dir(&path).expect("made");
    fs::write(path.join("a.yaml"), account("a")).expect("written");
    let mut scanner = scanner(&path);
    changed(&mut scanner);
    fs::rename(&path, dir.path().join("away")).expect("renamed");
    assert_eq!(scanner.scan(Patience::Left), Outcome::Unsettled);
    let loaded = changed(&mut scanner);
    assert_eq!(names(&loaded), ["a@a.yaml:1"]);
    assert!(lines(&loaded)[0].contains("cannot be listed"), "{:?}", lines(&loaded));
    fs::rename(dir.path().join("away"), &path).expect("renamed");
    assert_eq!(lines(&changed(&mut scanner)), Vec::<String>::new());
}

#[test]
fn the_number_of_files_is_limited() {
    let dir = tempfile::tempdir().expect("a directory");
    for number in 0..=MAX_FILES {
        fs::write(dir.path().join(format!("{number:05}.yaml")), "").expect("written");
    }
    let loaded = changed(&mut scanner(dir.path()));
    let line = lines(&loaded).pop().expect("a finding");
    assert!(
        line.ends_with(":0 Error has 10001 files, of which only the first 10000 by name are read"),
        "{line}"
    );
}
