//! Puts the plugin into the node's CNI configuration, and again whenever somebody rewrites that; takes it out when the mesh
//! leaves the node.
//!
//! Invariant: a runtime that reads at any moment finds the file as it was or as it is to be.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use mesh_core::cni::{
    PLUGIN,
    conflist::{self, Edit, Kind},
};
use serde_json::Value;
use tracing::{info, warn};

/// What belongs where.
#[derive(Clone, Debug)]
pub struct Installer {
    /// Directory of configurations, `/etc/cni/net.d`.
    pub conf: PathBuf,
    /// Directory of plugins, `/opt/cni/bin`.
    pub bin: PathBuf,
    /// The plugin's program as it came with the agent.
    pub program: PathBuf,
    /// Its part of a configuration.
    pub plugin: Value,
}

/// What a look at the directory has led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// All is as it should be in this file.
    Installed(String),
    /// There is no network configuration yet.
    Waiting,
}

impl Installer {
    /// Looks again and again until the process ends. It never takes the plugin out: what follows this process needs it.
    pub async fn run(self) {
        let (mut last, mut placed) = (None, None);
        loop {
            let now = self.look_since(&mut placed).map_err(|error| error.to_string());
            if last.as_ref() != Some(&now) {
                match &now {
                    Ok(State::Installed(file)) => info!(file, "The CNI plugin is in place."),
                    Ok(State::Waiting) => {
                        warn!(directory = %self.conf.display(), "No network configuration is there yet for the CNI plugin; waiting for one.");
                    }
                    Err(error) => warn!(error, "The CNI plugin cannot be put in place; trying again."),
                }
                last = Some(now);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Makes sure that program and configuration are in place.
    ///
    /// # Errors
    /// What could not be read or written.
    pub fn look(&self) -> io::Result<State> {
        self.look_since(&mut None)
    }

    /// [`Self::look`], which reads the program only if the one that is there is another than the one that was `placed`.
    fn look_since(&self, placed: &mut Option<Stamp>) -> io::Result<State> {
        let to = self.bin.join(PLUGIN);
        if placed.is_none() || *placed != stamp(&to) {
            self.place_program()?;
            *placed = stamp(&to);
        }
        let files = files(&self.conf)?;
        let Some((name, text)) = conflist::choose(&files) else { return Ok(State::Waiting) };
        let kind = conflist::kind(name).unwrap_or(Kind::List);
        let edit = conflist::insert(text, kind, &self.plugin).map_err(io::Error::other)?;
        let path = self.conf.join(name);
        match (kind, edit) {
            (_, Edit::Unchanged) => Ok(State::Installed(name.clone())),
            (Kind::List, Edit::Changed(text)) => {
                replace(&path, text.as_bytes(), None)?;
                info!(file = name, "Put the CNI plugin into the network configuration.");
                Ok(State::Installed(name.clone()))
            }
            (Kind::Single, Edit::Changed(text)) => {
                let list = path.with_extension("conflist");
                replace(&list, text.as_bytes(), Some(&path))?;
                // Its name comes first, so it has to go; under this one no runtime looks at it.
                fs::rename(&path, saved(&path))?;
                info!(file = %list.display(), "Made a chain of the network configuration, with the CNI plugin in it.");
                Ok(State::Installed(list.file_name().unwrap_or_default().to_string_lossy().into_owned()))
            }
        }
    }

    fn place_program(&self) -> io::Result<()> {
        let to = self.bin.join(PLUGIN);
        let wanted = fs::read(&self.program).map_err(|error| {
            io::Error::new(error.kind(), format!("the plugin {}: {error}", self.program.display()))
        })?;
        if fs::read(&to).is_ok_and(|there| there == wanted) {
            return Ok(());
        }
        replace(&to, &wanted, Some(&self.program))
    }
}

/// Takes the plugin out of every configuration of `conf`, brings back what was turned into a chain, and removes its program.
/// Returns how many files were changed.
///
/// # Errors
/// What could not be read or written.
pub fn remove(conf: &Path, bin: Option<&Path>) -> io::Result<usize> {
    let mut changed = 0;
    for (name, text) in files(conf)? {
        let path = conf.join(&name);
        let Ok(Edit::Changed(text)) = conflist::remove(&text) else { continue };
        let single =
            ["conf", "json"].map(|end| path.with_extension(end)).into_iter().find(|it| saved(it).exists());
        match single {
            Some(single) => {
                fs::rename(saved(&single), single)?;
                fs::remove_file(&path)?;
            }
            None => replace(&path, text.as_bytes(), None)?,
        }
        changed += 1;
    }
    // Last: until here a runtime may still have been about to start it.
    if let Some(bin) = bin {
        match fs::remove_file(bin.join(PLUGIN)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(changed)
}

/// The files that a runtime would look at.
fn files(directory: &Path) -> io::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)?.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_small = entry.metadata().is_ok_and(|meta| meta.len() <= MAX_CONF);
        if is_small
            && conflist::kind(&name).is_some()
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            files.push((name, text));
        }
    }
    Ok(files)
}

/// Puts a file in place at once, with the permissions of what was there or of `like`.
fn replace(path: &Path, content: &[u8], like: Option<&Path>) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // No runtime takes a name that ends so for a configuration.
    let prepared = path.with_file_name(format!(".{name}.mesh-new"));
    fs::write(&prepared, content)?;
    if let Ok(meta) = fs::metadata(like.unwrap_or(path)) {
        fs::set_permissions(&prepared, meta.permissions())?;
    }
    fs::File::open(&prepared)?.sync_all()?;
    fs::rename(prepared, path)
}

