//! `meshctl analyze` as users run it: the real binary over the corpus, in every format.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mesh_core::analyze::Code;
use serde_json::Value;

fn meshctl(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_meshctl")).args(args).stdin(Stdio::null()).output();
    output.expect("meshctl starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("meshctl prints text")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package stands in the workspace").to_owned()
}

/// Every file of the corpus, and what it is expected to say.
fn corpus() -> Vec<(PathBuf, String)> {
    let directory = root().join("tests/corpus/analyze");
    let mut files: Vec<_> = fs::read_dir(&directory)
        .expect("the corpus is there")
        .map(|entry| entry.expect("the corpus can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    let expected = |path: &Path| fs::read_to_string(path.with_extension("expected"));
    files
        .into_iter()
        .map(|path| (path.clone(), expected(&path).expect("every file has its expectation")))
        .collect()
}

/// That nothing acts on a kind yet is true of the mesh of today, not of the document.
fn is_about_the_document(line: &&str) -> bool {
    !line.contains("is not enforced yet")
}

#[test]
fn every_file_of_the_corpus_says_what_is_expected() {
    let corpus = corpus();
    let names: Vec<_> = corpus.iter().filter_map(|(path, _)| path.file_stem()?.to_str()).collect();
    let missing: Vec<_> =
        Code::ALL.iter().filter(|code| !names.contains(&&*code.to_string().to_lowercase())).collect();
    assert!(missing.is_empty(), "no file for {missing:?}");
    for (path, expected) in &corpus {
        let output = meshctl(&["analyze", path.to_str().expect("the path is text")]);
        let text = stdout(&output);
        let said: Vec<_> = text.lines().filter(is_about_the_document).collect();
        assert_eq!(said, expected.lines().collect::<Vec<_>>(), "{}", path.display());
        let code = path.file_stem().expect("it has a name").to_string_lossy().to_uppercase();
        assert!(expected.contains(&format!(" [{code}] ")), "{} is about something else", path.display());
        let fails = expected.contains(" Error [");
        assert_eq!(output.status.code(), Some(i32::from(fails)), "{}", path.display());
    }
}

#[test]
fn json_says_the_same_as_text() {
    for (path, expected) in corpus() {
        let output = meshctl(&["analyze", "-o", "json", path.to_str().expect("the path is text")]);
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout).expect("a list of objects");
        let text = |row: &Value, pointer: &str| {
            row.pointer(pointer).and_then(Value::as_str).map(str::to_owned).unwrap_or_default()
        };
        let line = |row: &Value| {
            let document = row.pointer("/origin/document").and_then(Value::as_u64).expect("a number");
            let (field, hint) = (text(row, "/field"), text(row, "/hint"));
            let field = if field.is_empty() { field } else { format!("{field}: ") };
            let hint = if hint.is_empty() { hint } else { format!(" ({hint})") };
            let (file, level, code) = (text(row, "/origin/file"), text(row, "/level"), text(row, "/code"));
            format!("{file}:{document} {level} [{code}] {field}{}{hint}", text(row, "/reason"))
        };
        let lines: Vec<_> = rows.iter().map(line).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).filter(is_about_the_document).collect();
        assert_eq!(lines, expected.lines().collect::<Vec<_>>(), "{}", path.display());
        for row in &rows {
            assert!(!text(row, "/origin/kind").is_empty() && !text(row, "/origin/name").is_empty(), "{row}");
            assert!(text(row, "/documentationUrl").contains(&text(row, "/code").to_lowercase()), "{row}");
        }
    }
}

/// What is worse than Info in files and directories that are applied together.
fn wrong_with(paths: &[PathBuf]) -> Vec<String> {
    let paths: Vec<_> = paths.iter().map(|path| path.to_str().expect("the path is text")).collect();
    let output = meshctl(&[&["analyze", "-R"], paths.as_slice()].concat());
    let text = stdout(&output);
    let lines: Vec<_> =
        text.lines().filter(|line| line.contains(" Warning [") || line.contains(" Error [")).collect();
    let fails = text.contains(" Error [");
    assert_eq!(output.status.code(), Some(i32::from(fails)), "{text}");
    lines.into_iter().map(str::to_owned).collect()
}

