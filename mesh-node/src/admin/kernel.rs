//! What `/ebpf` shows.

use std::fmt::Write;

use serde::Serialize;

use super::table;
use crate::redirect::inspect::{Inventory, MOST, Map};

/// Everything of the node that is in the kernel.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kernel<'a> {
    #[serde(flatten)]
    inventory: &'a Inventory,
    counters: Vec<Counter>,
}

#[derive(Debug, Serialize)]
struct Counter {
    event: &'static str,
    count: u64,
}

impl<'a> Kernel<'a> {
    pub(super) fn new(inventory: &'a Inventory, counters: Vec<(&'static str, u64)>) -> Self {
        let counters = counters.into_iter().map(|(event, count)| Counter { event, count }).collect();
        Self { inventory, counters }
    }

    /// Tables for terminals.
    pub(super) fn text(&self) -> String {
        let Inventory { directory, programs, links, maps, problems } = self.inventory;
        let mut out = format!("Pinned under {directory}\n\n");
        let cell = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let rows = programs.iter().map(|it| {
            let age = cell(it.age_seconds.map(|age| format!("{age}s")));
            vec![
                it.name.clone(),
                it.id.to_string(),
                age,
                cell(it.verified_instructions.map(|n| n.to_string())),
            ]
        });
        out += &table::render(&["PROGRAM", "ID", "AGE", "VERIFIED"], &rows.collect::<Vec<_>>());
        let rows = maps.iter().map(|it| {
            vec![
                it.name.clone(),
                it.id.to_string(),
                it.kind.clone(),
                cell(filled(it)),
                it.max_entries.to_string(),
            ]
        });
        out.push('\n');
        out += &table::render(&["MAP", "ID", "KIND", "ENTRIES", "ROOM"], &rows.collect::<Vec<_>>());
        out.push('\n');
        let rows = links.iter().map(|it| vec![it.clone()]);
        out += &table::render(&["LINK"], &rows.collect::<Vec<_>>());
        let counted = self.counters.iter().filter(|it| it.count > 0);
        let rows: Vec<_> = counted.map(|it| vec![it.event.to_owned(), it.count.to_string()]).collect();
        out.push('\n');
        out += &table::render(&["EVENT", "COUNT"], &rows);
        for problem in problems {
            let _ = writeln!(out, "\nCannot be shown: {problem}.");
        }
        out
    }
}

/// How full a map is, where that can be said.
fn filled(map: &Map) -> Option<String> {
    let entries = map.entries?;
    let more = if entries >= MOST { "+" } else { "" };
    let percent = u64::from(entries) * 100 / u64::from(map.max_entries.max(1));
    Some(format!("{entries}{more} ({percent} %)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_say_how_full_they_are() {
        let map =
            |entries| Map { name: "FLOWS".into(), id: 7, kind: "Hash".into(), max_entries: 65_536, entries };
        assert_eq!(filled(&map(Some(655))).as_deref(), Some("655 (0 %)"));
        assert_eq!(filled(&map(Some(32_768))).as_deref(), Some("32768 (50 %)"));
        assert_eq!(filled(&map(Some(MOST))).as_deref(), Some("50000+ (76 %)"));
        assert_eq!(filled(&map(None)), None);
    }

    #[test]
    fn what_has_happened_is_listed_and_what_has_not_is_left_out() {
        let inventory = Inventory {
            directory: "/sys/fs/bpf/mesh/n/v3".into(),
            links: vec!["connect4".into()],
            problems: vec!["map X: gone".into()],
            ..Inventory::default()
        };
        let text = Kernel::new(&inventory, vec![("captured", 3), ("dropped_egress", 0)]).text();
        assert!(text.contains("captured  3") && text.contains("connect4"), "{text}");
        assert!(!text.contains("dropped_egress") && text.contains("Cannot be shown: map X: gone."), "{text}");
    }
}
