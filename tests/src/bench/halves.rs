//! The two halves of the machine's processors, for loads that are to be compared while both go on.
//!
//! On processors that they share, two loads contend: who takes more time is preempted more, finds more work at its next wake-up or less, and so
//! takes more or less again. How much so depends on which connection is served by which thread, and differs by percents from start to
//! start. On halves of their own nothing of one is felt by the other, but halves are not alike: other machines on the same hardware take from one more
//! than from the other. So they exchange them, many times in what one wants to know.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::sys::affinity::{keep_on, processors};

/// Halves of the processors that this process may use. One of an odd number of them is left to others.
#[derive(Debug)]
pub(super) struct Halves {
    all: Vec<usize>,
    halves: [Vec<usize>; 2],
}

impl Halves {
    pub(super) fn of_machine() -> Result<Self> {
        let all = processors().context("cannot read which processors there are")?;
        ensure!(all.len() >= 2, "two loads at the same time need a processor each, and this machine has one");
        let (first, rest) = all.split_at(all.len() / 2);
        let halves = [first.to_vec(), rest.iter().take(first.len()).copied().collect()];
        Ok(Self { all, halves })
    }

    /// Has this thread start something on one of the halves.
    pub(super) fn within<T>(&self, half: u32, start: impl FnOnce() -> Result<T>) -> Result<T> {
        keep_on(0, self.half(half)).context("cannot choose processors")?;
        let started = start();
        keep_on(0, &self.all).context("cannot have all processors back")?;
        started
    }

    /// Lets some time pass in which the threads of two groups of cgroups, and those below, are on one half as long as on the other, and never
    /// both on the same. Those that are started meanwhile stay where they begin: to look for them each time would disturb.
    pub(super) fn exchange(&self, groups: [&[PathBuf]; 2], time: Duration) -> Result<()> {
        let mut threads = [Vec::new(), Vec::new()];
        for (threads, groups) in threads.iter_mut().zip(groups) {
            groups.iter().try_for_each(|group| collect(group, threads))?;
        }
        let start = Instant::now();
        for number in 0..EXCHANGES {
            for (which, threads) in (0..).zip(&threads) {
                move_to(self.half(which + number), threads)?;
            }
            let until = time * (number + 1) / EXCHANGES;
            thread::sleep(until.saturating_sub(start.elapsed()));
        }
        Ok(())
    }

    fn half(&self, number: u32) -> &[usize] {
        let [even, odd] = &self.halves;
        if number.is_multiple_of(2) { even } else { odd }
    }
}

/// Adds the threads of a cgroup, and of those below.
fn collect(group: &Path, threads: &mut Vec<libc::pid_t>) -> Result<()> {
    let path = group.join("cgroup.threads");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    threads.extend(text.lines().filter_map(|line| line.parse::<libc::pid_t>().ok()));
    let below = fs::read_dir(group).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    for entry in below.with_context(|| format!("cannot read {}", group.display()))? {
        if entry.path().is_dir() {
            collect(&entry.path(), threads)?;
        }
    }
    Ok(())
}

fn move_to(processors: &[usize], threads: &[libc::pid_t]) -> Result<()> {
    for tid in threads {
        match keep_on(*tid, processors) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                return Err(error).with_context(|| format!("cannot move thread {tid}"));
            }
            // It may have ended.
            _ => {}
        }
    }
    Ok(())
}

/// How often loads exchange their halves: an even number, so that both have each for the same time.
const EXCHANGES: u32 = 30;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_is_started_within_a_half_stays_there() {
        let all = processors().unwrap();
        let Ok(halves) = Halves::of_machine() else {
            assert_eq!(all.len(), 1, "there is nothing to halve");
            return;
        };
        let started = || Ok(thread::spawn(|| processors().unwrap()).join().unwrap());
        let seen = |half| halves.within(half, started).unwrap();
        let (first, second) = (seen(0), seen(1));
        assert_eq!((first.len(), second.len()), (all.len() / 2, all.len() / 2));
        assert!(first.iter().all(|number| !second.contains(number)), "{first:?} and {second:?}");
        assert_eq!(processors().unwrap(), all, "it is over");
    }

    #[test]
    fn halves_are_exchanged() {
        let Ok(halves) = Halves::of_machine() else {
            assert_eq!(processors().unwrap().len(), 1, "there is nothing to halve");
            return;
        };
        let over = AtomicBool::new(false);
        let watch = |tid: mpsc::Sender<String>| {
            // The kernel's name of this thread.
            tid.send(fs::read_link("/proc/thread-self").unwrap().display().to_string()).unwrap();
            let mut seen = BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                seen.insert(processors().unwrap());
                thread::sleep(Duration::from_millis(1));
            }
            seen
        };
        let seen = thread::scope(|scope| {
            let (told, tids) = mpsc::channel();
            let other = told.clone();
            let threads = [scope.spawn(move || watch(told)), scope.spawn(move || watch(other))];
            // As cgroups look: the second is below one without threads of its own.
            let groups = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let places = [groups[0].path().to_owned(), groups[1].path().join("below")];
            fs::create_dir(&places[1]).unwrap();
            fs::write(groups[1].path().join("cgroup.threads"), "").unwrap();
            for (place, tid) in places.iter().zip(&tids) {
                fs::write(place.join("cgroup.threads"), tid.rsplit('/').next().unwrap()).unwrap();
            }
            let [first, second] = groups.each_ref().map(|group| [group.path().to_owned()]);
            halves.exchange([&first, &second], Duration::from_millis(600)).unwrap();
            over.store(true, Ordering::Relaxed);
            threads.map(|thread| thread.join().unwrap())
        });
        for seen in seen {
            assert!(halves.halves.iter().all(|half| seen.contains(half)), "{seen:?} of {halves:?}");
        }
    }
}