/// The parts of the samples that can be applied at once. A VirtualService of `networking` takes the place of another of
/// the same name, so each is read with what it builds on and without the others.
#[test]
fn the_samples_have_no_errors() {
    let samples = root().join("deploy/samples");
    let under = |names: &[&str]| names.iter().map(|name| samples.join(name)).collect::<Vec<_>>();
    let bookinfo = under(&[
        "bookinfo/namespace.yaml",
        "bookinfo/bookinfo.yaml",
        "bookinfo/networking/destination-rule-all.yaml",
    ]);
    // Each of these begins with what stands in its directory; rules are added one at a time.
    let files = |directory: PathBuf| {
        let entries = fs::read_dir(directory).into_iter().flatten();
        let paths = entries.map(|entry| entry.expect("the samples can be listed").path());
        paths.filter(|path| path.is_file()).collect::<Vec<_>>()
    };
    for directory in ["egress", "egress-gateway", "rate-limit", "sni-passthrough", "tcp-echo", "waypoint"] {
        let first = files(samples.join(directory));
        assert!(!first.is_empty(), "{directory}");
        assert_eq!(wrong_with(&first), [""; 0], "{directory}");
        for rule in files(samples.join(directory).join("rules")) {
            assert_eq!(
                wrong_with(&[first.clone(), vec![rule.clone()]].concat()),
                [""; 0],
                "{}",
                rule.display()
            );
        }
    }
    for directory in ["bookinfo/policies", "bookinfo/plain", "helloworld", "httpbin", "book-gateway"] {
        assert_eq!(wrong_with(&[bookinfo.clone(), under(&[directory])].concat()), [""; 0], "{directory}");
    }
    for file in
        ["bookinfo/gateway-api/bookinfo-gateway.yaml", "helloworld/gateway-api/helloworld-gateway.yaml"]
    {
        assert_eq!(
            wrong_with(&[bookinfo.clone(), under(&["helloworld/helloworld.yaml", file])].concat()),
            [""; 0],
            "{file}"
        );
    }
    let bookinfo = [bookinfo, under(&["bookinfo/gateway-api/bookinfo-versions.yaml"])].concat();
    let listed = ["bookinfo/networking", "bookinfo/gateway-api", "chaos"]
        .iter()
        .flat_map(|directory| fs::read_dir(samples.join(directory)).expect("the directory is there"));
    let alternatives: Vec<_> = listed.map(|entry| entry.expect("the samples can be listed").path()).collect();
    assert!(alternatives.len() > 8, "{alternatives:?}");
    for file in alternatives.into_iter().filter(|file| !bookinfo.contains(file)) {
        assert_eq!(
            wrong_with(&[bookinfo.clone(), vec![file.clone()]].concat()),
            [""; 0],
            "{}",
            file.display()
        );
    }
}

/// Two of them at once is what the analyzer is there to find.
#[test]
fn alternatives_among_the_samples_exclude_each_other() {
    let samples = root().join("deploy/samples/bookinfo");
    let all = ["bookinfo.yaml", "networking"].map(|name| samples.join(name));
    let wrong = wrong_with(&all);
    assert!(
        wrong.iter().any(|line| line.contains("VirtualService default/reviews is already defined")),
        "{wrong:?}"
    );
}

#[test]
fn nothing_wrong_is_said_in_words_and_in_json() {
    let file = root().join("deploy/samples/bookinfo/bookinfo.yaml");
    let file = file.to_str().expect("the path is text");
    let output = meshctl(&["analyze", file]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).starts_with("No validation issues found: "), "{}", stdout(&output));
    let output = meshctl(&["analyze", "-o", "json", file]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "[]\n"));
}

const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: outside}}\n";

