//! A `tar.gz` of texts: names, contents and nothing of the machine that they come from.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;

/// Packs files, in their order, as of `time` (seconds since 1970).
pub(super) fn pack(files: &[(String, String)], time: u64) -> Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    for (name, text) in files {
        out.write_all(&head(name, text.len(), time).with_context(|| name.clone())?)?;
        out.write_all(text.as_bytes())?;
        let over = text.len() % BLOCK;
        out.write_all(&vec![0; if over == 0 { 0 } else { BLOCK - over }])?;
    }
    out.write_all(&[0; 2 * BLOCK])?;
    Ok(out.finish()?)
}

/// A header of POSIX's `ustar` format.
fn head(name: &str, size: usize, time: u64) -> Result<Vec<u8>> {
    ensure!(name.len() < 100, "the name is too long");
    let mut head = Vec::with_capacity(BLOCK);
    let mut field = |text: &str, width: usize| {
        head.extend_from_slice(text.as_bytes());
        head.resize(head.len() + width.saturating_sub(text.len()), 0);
    };
    field(name, 100);
    field("0000600", 8);
    field("0000000", 8);
    field("0000000", 8);
    field(&format!("{size:011o}"), 12);
    field(&format!("{time:011o}"), 12);
    // The sum of all bytes, with blanks in its own place.
    field("        ", 8);
    field("0", 1);
    field("", 100);
    field("ustar", 6);
    field("00", 2);
    head.resize(BLOCK, 0);
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head.splice(148..156, format!("{sum:06o}\0 ").into_bytes());
    Ok(head)
}

/// What everything in an archive is a multiple of.
const BLOCK: usize = 512;
