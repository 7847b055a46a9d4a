//! The machine itself as a workload: which of its processes are enrolled, by their control groups.
//!
//! Invariant: the node's own process is in none of them. What it sends for the others would come back to it.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::cgroup;

/// Which processes of this machine take part in the mesh.
#[derive(Clone, Debug)]
pub struct Machine {
    mount: PathBuf,
    /// The control group of this process.
    own: PathBuf,
    units: Vec<String>,
    groups: Vec<PathBuf>,
}

/// A control group of enrolled processes, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unit {
    /// Where it is.
    pub path: PathBuf,
    /// What the kernel knows it by. A unit that is started again has another.
    pub id: u64,
}

impl Machine {
    /// Enrols the processes of these units of systemd, and of these control groups.
    ///
    /// # Errors
    /// A group that this process is in, or that is none of cgroup v2.
    pub fn new(
        (mount, own): (PathBuf, PathBuf),
        units: Vec<String>,
        groups: Vec<PathBuf>,
    ) -> io::Result<Self> {
        let groups = groups.into_iter().map(|group| Self::below(&mount, group));
        let groups = groups.collect::<io::Result<Vec<_>>>()?;
        let machine = Self { mount, own, units, groups };
        let found = [machine.groups.clone(), machine.found_units()].concat();
        match found.into_iter().find(|group| machine.holds_own(group)) {
            None => Ok(machine),
            Some(group) => Err(io::Error::other(format!(
                "{} holds this process as well, which cannot be its own client: run it in a unit of its own",
                group.display()
            ))),
        }
    }

    /// A path of the file system, or of cgroup v2 as `systemctl status` shows it.
    fn below(mount: &Path, group: PathBuf) -> io::Result<PathBuf> {
        if group.starts_with(mount) {
            return Ok(group);
        }
        let inside = mount.join(group.strip_prefix("/").unwrap_or(&group));
        if inside.is_dir() {
            return Ok(inside);
        }
        let why = format!("{} is not below {}, where cgroup v2 is mounted", group.display(), mount.display());
        Err(io::Error::new(io::ErrorKind::NotFound, why))
    }

    /// The groups that there are now, without those that lie within others.
    pub fn enrolled(&self) -> BTreeSet<Unit> {
        let all = [self.groups.clone(), self.found_units()].concat();
        let outermost = |path: &PathBuf| !all.iter().any(|other| other != path && path.starts_with(other));
        let there = all.iter().filter(|path| outermost(path) && !self.holds_own(path));
        there.filter_map(|path| Some(Unit { id: cgroup::id(path).ok()?, path: path.clone() })).collect()
    }

    /// The control group of this process.
    pub fn own(&self) -> &Path {
        &self.own
    }

    /// Those that were asked for and are not there: units that do not run.
    pub fn missing(&self) -> Vec<String> {
        let found = self.found_units();
        let is_there = |unit: &&String| found.iter().any(|path| path.ends_with(unit));
        let units = self.units.iter().filter(|unit| !is_there(unit)).cloned();
        let groups = self.groups.iter().filter(|path| !path.is_dir()).map(|path| path.display().to_string());
        units.chain(groups).collect()
    }

    fn holds_own(&self, group: &Path) -> bool {
        self.own.starts_with(group)
    }

    fn found_units(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        if !self.units.is_empty() {
            collect(&self.mount, 0, &self.units, &mut found);
        }
        found
    }
}

impl Unit {
    /// Ids of the group and of all below it: sockets are of the group that their process was in.
    pub fn ids(&self) -> BTreeSet<u64> {
        let mut ids = BTreeSet::from([self.id]);
        add_below(&self.path, &mut ids);
        ids
    }
}

fn add_below(directory: &Path, ids: &mut BTreeSet<u64>) {
    for path in cgroup::children(directory) {
        ids.extend(cgroup::id(&path).ok());
        add_below(&path, ids);
    }
}