/// What `meshctl analyze -` says of [`NAMESPACE`], of which there is one thing to say, at level Info.
fn namespace(args: &[&str]) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(["analyze", "-"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("meshctl starts");
    // Whoever does not understand the command line reads nothing.
    let _ = child.stdin.take().expect("it is a pipe").write_all(NAMESPACE.as_bytes());
    let output = child.wait_with_output().expect("meshctl ends");
    (output.status.code(), stdout(&output) + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_thresholds_decide_what_fails_and_what_is_shown() {
    let found = "stdin:1 Info [IST0102] metadata.labels: namespace outside";
    let (code, text) = namespace(&[]);
    assert!(code == Some(0) && text.starts_with(found), "{code:?} {text}");
    let (code, text) = namespace(&["--failure-threshold", "Info"]);
    assert!(code == Some(1) && text.starts_with(found), "{code:?} {text}");
    let (code, text) = namespace(&["--failure-threshold", "warning"]);
    assert!(code == Some(0) && text.starts_with(found), "{code:?} {text}");
    let (code, text) = namespace(&["--output-threshold", "Warning"]);
    assert!(code == Some(0) && text.starts_with("No validation issues found"), "{code:?} {text}");
    let (code, text) = namespace(&["--output-threshold", "Warning", "--failure-threshold", "Info"]);
    assert!(code == Some(1) && text.is_empty(), "{code:?} {text}");
}

#[test]
fn what_is_suppressed_neither_shows_nor_fails() {
    for suppressed in ["IST0102=Namespace outside", "IST0102=Namespace out*", "IST0102=*"] {
        let (code, text) = namespace(&["--failure-threshold", "Info", "--suppress", suppressed]);
        assert!(code == Some(0) && text.starts_with("No validation issues found"), "{suppressed}: {text}");
    }
    let (code, text) = namespace(&["--failure-threshold", "Info", "-S", "IST0102=Namespace inside"]);
    assert!(code == Some(1) && text.contains("IST0102"), "{text}");
    let (code, text) = namespace(&["-S", "IST9999=*"]);
    assert!(code == Some(0) && text.contains("there is no code IST9999"), "{text}");
    assert_eq!(namespace(&["-S", "IST0102"]).0, Some(2));
}

#[test]
fn findings_of_other_namespaces_are_left_out() {
    assert!(namespace(&["-n", "outside"]).1.contains("IST0102"));
    assert!(namespace(&["-n", "inside"]).1.starts_with("No validation issues found"));
    assert!(namespace(&["-A"]).1.contains("IST0102"));
    assert_eq!(namespace(&["-A", "-n", "outside"]).0, Some(2));
}

#[test]
fn the_log_format_names_the_object_first() {
    let (_, text) = namespace(&["-o", "log"]);
    assert!(text.starts_with("Info [IST0102] (Namespace outside stdin:1) metadata.labels: "), "{text}");
}

#[test]
fn what_cannot_be_done_is_said_and_fails() {
    let stderr = |args: &[&str]| {
        let output = meshctl(args);
        assert!(output.stdout.is_empty(), "{args:?}");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = stderr(&["analyze", "/nonexistent/a.yaml"]);
    assert!(code == Some(1) && text.starts_with("meshctl: /nonexistent/a.yaml: No such file"), "{text}");
    for wrong in [&["--kubeconfig", "/nonexistent/config"][..], &["-k", "--context", "nowhere"]] {
        let (code, text) = stderr(&[&["analyze"], wrong].concat());
        assert!(code == Some(1) && text.starts_with("meshctl: the kubeconfig names no cluster: "), "{text}");
    }
    let (code, text) = stderr(&["analyze", "--use-kube=false"]);
    assert!(code == Some(1) && text.contains("name files or directories"), "{text}");
    assert_eq!(stderr(&["analyze"]).0, Some(2));
    assert_eq!(stderr(&["analyze", "-o", "xml", "-"]).0, Some(2));
    // Whoever comes from istioctl switches the cluster off.
    let sample = root().join("deploy/samples/bookinfo/bookinfo.yaml");
    let output = meshctl(&["analyze", "--use-kube=false", sample.to_str().expect("the path is text")]);
    assert_eq!(output.status.code(), Some(0));
}
