use std::fs;
use std::time::Duration;

use tokio::time::timeout;

use crate::{About, Change, Changes, Directory};

fn account(name: &str, label: &str) -> String {
    format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, labels: {{l: '{label}'}}}}\n")
}

fn show(batch: &[Change]) -> Vec<String> {
    let show = |change: &Change| match change {
        Change::Apply(object) => format!("+{}@{}", object.meta.name, object.origin),
        Change::Delete(key) => format!("-{}", key.name),
        Change::Findings(About::Source, findings) => format!("?{}", findings.len()),
        Change::Findings(About::Object(key), _) => format!("?{key}"),
        Change::Findings(About::WrittenBack, _) => panic!("no source says so"),
        Change::Synced => "synced".into(),
    };
    batch.iter().map(show).collect()
}

async fn next(changes: &mut Changes) -> Vec<String> {
    let batch = timeout(Duration::from_secs(2), changes.next()).await.expect("in time");
    show(&batch.expect("still running"))
}

#[tokio::test]
async fn only_what_differs_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    let write = |name: &str, documents: &[String]| {
        fs::write(path.join(name), documents.join("---\n")).expect("written");
    };
    write("a.yaml", &[account("a", ""), account("b", "")]);
    write("c.yaml", &[account("c", "")]);
    let (feed, mut changes) = Directory::changes(&path).expect("a directory");
    let test = async move {
        assert_eq!(next(&mut changes).await, ["+a@a.yaml:1", "+b@a.yaml:2", "+c@c.yaml:1", "synced"]);
        // One of two in a file.
        write("a.yaml", &[account("a", ""), account("b", "x")]);
        assert_eq!(next(&mut changes).await, ["+b@a.yaml:2"]);
        // Moved, so that findings have to name another place.
        write("a.yaml", &[account("b", "x"), account("a", "")]);
        assert_eq!(next(&mut changes).await, ["+b@a.yaml:1", "+a@a.yaml:2"]);
        // Broken: it stays in force, and there is something to say.
        write("c.yaml", &[account("c", "") + "x: y\n"]);
        assert_eq!(next(&mut changes).await, ["?2"]);
        write("c.yaml", &[account("c", "")]);
        assert_eq!(next(&mut changes).await, ["?0"]);
        // Everything of one edit comes together, without `Synced`.
        write("a.yaml", &[account("d", "")]);
        assert_eq!(next(&mut changes).await, ["+d@a.yaml:1", "-a", "-b"]);
        assert!(changes.next_waiting().is_none());
    };
    // The test drops the receiver, which ends the feed.
    let ended = timeout(Duration::from_secs(20), async { tokio::join!(feed.run(), test) }).await;
    assert!(ended.is_ok(), "the feed did not end");
}

#[tokio::test]
async fn an_empty_directory_is_in_sync() {
    let dir = tempfile::tempdir().expect("a directory");
    let (feed, mut changes) = Directory::changes(dir.path()).expect("a directory");
    let test = async move { assert_eq!(next(&mut changes).await, ["synced"]) };
    let ended = timeout(Duration::from_secs(20), async { tokio::join!(feed.run(), test) }).await;
    assert!(ended.is_ok(), "the feed did not end");
}
