//! House rules about files that no lint knows: how long they are, where unsafe code stands, what they must not name.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::lexer::{blank, has_word, test_modules};
use crate::shell;

/// Every breach in the tree at `root`, as `file:line: what (rule)`.
pub(super) fn judge(root: &Path) -> Result<Vec<String>> {
    let machine = machine_paths(root);
    let mut findings = Vec::new();
    for file in files(root)? {
        // A file may be listed and yet be gone, deleted but not committed.
        let Ok(bytes) = fs::read(root.join(&file)) else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        findings.extend(names_of_machine(&file, &text, &machine));
        if Path::new(&file).extension().is_some_and(|extension| extension == "rs") {
            findings.extend(judge_rust(&file, &text));
        }
    }
    Ok(findings)
}

/// What is wrong with one Rust file, by its path from the top of the tree.
fn judge_rust(file: &str, text: &str) -> Vec<String> {
    let blanked = blank(text);
    let modules = test_modules(&blanked);
    let mut findings: Vec<String> = modules
        .iter()
        .filter(|(first, last)| last - first + 1 > INLINE_TEST_LINES)
        .map(|(first, last)| {
            let (line, length) = (first + 1, last - first + 1);
            format!(
                "{file}:{line}: a test module of {length} lines (at most {INLINE_TEST_LINES}: move it to tests.rs)"
            )
        })
        .collect();
    let is_test = |line: usize| modules.iter().any(|(first, last)| (*first..=*last).contains(&line));
    let lines = (0..text.lines().count()).filter(|line| !is_test(*line)).count();
    if !is_test_file(file) && lines > FILE_LINES {
        findings
            .push(format!("{file}:1: {lines} lines without tests (at most {FILE_LINES}: split by subject)"));
    }
    for (line, code) in blanked.lines().enumerate() {
        if has_word(code, "unsafe") && !may_be_unsafe(file) {
            let places = UNSAFE_PLACES.join(", ");
            findings.push(format!("{file}:{}: unsafe code (allowed only in {places})", line + 1));
        }
        if file.starts_with(PURE) && !is_test_file(file) && !is_test(line) {
            findings.extend(impurity(code).map(|(call, why)| {
                format!("{file}:{}: {call} {why} (mesh-core decides from its arguments alone)", line + 1)
            }));
        }
    }
    findings
}

fn impurity(code: &str) -> Option<(&'static str, &'static str)> {
    IMPURE.into_iter().find(|(call, _)| has_word(code, call))
}

fn is_test_file(file: &str) -> bool {
    // `tests/` at the top is a package: its library is code like any other, the rest are tests.
    let inside = match file.strip_prefix("tests/") {
        Some(rest) if !rest.starts_with("src/") => return true,
        Some(rest) => rest,
        None => file,
    };
    inside.ends_with("/tests.rs") || inside.contains("/tests/")
}

fn may_be_unsafe(file: &str) -> bool {
    UNSAFE_PLACES.iter().any(|place| {
        let module = place.trim_end_matches('/');
        file.starts_with(&format!("{module}/")) || file == format!("{module}.rs")
    })
}

fn names_of_machine(file: &str, text: &str, machine: &[String]) -> Vec<String> {
    let named = |(line, content): (usize, &str)| {
        let path = machine.iter().find(|path| content.contains(path.as_str()))?;
        Some(format!("{file}:{}: names {path}, which exists on one machine only", line + 1))
    };
    text.lines().enumerate().filter_map(named).collect()
}

/// Directories that mean something on this machine alone: where the tree is, and where its user is at home.
fn machine_paths(root: &Path) -> Vec<String> {
    let home = env::var_os("HOME").map(PathBuf::from);
    let paths = [Some(root.to_path_buf()), home].into_iter().flatten();
    let paths = paths.filter(|path| path.components().count() > 1);
    paths.map(|path| format!("{}/", path.display())).collect()
}

/// All files that are in the repository or would be with the next `git add`.
fn files(root: &Path) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    // The tree may belong to another user than the one who checks it, as in containers.
    git.args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let list = shell::read(git.current_dir(root)).context("the files of the tree are listed with git")?;
    Ok(list.split('\0').filter(|file| !file.is_empty()).map(str::to_owned).collect())
}

/// Longer files hide more than one subject.
const FILE_LINES: usize = 600;

/// Longer test modules push what they test out of sight.
const INLINE_TEST_LINES: usize = 150;

const UNSAFE_PLACES: [&str; 4] = ["mesh-ebpf/", "mesh-common/", "mesh-node/src/sys", "tests/src/sys"];

const PURE: &str = "mesh-core/src/";

/// What reaches outside of a program without any crate.
const IMPURE: [(&str, &str); 9] = [
    ("std::env", "reads the environment"),
    ("std::fs", "reads files"),
    ("std::process", "starts programs"),
    ("std::thread", "starts threads"),
    ("TcpListener", "opens sockets"),
    ("TcpStream", "opens sockets"),
    ("UdpSocket", "opens sockets"),
    ("Instant::now", "reads the clock"),
    ("SystemTime::now", "reads the clock"),
];

#[cfg(test)]
mod tests;
