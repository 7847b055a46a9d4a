//! Bringing pods' traffic to the node: loads and attaches the kernel programs, and keeps the set of captured pods
//! equal to the set of enrolled ones.
//!
//! Invariant: capture outlives this process. Everything is pinned, so a killed node leaves its pods without a way
//! out rather than with an open one, and its successor takes over what it finds.

mod address;
pub mod cgroup;
mod express;
mod flows;
pub mod inspect;
mod load;
mod log;
pub mod machine;
pub mod manager;
pub mod maps;
mod overruled;
pub mod pins;
mod pod;
mod sandbox;
mod shortcut;

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};

pub use express::CutFlows;
pub use flows::{Flows, Reported};
pub use load::{Programs, TcHook, detach_clsact};
pub use log::KernelLog;
pub use machine::Machine;
pub use manager::{Manager, Options};
pub use overruled::Overruled;
pub use pod::{LocalPod, PodSockets, released};
pub use sandbox::{Progress, Sandbox, Sandboxes};

/// How inbound connections are brought to the node's listener.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Inbound {
    /// By a socket-lookup program: on the first packet only.
    #[default]
    #[value(name = "sk_lookup")]
    SkLookup,
    /// By a TC program that assigns sockets to packets.
    Tc,
}

/// Why capture could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The pin directory cannot be made.
    #[error("cannot create pins under {path}: {source} (is a BPF file system mounted there?)")]
    Pins {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The object was refused by the kernel or is broken.
    #[error("cannot load the kernel programs: {source}")]
    Load {
        /// Why.
        source: Box<EbpfError>,
    },
    /// The object lacks a program.
    #[error("the kernel object has no program {name}")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A program was refused or could not be attached.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A map could not be opened, read or written.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A link could not be taken over.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// An object could not be pinned.
    #[error("cannot pin {path}: {source}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why.
        source: Box<PinError>,
    },
    /// A cgroup could not be opened.
    #[error("cannot open cgroup {path}: {source}")]
    Cgroup {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pod's network namespace could not be entered or worked in.
    #[error("network namespace of pod {uid}: {source}")]
    Namespace {
        /// The pod's uid.
        uid: String,
        /// Why.
        source: io::Error,
    },
    /// Express flows of a pod keep the long way.
    #[error("no shortcut: {0}")]
    Shortcut(String),
    /// Some other system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}
