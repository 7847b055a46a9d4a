//! `deploy/README.md`: its commands are run, but for those that it marks as taking a cluster with nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::cluster::Cluster;
use crate::manifests::program;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Lines of its blocks of commands.
fn commands() -> Vec<String> {
    let text = fs::read_to_string(top().join("deploy/README.md")).expect("the guide");
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next().map(str::to_owned));
    blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// As a user does, in the project's directory. The suite's API server has no schemas for kubectl to ask for.
fn run(cluster: &Cluster, line: &str) {
    let meshctl = program("meshctl");
    let ours = meshctl.parent().expect("a directory").display();
    let mut shell = Command::new("sh");
    let line = line.replace("kubectl apply", "kubectl apply --validate=false");
    // Its webhook would ask a control plane, and nothing runs there.
    let line = line.replace("--validate=false -f", "--validate=false --dry-run=client -f");
    shell.args(["-ec", &line]);
    shell.current_dir(top()).env("KUBECONFIG", &cluster.kubeconfig).stdin(Stdio::null());
    let path = std::env::var("PATH").unwrap_or_default();
    let output = shell.env("PATH", format!("{ours}:{path}")).output().expect("it starts");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn commands_of_the_guide_work() {
    let cluster = Cluster::alive();
    cluster.server.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}));
    let mut count = 0;
    for line in commands().iter().filter(|line| !line.contains("#!")) {
        let line = line.split(" #").next().expect("a command").trim();
        // Another way to the same objects: not where they are already, as those of somebody else.
        let another = line.contains("--server-side").then(Cluster::own);
        run(another.as_ref().unwrap_or(&cluster), line);
        // What is applied is looked at where it is as well, by the same eyes as those of the webhook.
        if let ["kubectl", "apply", "-f", file] = line.split_whitespace().collect::<Vec<_>>()[..] {
            let mut command = Command::new(program("meshctl"));
            let output = command.arg("analyze").arg(top().join(file)).output().expect("it starts");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(!text.contains(" error "), "{line}: {text}");
        }
        count += 1;
    }
    assert_eq!(count, 10);
}

/// Flags of commands that cannot be run here are known at least, and files that they name are there.
#[test]
fn marked_commands_name_what_there_is() {
    for line in commands().iter().filter(|line| line.contains("#!")) {
        let words: Vec<_> = line.split("#!").next().expect("a command").split_whitespace().collect();
        for word in words.iter().filter(|word| word.starts_with("deploy/")) {
            assert!(top().join(word).exists(), "{line}");
        }
        if let ["meshctl", rest @ ..] = &words[..] {
            let flags = rest.iter().take_while(|word| **word != "|").filter(|word| word.starts_with("--"));
            let names: Vec<_> = rest.iter().take_while(|word| !word.starts_with('-')).collect();
            let help =
                Command::new(program("meshctl")).args(names).arg("--help").output().expect("it starts");
            let help = String::from_utf8_lossy(&help.stdout).into_owned();
            flags.for_each(|flag| assert!(help.contains(flag), "{line}: {flag}"));
        }
    }
}
