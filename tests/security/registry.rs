//! The table: what has hurt others, what must happen here, and what shows it.
//!
//! A new row goes into the chapter that it belongs to: with [`Proof::Here`] and a function of this program, or with [`conf`]
//! and its likes and the name of a test that there is already.

mod abuse;
mod access;
mod framing;
mod identity;

use anyhow::Result;

use crate::stand::Stand;

/// A weakness, or a class of them.
pub(crate) struct Advisory {
    /// What it is called here.
    pub(crate) row: &'static str,
    /// Under which names it is published; a class that has none says which class.
    pub(crate) ids: &'static [&'static str],
    /// What must happen.
    pub(crate) must: &'static str,
    /// What shows that it does.
    pub(crate) shown: &'static [Proof],
}

/// What shows that a row holds.
pub(crate) enum Proof {
    /// A test of this program, called as the row.
    Here(fn(&Stand) -> Result<()>),
    /// A test of another suite, by its full name.
    In(Suite, &'static str),
    /// Nothing needs to: the mesh has no such thing.
    Never(&'static str),
}

/// Another suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    Unit,
    Control,
    Gateway,
    Conformance,
    Ebpf,
    EndToEnd,
    Fuzz,
}

impl Suite {
    pub(crate) const ALL: [Self; 7] =
        [Self::Unit, Self::Control, Self::Gateway, Self::Conformance, Self::Ebpf, Self::EndToEnd, Self::Fuzz];

    /// As `cargo xtask test` calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Control => "control",
            Self::Gateway => "gateway",
            Self::Conformance => "conformance",
            Self::Ebpf => "ebpf",
            Self::EndToEnd => "e2e",
            Self::Fuzz => "fuzz",
        }
    }

    /// Its tests, for `cargo test`.
    pub(crate) const fn selection(self) -> &'static str {
        match self {
            Self::Unit => "--lib",
            Self::Control => "--test=control",
            Self::Gateway => "--test=gateway",
            Self::Conformance => "--test=conformance",
            Self::Ebpf => "--test=ebpf",
            Self::EndToEnd => "--test=e2e",
            Self::Fuzz => "--test=fuzz",
        }
    }
}

/// The chapters of the table, each with its title.
pub(crate) fn chapters() -> [(&'static str, &'static [Advisory]); 4] {
    [
        ("HTTP/2, TLS and resources", abuse::ROWS),
        ("Framing and smuggling", framing::ROWS),
        ("Ways around policy", access::ROWS),
        ("Identity, tunnels, DNS", identity::ROWS),
    ]
}

/// All rows.
pub(crate) fn all() -> impl Iterator<Item = &'static Advisory> {
    chapters().into_iter().flat_map(|(_, rows)| rows)
}

/// A row of what users of Istio rely on.
const fn conf(id: &'static str) -> Proof {
    Proof::In(Suite::Conformance, id)
}

const fn e2e(name: &'static str) -> Proof {
    Proof::In(Suite::EndToEnd, name)
}

const fn control(name: &'static str) -> Proof {
    Proof::In(Suite::Control, name)
}

const fn gateway(name: &'static str) -> Proof {
    Proof::In(Suite::Gateway, name)
}

const fn unit(name: &'static str) -> Proof {
    Proof::In(Suite::Unit, name)
}

const fn fuzz(name: &'static str) -> Proof {
    Proof::In(Suite::Fuzz, name)
}