/// Units of the machine's own systemd: they are in slices, which lie in one another, and only root makes anything there. Below
/// everything else, and in `user.slice`, users and containers name groups as they like.
fn collect(directory: &Path, depth: usize, units: &[String], found: &mut Vec<PathBuf>) {
    if !is_roots(directory) {
        return;
    }
    for path in cgroup::children(directory) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if units.iter().any(|unit| unit == name) {
            found.push(path);
        } else if depth < SLICE_DEPTH && name.ends_with(SLICE) && name != USERS {
            collect(&path, depth + 1, units, found);
        }
    }
}

/// Whether nobody but root, or whoever this process runs as, makes groups in this one.
fn is_roots(directory: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let trusted = fs::metadata("/proc/self").map_or(0, |own| own.uid());
    fs::metadata(directory).is_ok_and(|it| it.uid() == 0 || it.uid() == trusted)
}

/// What names of slices end in.
const SLICE: &str = ".slice";
/// The slice of those who have logged in, and of their own units.
const USERS: &str = "user.slice";
/// So deep may slices lie in one another: `a.slice/a-b.slice/…`.
const SLICE_DEPTH: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary directory");
        for path in ["system.slice/db.service/sub", "system.slice/mesh.service/mesh-node-a", "shop.slice/a"] {
            fs::create_dir_all(root.path().join(path)).expect("created");
        }
        root
    }

    fn machine(root: &Path, units: &[&str], groups: &[&str]) -> io::Result<Machine> {
        let own = root.join("system.slice/mesh.service/mesh-node-a");
        let units = units.iter().map(|unit| (*unit).to_owned()).collect();
        Machine::new((root.to_owned(), own), units, groups.iter().map(PathBuf::from).collect())
    }

    #[test]
    fn units_are_found_wherever_they_are() {
        let root = tree();
        let found = machine(root.path(), &["db.service", "gone.service"], &["/shop.slice", "shop.slice/a"])
            .expect("fine");
        let paths: Vec<_> = found.enrolled().into_iter().map(|unit| unit.path).collect();
        assert_eq!(paths, ["shop.slice", "system.slice/db.service"].map(|path| root.path().join(path)));
        assert_eq!(found.missing(), ["gone.service"]);
        let all: Vec<_> = found.enrolled().iter().map(|unit| unit.ids().len()).collect();
        assert_eq!(all, [2, 2], "each with the group inside of it");
    }

    #[test]
    fn a_unit_of_a_user_or_a_container_is_not_the_machines() {
        let root = tree();
        for path in [
            "user.slice/user-1000.slice/user@1000.service/app.slice/db.service",
            "user.slice/user-1000.slice/db.service",
            "system.slice/container.scope/system.slice/db.service",
            "machine.slice/machine-one.scope/payload/db.service",
            "shop.slice/shop-a.slice/shop-a-b.slice/cache.service",
        ] {
            fs::create_dir_all(root.path().join(path)).expect("created");
        }
        let found = machine(root.path(), &["db.service", "cache.service"], &[]).expect("fine").enrolled();
        let paths: Vec<_> = found.into_iter().map(|unit| unit.path).collect();
        let own = ["shop.slice/shop-a.slice/shop-a-b.slice/cache.service", "system.slice/db.service"];
        assert_eq!(paths, own.map(|path| root.path().join(path)));
    }

    #[test]
    fn a_slice_that_a_user_owns_holds_no_unit_of_the_machine() {
        let root = tree();
        let slice = root.path().join("system.slice");
        // Without the right to give it away there is nothing to try.
        if std::os::unix::fs::chown(&slice, Some(1000), None).is_ok() {
            assert_eq!(machine(root.path(), &["db.service"], &[]).expect("fine").enrolled(), BTreeSet::new());
        }
    }

    #[test]
    fn the_nodes_own_group_is_never_enrolled() {
        let root = tree();
        for group in ["", "/", "system.slice", "system.slice/mesh.service"] {
            let refused = machine(root.path(), &[], &[group]).map(|it| it.enrolled());
            assert!(refused.is_err_and(|error| error.to_string().contains("this process")), "{group:?}");
        }
        assert!(machine(root.path(), &["mesh.service"], &[]).is_err());
        assert!(machine(root.path(), &[], &["none.slice"]).is_err());
    }
}
