//! What is measured: the names of cases, and which of them are wanted.

use std::fmt;

use super::{control::Question, l7::Subject, policy, telemetry};

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Load between two pods.
    Traffic(Traffic),
    /// Memory of the proxies.
    Memory(Memory),
    /// The control plane, with nodes that carry no traffic.
    Control(Question),
    /// What is done to requests, beside other proxies.
    L7(Subject),
    /// What a decision of policy costs.
    Policy(policy::Subject),
    /// What it costs to tell about requests and connections.
    Telemetry(telemetry::Subject),
}

/// Load between a client and a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Where the server is, seen from the client.
    pub place: Place,
    /// Which load.
    pub load: Load,
    /// How many streams or connections at a time.
    pub concurrency: usize,
}

/// Where a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the client's node.
    SameNode,
    /// On another node.
    CrossNode,
    /// On another node, by the address of its service.
    Service,
}

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// As many bytes as go through (`iperf3`).
    Bulk,
    /// Requests over kept connections (`wrk`).
    Http,
    /// A new connection for each request, all to one server.
    Connect,
    /// The same to three servers in turn.
    ConnectToThree,
}

/// A question about memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// What a proxy takes that has nothing to do.
    Idle,
    /// What one more enrolled pod takes.
    PerPod,
    /// What 1,000 connections take that are held open.
    HeldConnections,
}

impl Case {
    /// All cases in the order in which they run.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for place in [Place::SameNode, Place::CrossNode] {
            let loads = LOADS.iter().map(|(load, concurrency)| (*load, *concurrency));
            all.extend(loads.map(|(load, concurrency)| Self::Traffic(Traffic { place, load, concurrency })));
        }
        all.extend([Memory::Idle, Memory::PerPod, Memory::HeldConnections].map(Self::Memory));
        all.extend(Question::all().into_iter().map(Self::Control));
        all.extend(Subject::all().into_iter().map(Self::L7));
        all.extend(policy::Subject::all().into_iter().map(Self::Policy));
        all.extend(telemetry::Subject::all().into_iter().map(Self::Telemetry));
        all
    }

    /// The cases whose names begin with one of `prefixes`; all without any. A prefix that no name begins with is an
    /// error, so that a slip of the pen does not pass for a result.
    pub fn select(prefixes: &[String]) -> Result<Vec<Self>, String> {
        let all = Self::all();
        if let Some(wrong) =
            prefixes.iter().find(|p| !all.iter().any(|c| c.to_string().starts_with(p.as_str())))
        {
            let names = all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ");
            return Err(format!("no case begins with {wrong:?}; there are:\n  {names}"));
        }
        let wanted = |case: &Self| {
            let name = case.to_string();
            prefixes.is_empty() || prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
        };
        Ok(all.into_iter().filter(wanted).collect())
    }

    /// The traffic, if it is a case of traffic.
    pub fn traffic(self) -> Option<Traffic> {
        match self {
            Self::Traffic(traffic) => Some(traffic),
            Self::Memory(_) | Self::Control(_) | Self::L7(_) | Self::Policy(_) | Self::Telemetry(_) => None,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Traffic(traffic) => traffic.fmt(f),
            Self::Control(question) => question.fmt(f),
            Self::L7(subject) => subject.fmt(f),
            Self::Policy(subject) => subject.fmt(f),
            Self::Telemetry(subject) => subject.fmt(f),
            Self::Memory(Memory::Idle) => f.write_str("node/rss/idle"),
            Self::Memory(Memory::PerPod) => f.write_str("node/rss/per-pod"),
            Self::Memory(Memory::HeldConnections) => f.write_str("node/rss/per-1000-held-connections"),
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.place {
            Place::SameNode => "same-node",
            Place::CrossNode => "cross-node",
            Place::Service => "service",
        };
        let load = match self.load {
            Load::Bulk => "bulk",
            Load::Http => "http",
            Load::Connect => "connect",
            Load::ConnectToThree => "connect-3",
        };
        write!(f, "{place}/{load}/{}", self.concurrency)
    }
}

const LOADS: &[(Load, usize)] = &[
    (Load::Bulk, 1),
    (Load::Bulk, 8),
    (Load::Http, 1),
    (Load::Http, 32),
    (Load::Connect, 1),
    (Load::ConnectToThree, 8),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn names(prefixes: &[&str]) -> Result<Vec<String>, String> {
        let prefixes: Vec<String> = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
        Case::select(&prefixes).map(|cases| cases.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn all_names() {
        let all = names(&[]).unwrap();
        assert_eq!(all.len(), 44);
        for name in [
            "same-node/bulk/8",
            "cross-node/connect-3/8",
            "node/rss/per-1000-held-connections",
            "control/100000x500",
            "l7/plain/32",
            "l7/names/32",
            "policy/decision/100x10",
            "policy/token/known",
            "telemetry/l7/bursts",
            "telemetry/l7/32",
            "telemetry/l4/bursts",
        ] {
            assert!(all.contains(&name.to_owned()), "{name}");
        }
    }

    #[test]
    fn selection_is_by_prefix() {
        assert_eq!(names(&["cross-node/http"]).unwrap(), ["cross-node/http/1", "cross-node/http/32"]);
        assert_eq!(
            names(&["same-node/connect/", "node/rss/i"]).unwrap(),
            ["same-node/connect/1", "node/rss/idle"]
        );
        let error = names(&["cross-node", "crossnode"]).unwrap_err();
        assert!(
            error.starts_with("no case begins with \"crossnode\"; there are:\n  same-node/bulk/1\n"),
            "{error}"
        );
    }
}
