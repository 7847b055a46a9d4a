//! The configurations of all programs, generated from one [`RouteTable`](super::table::RouteTable).
//!
//! One thread each; connections to services are kept for as long as they last; bodies are passed on as they come.

use std::path::{Path, PathBuf};

pub(super) mod envoy;
pub(super) mod haproxy;
pub(super) mod mesh;
pub(super) mod nginx;

/// Where a program listens and keeps its files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// A directory of its own.
    pub(super) dir: &'a Path,
    /// A loopback port for HTTP/1.1 and, in all programs but nginx, HTTP/2 without encryption.
    pub(super) port: u16,
}

impl Place<'_> {
    /// Where programs without a way to tell the protocols apart serve HTTP/2.
    pub(super) fn h2_port(self) -> u16 {
        self.port + 1
    }

    fn file(self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

/// What to write and how to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setup {
    /// Names in the program's directory, and contents.
    pub(super) files: Vec<(&'static str, String)>,
    /// Arguments of the program.
    pub(super) args: Vec<String>,
}

impl Setup {
    fn new(files: Vec<(&'static str, String)>, args: &[&str]) -> Self {
        Self { files, args: args.iter().map(|&arg| arg.to_owned()).collect() }
    }

    /// Paths and contents in the place of the program.
    pub(super) fn paths(&self, dir: &Path) -> Vec<(PathBuf, &str)> {
        self.files.iter().map(|(name, text)| (dir.join(name), text.as_str())).collect()
    }

    #[cfg(test)]
    fn file(&self, wanted: &str) -> &str {
        let found = self.files.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, text)| text.as_str()).expect("the file is among those of the setup")
    }
}
