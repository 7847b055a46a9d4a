//! Memory of this process.

use std::{io, os::unix::ffi::OsStrExt as _, path::Path};

use super::check;

/// Lets go of what starting has left behind: free heap, and code that ran once. What is needed again is mapped again from
/// the page cache, a page fault for each 64 KiB.
///
/// Without it the code of the start, two thirds of all that was ever run, counts as memory of this process for as long as it lives.
///
/// # Errors
/// If the kernel does not tell of the mappings.
pub fn let_go_of_the_start() -> io::Result<()> {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointers, and gives back only what nobody has allocated.
    unsafe {
        libc::malloc_trim(0)
    };
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read("/proc/self/maps")?;
    for (start, length) in maps.split(|byte| *byte == b'\n').filter_map(|line| code_of(line, &program)) {
        let start = std::ptr::without_provenance_mut::<libc::c_void>(start);
        // SAFETY: the range is one mapping of this program's file that nobody can write to, so that each of its pages is the
        // file's, whenever it is read again.
        check(unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) })?;
    }
    Ok(())
}

/// Start and length of a mapping, from its line in `/proc/self/maps`, if it is code of `program`.
fn code_of(line: &[u8], program: &Path) -> Option<(usize, usize)> {
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()? == "r-xp";
    let path = words.nth(3)?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let is_own = path.as_bytes() == program.as_os_str().as_bytes();
    (is_code && is_own).then(|| (start, end.saturating_sub(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_this_program_is_let_go_of() {
        let program = Path::new("/bin/mesh-node");
        let code = b"5640a000-5640c000 r-xp 00002000 fe:00 123                        /bin/mesh-node";
        assert_eq!(code_of(code, program), Some((0x5640_a000, 0x2000)));
        for other in [
            &b"5640a000-5640c000 r--p 00002000 fe:00 123                        /bin/mesh-node"[..],
            b"5640a000-5640c000 rw-p 00002000 fe:00 123                        /bin/mesh-node",
            b"5640a000-5640c000 r-xp 00002000 fe:00 123                        /lib/libc.so.6",
            b"5640a000-5640c000 r-xp 00000000 00:00 0",
            b"5640a000-5640c000 r-xp 00000000 00:00 0                          [vdso]",
            b"",
        ] {
            assert_eq!(code_of(other, program), None, "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn a_program_goes_on_after_it() {
        let resident = || {
            let all = std::fs::read_to_string("/proc/self/smaps_rollup").expect("the kernel tells");
            let rss = all.lines().find_map(|line| line.strip_prefix("Rss:")).expect("a line");
            rss.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
        };
        let before = resident();
        let_go_of_the_start().expect("the kernel does");
        let after = resident();
        assert!(after < before, "{before} kB, then {after} kB");
    }
}