/// What tells a file from another in its place.
type Stamp = (SystemTime, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

fn saved(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".mesh-saved");
    name.into()
}

/// Pods that start between another's rewriting and this are captured a moment after their start.
const LOOK: Duration = Duration::from_millis(500);
/// A configuration has some hundred bytes.
const MAX_CONF: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}"#;

    fn stage() -> (tempfile::TempDir, Installer) {
        let root = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| root.path().join(name);
        for name in ["conf", "bin"] {
            fs::create_dir(at(name)).expect("made");
        }
        fs::write(at("program"), "one").expect("written");
        let plugin = json!({"type": PLUGIN});
        let installer = Installer { conf: at("conf"), bin: at("bin"), program: at("program"), plugin };
        (root, installer)
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("there").flatten();
        let mut names: Vec<_> = entries.map(|it| it.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_chain_is_joined_and_left() {
        let (_root, installer) = stage();
        assert_eq!(installer.look().expect("looked"), State::Waiting);
        let file = installer.conf.join("10-a.conflist");
        fs::write(&file, LIST).expect("written");
        assert_eq!(installer.look().expect("looked"), State::Installed("10-a.conflist".into()));
        assert!(fs::read_to_string(&file).expect("there").contains(PLUGIN));
        // Another one writes it anew, and a new version of the plugin comes.
        fs::write(&file, LIST).expect("written");
        fs::write(&installer.program, "two").expect("written");
        installer.look().expect("looked");
        assert!(fs::read_to_string(&file).expect("there").contains(PLUGIN));
        assert_eq!(fs::read(installer.bin.join(PLUGIN)).expect("there"), b"two");
        assert_eq!(remove(&installer.conf, Some(&installer.bin)).expect("removed"), 1);
        let left: Value = serde_json::from_str(&fs::read_to_string(&file).expect("there")).expect("JSON");
        assert_eq!(left, serde_json::from_str::<Value>(LIST).expect("JSON"));
        assert!(names(&installer.bin).is_empty() && names(&installer.conf) == ["10-a.conflist"]);
    }

    #[test]
    fn a_single_plugin_is_brought_back() {
        let (_root, installer) = stage();
        let single = r#"{"cniVersion":"0.3.1","name":"n","type":"bridge"}"#;
        fs::write(installer.conf.join("10-a.conf"), single).expect("written");
        assert_eq!(installer.look().expect("looked"), State::Installed("10-a.conflist".into()));
        assert_eq!(names(&installer.conf), ["10-a.conf.mesh-saved", "10-a.conflist"]);
        assert_eq!(installer.look().expect("looked"), State::Installed("10-a.conflist".into()));
        remove(&installer.conf, None).expect("removed");
        assert_eq!(names(&installer.conf), ["10-a.conf"]);
        assert_eq!(fs::read_to_string(installer.conf.join("10-a.conf")).expect("there"), single);
    }
}
