use std::fs;
use std::future::Future;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{Directory, Loaded, SourceError};

fn account(name: &str) -> String {
    format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}}}\n")
}

fn names(loaded: &Loaded) -> Vec<String> {
    loaded.objects.iter().map(|object| object.meta.name.to_string()).collect()
}

/// Runs `test` while `path` is watched.
async fn watched<F: Future<Output = ()>>(path: &Path, test: impl FnOnce(watch::Receiver<Arc<Loaded>>) -> F) {
    let (directory, receiver) = Directory::open(path).expect("a directory");
    // The test drops the only receiver, which ends the run.
    let ended =
        timeout(Duration::from_secs(30), async { tokio::join!(directory.run(), test(receiver)) }).await;
    assert!(ended.is_ok(), "the run did not end");
}

/// Waits for the next publication, at most `limit`.
async fn next(receiver: &mut watch::Receiver<Arc<Loaded>>, limit: Duration) -> Vec<String> {
    timeout(limit, receiver.changed()).await.expect("published in time").expect("still running");
    names(&receiver.borrow_and_update())
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_wrong_path_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let absent = dir.path().join("absent");
    let error = Directory::open(&absent).expect_err("there is none");
    assert!(matches!(error, SourceError::Absent { .. }));
    let expected = format!("the configuration directory {} does not exist", absent.display());
    assert_eq!(error.to_string(), expected);
    let file = dir.path().join("file");
    fs::write(&file, "").expect("written");
    let error = Directory::open(&file).expect_err("a file");
    assert_eq!(error.to_string(), format!("{} is not a directory", file.display()));
}

#[tokio::test]
async fn edits_take_effect_within_a_second() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    fs::write(path.join("a.yaml"), account("a")).expect("written");
    watched(dir.path(), async |mut receiver| {
        assert_eq!(names(&receiver.borrow_and_update()), ["a"]);
        assert_eq!(receiver.borrow().generation, 1);
        fs::write(path.join("b.yaml"), account("b")).expect("written");
        assert_eq!(next(&mut receiver, SECOND).await, ["a", "b"]);
        fs::write(path.join("a.yaml"), account("c")).expect("written");
        assert_eq!(next(&mut receiver, SECOND).await, ["c", "b"]);
        // As most editors save.
        fs::write(path.join(".a.yaml.tmp"), account("d")).expect("written");
        fs::rename(path.join(".a.yaml.tmp"), path.join("a.yaml")).expect("renamed");
        assert_eq!(next(&mut receiver, SECOND).await, ["d", "b"]);
        fs::remove_file(path.join("b.yaml")).expect("removed");
        assert_eq!(next(&mut receiver, SECOND).await, ["d"]);
        // Nothing else was ever published, and reading wakes nobody.
        fs::write(path.join(".hidden.yaml"), account("h")).expect("written");
        assert!(timeout(SECOND, receiver.changed()).await.is_err());
        assert_eq!(receiver.borrow().generation, 5);
    })
    .await;
}

#[tokio::test]
async fn a_save_is_seen_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.yaml");
    let text = format!("{}---\n{}", account("a"), account("b"));
    fs::write(&path, &text).expect("written");
    watched(dir.path(), async |mut receiver| {
        receiver.mark_unchanged();
        let new = text.replace("name: ", "name: new-");
        let (first, second) = new.split_at(new.len() / 2);
        fs::write(&path, "").expect("written");
        sleep(Duration::from_millis(120)).await;
        fs::write(&path, first).expect("written");
        sleep(Duration::from_millis(20)).await;
        fs::write(&path, format!("{first}{second}")).expect("written");
        assert_eq!(next(&mut receiver, SECOND).await, ["new-a", "new-b"]);
        assert_eq!(receiver.borrow().generation, 2);
    })
    .await;
}

#[tokio::test]
async fn many_files_are_published_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    watched(dir.path(), async |mut receiver| {
        for number in 0..50 {
            let name = format!("n{number:02}");
            fs::write(path.join(format!("{name}.yaml")), account(&name)).expect("written");
        }
        assert_eq!(next(&mut receiver, SECOND).await.len(), 50);
    })
    .await;
}

#[tokio::test]
async fn config_map_updates_are_followed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    let version = |version: &str, names: [&str; 2]| {
        fs::create_dir(path.join(version)).expect("made");
        fs::write(path.join(version).join("a.yaml"), account(names[0])).expect("written");
        fs::write(path.join(version).join("b.yaml"), account(names[1])).expect("written");
        symlink(version, path.join("..data_tmp")).expect("linked");
        fs::rename(path.join("..data_tmp"), path.join("..data")).expect("renamed");
    };
    version("..1", ["a1", "b1"]);
    symlink("..data/a.yaml", path.join("a.yaml")).expect("linked");
    symlink("..data/b.yaml", path.join("b.yaml")).expect("linked");
    watched(dir.path(), async |mut receiver| {
        assert_eq!(names(&receiver.borrow_and_update()), ["a1", "b1"]);
        for (number, expected) in [("..2", ["a2", "b2"]), ("..3", ["a3", "b3"])] {
            version(number, expected);
            assert_eq!(next(&mut receiver, SECOND).await, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_of_events_delays_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    watched(dir.path(), async |mut receiver| {
        let noise = async {
            for number in 0.. {
                fs::write(path.join("noise.txt"), format!("{number}")).expect("written");
                sleep(Duration::from_millis(10)).await;
            }
        };
        let test = async {
            sleep(Duration::from_millis(100)).await;
            let start = Instant::now();
            fs::write(path.join("a.yaml"), account("a")).expect("written");
            assert_eq!(next(&mut receiver, SECOND).await, ["a"]);
            start.elapsed()
        };
        let took = tokio::select! {
            took = test => took,
            () = noise => unreachable!("it goes on for ever"),
        };
        assert!(took < Duration::from_millis(900), "{took:?}");
    })
    .await;
}

#[tokio::test]
async fn lost_events_are_made_up_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let target = elsewhere.path().join("target");
    fs::write(&target, account("a")).expect("written");
    symlink(&target, dir.path().join("a.yaml")).expect("linked");
    watched(dir.path(), async |mut receiver| {
        receiver.mark_unchanged();
        // The kernel tells nobody in `dir` of this.
        fs::write(&target, account("b")).expect("written");
        assert_eq!(next(&mut receiver, 7 * SECOND).await, ["b"]);
    })
    .await;
}

#[tokio::test]
async fn a_replaced_directory_is_followed() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config");
    fs::create_dir(&path).expect("made");
    fs::write(path.join("a.yaml"), account("a")).expect("written");
    watched(&path, async |mut receiver| {
        receiver.mark_unchanged();
        let next_path = dir.path().join("next");
        fs::create_dir(&next_path).expect("made");
        fs::write(next_path.join("a.yaml"), account("b")).expect("written");
        fs::rename(&path, dir.path().join("old")).expect("renamed");
        fs::rename(&next_path, &path).expect("renamed");
        assert_eq!(next(&mut receiver, 7 * SECOND).await, ["b"]);
        sleep(Duration::from_millis(500)).await;
        // The new one is watched as well.
        fs::write(path.join("a.yaml"), account("c")).expect("written");
        assert_eq!(next(&mut receiver, SECOND).await, ["c"]);
    })
    .await;
}
