//! Which files are read.

use super::*;

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: NAME}\n";

fn tree() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path();
    fs::create_dir(root.join("sub")).expect("a directory");
    for (file, name) in
        [("b.yaml", "b"), ("a.yml", "a"), ("sub/c.yaml", "c"), (".hidden.yaml", "h"), ("notes.txt", "n")]
    {
        fs::write(root.join(file), NAMESPACE.replace("NAME", name)).expect("a file");
    }
    fs::write(root.join("d.json"), r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"d"}}"#)
        .expect("a file");
    directory
}

fn names(input: &Input) -> Vec<String> {
    input.parsed.objects.iter().map(|object| object.meta.name.to_string()).collect()
}

#[test]
fn a_directory_is_read_by_name_without_what_is_below() {
    let directory = tree();
    let input = all(&[directory.path().to_owned()], false).expect("all is readable");
    assert_eq!(names(&input), ["a", "b", "d"]);
    assert_eq!(input.files, 3);
    assert_eq!(input.skipped, [directory.path().join("sub")]);
}

#[test]
fn a_directory_is_read_with_what_is_below_if_asked() {
    let directory = tree();
    let input = all(&[directory.path().to_owned()], true).expect("all is readable");
    assert_eq!(names(&input), ["a", "b", "d", "c"]);
    assert!(input.skipped.is_empty());
}

#[test]
fn a_circle_of_links_ends() {
    let directory = tree();
    std::os::unix::fs::symlink(directory.path(), directory.path().join("sub/up")).expect("a link");
    let input = all(&[directory.path().to_owned()], true).expect("all is readable");
    assert_eq!(input.files, 4);
}

#[test]
fn a_file_that_is_named_is_read_whatever_its_name() {
    let directory = tree();
    let input = all(&[directory.path().join("notes.txt")], false).expect("it is readable");
    assert_eq!(names(&input), ["n"]);
}

#[test]
fn what_cannot_be_read_is_named() {
    let directory = tree();
    let missing = directory.path().join("missing.yaml");
    let error = all(&[directory.path().to_owned(), missing.clone()], false).expect_err("it is not there");
    assert!(format!("{error:#}").starts_with(&missing.display().to_string()), "{error:#}");
    fs::write(directory.path().join("bytes.yaml"), [0xff, 0xfe, 0xfd]).expect("a file");
    let error = all(&[directory.path().to_owned()], false).expect_err("it is no text");
    assert!(format!("{error:#}").contains("bytes.yaml: is not UTF-8 text"), "{error:#}");
}
