//! The control plane under the load of a whole mesh: how long a change takes to every node, what the first word to all
//! of them costs, what it keeps in memory, and whether a change costs more in a larger mesh.
//!
//! The control plane is `mesh-control` as it is installed, over the suite's API server. It and one whole node run as
//! processes of their own, so that their memory is theirs alone; the other nodes are connections of the bench, which
//! answer and look at nothing but names. Everything goes over TCP on loopback.
//! The baseline is the same fan-out of a message of the same size by a server that knows no mesh.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use anyhow::Result;

pub use self::crowd::Crowd;
use super::{figures::Sample, stand::System};

mod crowd;
mod curve;
pub(super) mod demand;
mod fleet;
mod node;
mod part;
mod plane;
mod scale;
mod serve;
mod subscriber;

/// What is asked of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// How it serves a mesh of this size.
    Scale(Crowd),
    /// What a change costs at each step of its way in a mesh of so many pods.
    Change(u32),
}

/// What one of the bench's processes is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The baseline, with the bytes of its resource.
    Direct(usize),
    /// A whole node of this name, and the control plane that it follows.
    Node(SocketAddr, String),
}

impl Question {
    pub(super) fn all() -> Vec<Self> {
        let scale = [(1_000, 10), (10_000, 100), (100_000, 500)];
        let scale = scale.map(|(pods, nodes)| Self::Scale(Crowd { pods, nodes }));
        let change = [1_000, 3_000, 10_000, 30_000, 100_000].map(Self::Change);
        scale.into_iter().chain(change).collect()
    }

    /// One sample of each system that the question can be asked of.
    pub(super) fn sample(self, seconds: u64) -> Result<Vec<(System, Sample)>> {
        match self {
            Self::Scale(crowd) => scale::run(crowd, Duration::from_secs(seconds)),
            Self::Change(pods) => Ok(vec![(System::Mesh, curve::run(pods)?)]),
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scale(crowd) => write!(f, "control/{crowd}"),
            Self::Change(pods) => write!(f, "control/change/{pods}-pods"),
        }
    }
}

impl Part {
    /// Is that part until it is not needed any more.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Direct(size) => serve::direct(size),
            Self::Node(address, name) => node::run(address, &name),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(size) => write!(f, "direct/{size}"),
            Self::Node(address, name) => write!(f, "node/{address}/{name}"),
        }
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no part of a bench");
        match text.split('/').collect::<Vec<_>>()[..] {
            ["direct", size] => Ok(Self::Direct(size.parse().map_err(|_| wrong())?)),
            ["node", address, name] => Ok(Self::Node(address.parse().map_err(|_| wrong())?, name.to_owned())),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_by_name() {
        let node = Part::Node(SocketAddr::from(([127, 0, 0, 1], 80)), "node-0".to_owned());
        for part in [Part::Direct(500), node] {
            assert_eq!(part.to_string().parse(), Ok(part));
        }
        assert!("direct".parse::<Part>().is_err());
        assert!("node/localhost/x".parse::<Part>().is_err());
    }
}
