//! The layout of the kernel's maps, as it was recorded for a version of the ABI.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use mesh_common::ABI;
use mesh_tests::bed::Inbound;
use serde_json::Value;

/// What [`ABI`] stands for.
const RECORDED: &str = include_str!("maps-v4.txt");

/// Two agents that replace each other share the maps below the directory that is called like the ABI. A map that changes under the same
/// name would be read wrongly by one of them, and one whose name of the ABI changes is shared no more: open connections end then.
#[test]
fn maps_are_as_recorded_for_their_version() -> Result<()> {
    ensure!(RECORDED.lines().next() == Some(ABI), "what is recorded is not of {ABI}");
    let bed = super::bed(Inbound::SkLookup)?;
    let node = bed.node("node-1")?;
    let directory = format!("/sys/fs/bpf/mesh-{}/node-1/{ABI}/map", bed.name());
    let run = |words: &[&str]| -> Result<String> {
        let output = node.exec(words)?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let mut names = std::fs::read_dir(&directory)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    let mut found = format!("{ABI}\n");
    for name in names {
        let path = format!("{directory}/{name}");
        let shown = run(&["bpftool", "-j", "map", "show", "pinned", &path])?;
        let shown: Value = serde_json::from_str(&shown).with_context(|| shown.clone())?;
        let of = |field: &str| shown.get(field).map(Value::to_string).unwrap_or_default();
        writeln!(
            found,
            "{name} {} key={} value={} entries={} flags={}",
            of("type").trim_matches('"'),
            of("bytes_key"),
            of("bytes_value"),
            of("max_entries"),
            of("flags")
        )?;
        // Not every type of map has types of its own.
        let types = run(&["bpftool", "-j", "btf", "dump", "map", "pinned", &path, "kv"]).unwrap_or_default();
        fields(&types, &mut found)?;
    }
    ensure!(
        found == RECORDED,
        "The maps are not those that are recorded for {ABI}. A map that changes gets a new name, so that agents of both versions find \
         what they know in one directory; only if that cannot be, the ABI gets a new one (docs/kubernetes.md says what that costs). \
         What there is now:\n{found}"
    );
    Ok(())
}

/// The fields of key and value, by where they are.
fn fields(types: &str, out: &mut String) -> Result<()> {
    let types: Value = serde_json::from_str(types).unwrap_or_default();
    for one in types.get("types").and_then(Value::as_array).into_iter().flatten() {
        for member in one.get("members").and_then(Value::as_array).into_iter().flatten() {
            let text = |field: &str| member.get(field).map(Value::to_string).unwrap_or_default();
            writeln!(
                out,
                "  {}.{} at {}",
                one["name"].as_str().unwrap_or("?"),
                text("name").trim_matches('"'),
                text("bits_offset")
            )?;
        }
    }
    Ok(())
}
