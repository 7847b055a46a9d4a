//! Who is measured, and how to start it.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    config::{self, Place, Setup},
    machine,
    subject::Load,
    table::RouteTable,
};

/// A system of this bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contestant {
    /// The origin without a proxy: the limit of load and origin on their core.
    Direct,
    Nginx,
    Haproxy,
    Envoy,
    /// The gateway of this mesh.
    Mesh,
}

impl Contestant {
    /// All of them, in the order of the rows.
    pub(super) const ALL: [Self; 5] = [Self::Direct, Self::Nginx, Self::Haproxy, Self::Envoy, Self::Mesh];

    /// Its name in rows.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => crate::bench::figures::DIRECT,
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Mesh => "mesh",
        }
    }

    /// Where it listens; the next port may be in use as well. All are below the ports that Linux gives to clients.
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Direct => 21090,
            Self::Nginx => 21100,
            Self::Haproxy => 21110,
            Self::Envoy => 21120,
            Self::Mesh => 21130,
        }
    }

    /// Where it listens for a load. nginx serves either HTTP/1.1 or HTTP/2 on a port.
    pub(super) fn port_for(self, load: Load) -> u16 {
        match self {
            Self::Direct | Self::Nginx if load.is_h2() => self.port() + 1,
            _ => self.port(),
        }
    }

    /// What it needs for a table; none for the origin, which is there in any case.
    pub(super) fn setup(self, table: &RouteTable, dir: &Path) -> Option<Setup> {
        let place = Place { dir, port: self.port() };
        match self {
            Self::Direct => None,
            Self::Nginx => Some(config::nginx::setup(table, place)),
            Self::Haproxy => Some(config::haproxy::setup(table, place)),
            Self::Envoy => Some(config::envoy::setup(table, place)),
            Self::Mesh => Some(config::mesh::setup(table, place)),
        }
    }

    /// Its program. The error says what to do about it if it is not there.
    pub(super) fn program(self, envoy: Option<&Path>) -> Result<PathBuf> {
        match self {
            Self::Direct | Self::Nginx => {
                machine::find("nginx").context("nginx is not installed (package nginx-light)")
            }
            Self::Haproxy => machine::find("haproxy").context("haproxy is not installed (package haproxy)"),
            Self::Envoy => find_envoy(envoy),
            Self::Mesh => gateway(),
        }
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `cargo xtask bench` puts it beside the directory of our own programs.
fn find_envoy(named: Option<&Path>) -> Result<PathBuf> {
    let own = std::env::current_exe().context("where is this program?")?;
    let installed = own.parent().and_then(Path::parent).map(|target| target.join("peers/envoy"));
    let path = named.map(Path::to_owned).or(installed).context("this program is in no directory")?;
    ensure!(
        path.is_file(),
        "there is no {} (`cargo xtask bench l7` installs it, `--envoy` names another)",
        path.display()
    );
    Ok(path)
}

/// Our own, if it has the role yet.
fn gateway() -> Result<PathBuf> {
    let program = std::env::current_exe().context("where is this program?")?.with_file_name("mesh-node");
    ensure!(program.is_file(), "there is no {}", program.display());
    let output = Command::new(&program).args(["gateway", "--help"]).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("this mesh-node has no role `gateway`: {}", said.lines().next().unwrap_or_default());
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nobody_shares_a_port() {
        let ports: BTreeSet<u16> =
            Contestant::ALL.iter().flat_map(|it| [it.port_for(Load::Same), it.port_for(Load::H2)]).collect();
        assert_eq!(ports.len(), 5 + 2, "two of them have one more");
    }

    #[test]
    fn who_is_missing_is_told_how_to_come() {
        let error = Contestant::Envoy.program(Some(Path::new("/nowhere/envoy"))).unwrap_err().to_string();
        assert!(error.contains("/nowhere/envoy") && error.contains("cargo xtask bench l7"), "{error}");
    }
}
