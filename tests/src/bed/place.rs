//! Where processes of a bed run: tools, environment, namespaces, cgroup.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::cgroup;
use super::error::{BedError, Doing, Result};
use crate::sys::{self, Enter};

/// The project's own programs, which stand beside each other.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// Where they are; pods find `bookinfo` there.
    pub(crate) directory: PathBuf,
    /// The `testbed` program, which also is the helper inside nodes and pods.
    pub(crate) testbed: PathBuf,
}

impl Tools {
    /// Looks beside the running executable and, for test binaries, in the directory above.
    pub(crate) fn find() -> Result<Self> {
        let own = env::current_exe().doing(|| "find the running executable".to_owned())?;
        for directory in own.ancestors().skip(1).take(2) {
            let testbed = directory.join("testbed");
            if testbed.is_file() {
                return Ok(Self { directory: directory.to_owned(), testbed });
            }
        }
        Err(BedError::Environment(format!(
            "the program `testbed` is not beside {} (`cargo build -p mesh-tests --bins` makes it)",
            own.display()
        )))
    }

    /// A program that must stand beside `testbed`.
    pub(crate) fn sibling(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(BedError::Environment(format!("there is no {name} in {}", self.directory.display())))
    }

    /// `PATH` for processes of the bed: our own programs first.
    pub(crate) fn search_path(&self) -> OsString {
        let mut path = self.directory.clone().into_os_string();
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
        path
    }
}

/// Where the processes of a pod run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file of its network namespace.
    pub netns: PathBuf,
    /// The process that holds its namespaces.
    pub pid: u32,
    /// Its cgroup; processes are in one below it.
    pub cgroup: PathBuf,
}

impl Place {
    /// A command that runs in the pod, in the cgroup `leaf` below the pod's. Its environment is empty but for the
    /// basics; `path` is its `PATH`.
    pub(crate) fn command(&self, program: &str, leaf: &str, path: &OsString) -> Result<Command> {
        let leaf = self.cgroup.join(leaf);
        cgroup::make(&leaf)?;
        let namespace = |kind: &str| {
            let path = PathBuf::from(format!("/proc/{}/ns/{kind}", self.pid));
            File::open(&path).at("open", &path)
        };
        let enter = Enter {
            network: Some(File::open(&self.netns).at("open", &self.netns)?),
            mounts: Some(namespace("mnt")?),
            hostname: Some(namespace("uts")?),
            cgroup: Some(cgroup::entrance(&leaf)?),
            ..Enter::default()
        };
        let mut command = Command::new(program);
        command.env_clear().env("PATH", path).env("HOME", "/root").env("LANG", "C.UTF-8");
        command.envs(env::var_os("TERM").map(|term| ("TERM", term)));
        sys::enter(&mut command, enter);
        Ok(command)
    }
}

/// A command that runs in a node's network namespace and in a cgroup of that node.
pub(crate) fn node_command(program: &Path, netns: &Path, group: &Path) -> Result<Command> {
    cgroup::make(group)?;
    let enter = Enter {
        network: Some(File::open(netns).at("open", netns)?),
        cgroup: Some(cgroup::entrance(group)?),
        ..Enter::default()
    };
    let mut command = Command::new(program);
    sys::enter(&mut command, enter);
    Ok(command)
}
