//! Options for a node that serves processes of the machine that it runs on, in place of pods.

use std::{net::IpAddr, path::PathBuf};

use clap::{ArgGroup, Args};

use super::{Namespaced, namespaced};

/// A virtual machine, or one of metal, in the mesh.
#[derive(Clone, Debug, Default, Args)]
#[command(group(ArgGroup::new("enrolled").multiple(true)))]
pub struct MachineOptions {
    /// Serve processes of this machine in place of pods: those of the units and control groups that are named, and no
    /// others. They are the workload of one WorkloadEntry, named or registered by a WorkloadGroup.
    #[arg(long, requires = "enrolled", requires = "entry")]
    pub host: bool,
    /// A unit of systemd whose processes take part, for example db.service; may be given several times.
    #[arg(long = "enrol-unit", value_name = "UNIT", requires = "host", group = "enrolled", value_parser = unit)]
    pub units: Vec<String>,
    /// A control group whose processes take part, with those below it, for example /sys/fs/cgroup/mesh.slice; may be given
    /// several times.
    #[arg(long = "enrol-cgroup", value_name = "DIR", requires = "host", group = "enrolled")]
    pub cgroups: Vec<PathBuf>,
    /// The WorkloadEntry that somebody has written for this machine.
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "host", group = "entry", value_parser = namespaced)]
    pub workload_entry: Option<Namespaced>,
    /// The WorkloadGroup to register with: the control plane makes the WorkloadEntry, and takes it back when this machine is
    /// gone.
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "host", group = "entry", requires = "control", value_parser = namespaced)]
    pub workload_group: Option<Namespaced>,
    /// The address that others reach this machine at [default: the one that it reaches the control plane from].
    #[arg(long, value_name = "IP", requires = "workload_group", conflicts_with = "workload_entry")]
    pub address: Option<IpAddr>,
    /// The network that the address is of, where the mesh has several.
    #[arg(long, value_name = "NAME", requires = "workload_group", conflicts_with = "workload_entry")]
    pub network: Option<String>,
}

/// Names as systemd has them; none leads to another directory.
fn unit(text: &str) -> Result<String, String> {
    let is_fit = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    let has_kind =
        [".service", ".scope", ".slice"].iter().any(|kind| text.len() > kind.len() && text.ends_with(kind));
    if has_kind && text.len() <= 255 && text.bytes().all(is_fit) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} is no unit with processes: NAME.service, NAME.scope or NAME.slice"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::{Command, Role};

    fn parse(rest: &[&str]) -> Result<MachineOptions, String> {
        let words = ["mesh-node", "node", "--node", "vm", "--control", "https://c:15012"];
        let command = Command::try_parse_from(words.iter().chain(rest)).map_err(|error| error.to_string())?;
        match command.role {
            Role::Node(options) => Ok(options.machine),
            role => Err(format!("{role:?}")),
        }
    }

    #[test]
    fn a_machine_names_what_is_enrolled_and_who_it_is() {
        let group = ["--workload-group", "shop/db"];
        let unit = ["--host", "--enrol-unit", "db.service"];
        let options = parse(&[&unit[..], &group].concat()).expect("complete");
        assert_eq!(options.units, ["db.service"]);
        assert_eq!(options.workload_group.map(|group| group.to_string()).as_deref(), Some("shop/db"));
        assert!(
            parse(&[&unit[..], &["--workload-entry", "shop/vm-1", "--enrol-cgroup", "/a"]].concat()).is_ok()
        );
        for wrong in [
            &unit[..],
            &["--host", "--workload-group", "shop/db"],
            &group,
            &["--enrol-unit", "db.service"],
            &[&unit[..], &group, &["--workload-entry", "shop/vm-1"]].concat(),
            &[&unit[..], &["--workload-entry", "shop/vm-1", "--address", "10.0.0.1"]].concat(),
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    /// The unit of systemd in deploy/vm, with what `meshctl x workload entry configure` writes.
    #[test]
    fn the_unit_starts_a_node_that_understands_it() {
        let unit = include_str!("../../../deploy/vm/mesh-node.service").replace("\\\n", " ");
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
        let variables = [
            ("${MESH_CONTROL}", "https://c:15012"),
            ("${MESH_TRUST_DOMAIN}", "td"),
            ("${MESH_WORKLOAD_GROUP}", "shop/db"),
            ("$MESH_ENROL", "--enrol-cgroup /sys/fs/cgroup/mesh.slice"),
            ("$MESH_OPTIONS", "--address 10.0.0.5 --network vpc-1"),
        ];
        let line = variables.iter().fold(line.to_owned(), |line, (name, value)| line.replace(name, value));
        assert!(!line.contains('$'), "{line}");
        let command =
            Command::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{error}"));
        let Role::Node(options) = command.role else { panic!("{line}") };
        assert!(options.machine.host && options.machine.network.as_deref() == Some("vpc-1"));
        assert_eq!(options.machine.cgroups, [PathBuf::from("/sys/fs/cgroup/mesh.slice")]);
    }

    /// What keeps a unit of deploy/vm from starting in the clear.
    #[test]
    fn a_unit_waits_for_the_node_that_captures_it() {
        let mut lines = include_str!("../../../deploy/vm/enrol.conf").lines();
        let line = lines.find_map(|line| line.strip_prefix("ExecStartPre=+")).expect("a command");
        let command =
            Command::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{error}"));
        let Role::Enrolled(options) = command.role else { panic!("{line}") };
        assert_eq!((&*options.node, options.patience), ("vm", None), "as long as systemd lets it");
    }

    #[test]
    fn units_have_processes_and_stay_where_they_are() {
        for good in ["db.service", "a@b-1.service", "session-2.scope", "mesh.slice", r"a\x2db.service"] {
            assert!(unit(good).is_ok(), "{good}");
        }
        for bad in ["db", "db.socket", ".service", "../db.service", "a/b.service", "a b.service"] {
            assert!(unit(bad).is_err(), "{bad}");
        }
    }
}
