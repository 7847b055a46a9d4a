//! What of this node is in the kernel, for people: programs, links, and maps with how full they are.

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use aya::{maps::MapInfo, programs::ProgramInfo};
use serde::Serialize;

use super::pins::Pins;
use crate::sys::bpf;

/// Everything that is pinned.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// Where.
    pub directory: String,
    /// The programs, by name.
    pub programs: Vec<Program>,
    /// Names of the links: a hook of the node, or `<hook>_<netns cookie>_<pod uid>`.
    pub links: Vec<String>,
    /// The maps, by name.
    pub maps: Vec<Map>,
    /// What could not be looked at, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A program.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    /// Of the pin.
    pub name: String,
    /// As `bpftool prog show id` takes it.
    pub id: u32,
    /// Seconds since it was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Instructions that the verifier looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified_instructions: Option<u32>,
}

/// A map.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Map {
    /// Of the pin.
    pub name: String,
    /// As `bpftool map dump id` takes it.
    pub id: u32,
    /// What it is.
    pub kind: String,
    /// Entries that fit.
    pub max_entries: u32,
    /// Entries there are, at most [`MOST`]; `None` where entries are always there (arrays), or cannot be asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<u32>,
}

/// Looks. What has gone meanwhile is left out, and what cannot be read is among the problems.
pub fn inspect(pins: &Pins) -> Inventory {
    let directory = pins.directory();
    let mut inventory = Inventory { directory: directory.display().to_string(), ..Inventory::default() };
    let problems = &mut inventory.problems;
    for (name, path) in names(&directory.join("prog"), problems) {
        match ProgramInfo::from_pin(&path) {
            Ok(info) => inventory.programs.push(program(name, &info)),
            Err(error) => problems.push(format!("program {name}: {error}")),
        }
    }
    for (name, path) in names(&directory.join("map"), problems) {
        match MapInfo::from_pin(&path) {
            Ok(info) => inventory.maps.push(map(name, &info)),
            Err(error) => problems.push(format!("map {name}: {error}")),
        }
    }
    inventory.links = names(&directory.join("link"), problems).into_iter().map(|(name, _)| name).collect();
    inventory
}

/// What a directory holds, in order.
fn names(directory: &Path, problems: &mut Vec<String>) -> Vec<(String, PathBuf)> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            problems.push(format!("{}: {error}", directory.display()));
            return Vec::new();
        }
    };
    let mut found: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect();
    found.sort();
    found
}

fn program(name: String, info: &ProgramInfo) -> Program {
    let age = info.loaded_at().and_then(|at| SystemTime::now().duration_since(at).ok());
    Program {
        name,
        id: info.id(),
        age_seconds: age.map(|age| age.as_secs()),
        verified_instructions: info.verified_instruction_count(),
    }
}

fn map(name: String, info: &MapInfo) -> Map {
    let kind = info.map_type().map_or_else(|_| "unknown".to_owned(), |kind| format!("{kind:?}"));
    let counted = ["Hash", "LruHash", "SockHash", "PerCpuHash", "LruPerCpuHash"].contains(&kind.as_str());
    let count = || {
        let fd = info.fd().ok()?;
        let counted = bpf::count_keys(fd.as_fd(), info.key_size() as usize, MOST);
        counted.ok()
    };
    Map {
        name,
        id: info.id(),
        max_entries: info.max_entries(),
        entries: if counted { count() } else { None },
        kind,
    }
}

/// Entries of a map that are counted: each is a call, and whoever asks waits.
pub const MOST: u32 = 50_000;
