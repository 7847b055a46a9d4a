//! A machine whose first process is systemd, on cgroup v2 alone: the files and the commands of `deploy/vm`, as people use them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    bed::{Bed, NodeHandle, Process},
    scenario::{Dialled, at, dial, eventually},
};

use super::{STRICT, allow, bed, group, join_token, registered, state};

/// The third node of a bed, started anew as a machine of its own: same kernel and network, but its own root file system (ours, with
/// what it writes kept apart), processes, mounts and control groups.
struct Booted<'b> {
    bed: &'b Bed,
    node: NodeHandle<'b>,
    dir: PathBuf,
    init: Option<Process>,
}

/// What the machine is made of before it is started; `$1` is its directory. No session, no device and no setting of the machine
/// that this runs on is systemd's to touch.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs etc/init.d
mount --bind "$1/units" etc/systemd/system
mount -t tmpfs tmpfs dev
for device in null zero full random urandom tty; do
    : > "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
hostname vm
exec chroot . env -i container=mesh PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=multi-user.target
"#;

/// Units that a machine has for its hardware, its kernel's settings and its users.
const MASKED: [&str; 27] = [
    "console-getty.service",
    "dbus.service",
    "dbus.socket",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "getty.target",
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-tmpfiles-setup.service",
    "systemd-udev-trigger.service",
    "systemd-udevd.service",
    "systemd-update-utmp.service",
    "timers.target",
    "tmp.mount",
];

/// What is to be in the mesh, under the name that the guide uses.
const SERVER: &str = "[Service]\nExecStart=/usr/local/bin/netprobe serve --port 7000\n\n\
                      [Install]\nWantedBy=multi-user.target\n";

impl<'b> Booted<'b> {
    /// Lays the machine out, without starting it. Its `/srv/db-1` has what the guide says is brought there.
    fn lay_out(bed: &'b Bed) -> Result<Self> {
        let (node, dir) = (bed.node("node-3")?, bed.layout().memory().join("booted"));
        let (units, brought) = (dir.join("units"), dir.join("upper/srv/db-1"));
        let programs = dir.join("upper/usr/local/bin");
        for made in [&dir.join("root"), &dir.join("work"), &units, &brought, &programs] {
            fs::create_dir_all(made)?;
        }
        for unit in MASKED {
            symlink("/dev/null", units.join(unit))?;
        }
        fs::write(units.join("postgresql.service"), SERVER)?;
        copy_program(&node, "netprobe", &programs)?;
        copy_program(&node, "mesh-node", &brought)?;
        for file in ["mesh-node.service", "mesh.slice", "enrol.conf"] {
            fs::copy(guide_dir().join(file), brought.join(file)).with_context(|| file.to_owned())?;
        }
        Ok(Self { bed, node, dir, init: None })
    }

    fn boot(&mut self) -> Result<()> {
        let words = "unshare --mount --pid --fork --uts --ipc --cgroup --kill-child=SIGKILL sh -c";
        let dir = self.dir.display().to_string();
        let words: Vec<_> = words.split(' ').chain([BOOT, "boot", &dir]).collect();
        self.init = Some(self.node.spawn_in(GROUP, &words)?);
        Ok(())
    }

    /// As if its plug were pulled.
    fn pull_the_plug(&mut self) -> Result<()> {
        let first = self.first()?;
        drop(self.init.take());
        self.bed.wait("the end of systemd", Duration::from_secs(10), |_| {
            !Path::new(&format!("/proc/{first}")).exists()
        })?;
        self.node.remove_group(GROUP);
        ensure!(!self.node.cgroup().join(GROUP).exists(), "a control group of the machine is still there");
        Ok(())
    }

    /// The process that the machine calls 1.
    fn first(&self) -> Result<u32> {
        let outer = self.init.as_ref().context("the machine is off")?.pid();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
        children.trim().parse().with_context(|| format!("systemd does not run: {children:?}"))
    }

    /// Runs a script on the machine, as root in `/srv/db-1`.
    fn run(&self, script: &str) -> Result<Output> {
        let first = self.first()?.to_string();
        let script = format!("cd /srv/db-1\n{script}");
        let words = ["nsenter", "-t", &first, "-m", "-p", "-C", "-u", "-i", "-r", "-w", "sh", "-ec", &script];
        Ok(self.node.exec(&words)?)
    }

    /// The same; it has to succeed.
    fn must(&self, script: &str) -> Result<String> {
        let output = self.run(script)?;
        ensure!(output.status.success(), "{script}\n{output:?}\n{}", self.log());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What the unit of the node has said.
    fn log(&self) -> String {
        let said = self.run("journalctl --no-pager --lines=60 --unit=mesh-node --unit=postgresql");
        said.map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default()
    }

    fn wait_for(&self, script: &str) -> Result<()> {
        let reached = self.bed.wait(script, Duration::from_secs(30), |_| {
            self.run(script).is_ok_and(|output| output.status.success())
        });
        reached.with_context(|| self.log())?;
        Ok(())
    }

    /// Makes sure that a unit is in the mesh, and was started when that was captured.
    fn ensure_enrolled(&self, unit: &str) -> Result<()> {
        let slice = self.must(&format!("systemctl show --value --property Slice {unit}"))?;
        let when = |property: &str, unit: &str| -> Result<u64> {
            let text = self.must(&format!("systemctl show --value --property {property} {unit}"))?;
            text.trim().parse().with_context(|| format!("{property} of {unit} is {text:?}"))
        };
        let captured = when("ActiveEnterTimestampMonotonic", "mesh-node")?;
        let started = when("ActiveEnterTimestampMonotonic", unit)?;
        ensure!(slice.trim() == SLICE && started > captured, "{slice} {started} {captured}");
        Ok(())
    }

    /// Dials as a unit in a slice.
    fn dial(&self, slice: &str, to: &str) -> Result<Dialled> {
        let dial = format!("/usr/local/bin/netprobe dial {to} --timeout 1500");
        // Whether it is served is what it prints, and no failure of the unit.
        let service =
            format!("Type=oneshot\nSlice={slice}\nStandardOutput=truncate:/run/dial\nExecStart=-{dial}");
        fs::write(self.dir.join("units/dial.service"), format!("[Service]\n{service}\n"))?;
        let text = self.must("systemctl daemon-reload && systemctl start dial && cat /run/dial")?;
        serde_json::from_str(&text).with_context(|| format!("netprobe printed {text:?}"))
    }

    fn eventually(&self, to: &str, wanted: fn(&Dialled) -> bool) -> Result<()> {
        let mut last = String::new();
        let reached = self.bed.wait("the wanted outcome of a unit", Duration::from_secs(20), |_| {
            let dialled = self.dial(SLICE, to);
            let is_wanted = dialled.as_ref().is_ok_and(wanted);
            last = dialled.map_or_else(|error| format!("{error:#}"), |it| format!("{it:?}"));
            is_wanted
        });
        reached.with_context(|| format!("to {to}: {last}; {}", self.log()))?;
        Ok(())
    }
}

fn guide_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/vm")
}

/// The commands below a heading of the guide, without those that are for the cluster.
fn commands(heading: &str) -> Result<String> {
    let guide = fs::read_to_string(guide_dir().join("README.md"))?;
    let section = guide.split("\n## ").find(|section| section.starts_with(heading)).context("no section")?;
    let block = section.split("```").nth(1).context("no commands")?;
    let lines: Vec<_> = block.lines().filter(|line| !line.starts_with("kubectl ")).collect();
    Ok(lines.join("\n"))
}

fn copy_program(node: &NodeHandle<'_>, name: &str, to: &Path) -> Result<()> {
    let found = node.exec(&["which", name])?;
    let path = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    fs::copy(&path, to.join(name)).with_context(|| format!("{name} at {path:?}"))?;
    Ok(())
}

/// Writes what the machine is to be brought, by the guide's command for a mesh without Kubernetes.
fn configure(bed: &Bed, into: &Path) -> Result<()> {
    let files = bed.layout().state.join("group");
    fs::create_dir_all(&files)?;
    let text = |path: PathBuf| path.display().to_string();
    let (yaml, token) = (files.join("group.yaml"), files.join("token"));
    fs::write(&yaml, group(""))?;
    fs::write(&token, join_token(bed, "vm")?)?;
    let control = format!("https://{}:15012", bed.node("node-1")?.ips()[0]);
    let (yaml, token, into) = (text(yaml), text(token), text(into.to_owned()));
    let roots = text(state(bed).join("ca/root-cert.pem"));
    let given = ["--join-token", &token, "--root-cert", &roots, "--control", &control];
    let words = ["meshctl", "x", "workload", "entry", "configure", "-f", &yaml, "-o", &into];
    let output = bed.node("node-1")?.exec(&[&words[..], &given].concat())?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

/// A machine joins by the commands of the guide, is served after a restart of its node and of itself, and leaves by the guide.
#[test]
fn a_machine_with_systemd_joins_and_leaves_by_the_guide() -> Result<()> {
    let bed = bed()?;
    bed.apply(&(STRICT.to_owned() + &allow("far", "vm") + &group("")))?;
    let mut machine = Booted::lay_out(&bed)?;
    configure(&bed, &machine.dir.join("upper/srv/db-1"))?;
    machine.boot()?;
    machine.wait_for("systemctl is-active multi-user.target")?;
    machine.must("systemctl enable --now postgresql")?;
    let (client, stranger, far) =
        (bed.pod("mesh/client")?, bed.pod("outside/stranger")?, bed.pod("mesh/far")?);
    let own = format!("{}:7000", machine.node.ips()[0]);
    eventually(&bed, &stranger, &own, Dialled::served)?;

    machine.must(&commands("On the machine")?)?;
    ensure!(machine.must("systemctl is-active mesh-node postgresql")?.trim() == "active\nactive");
    machine.ensure_enrolled("postgresql")?;
    bed.wait("the machine's registration", Duration::from_secs(20), |bed| registered(bed) == Some(true))?;
    eventually(&bed, &client, "10.200.0.9:80", Dialled::served)?;
    eventually(&bed, &stranger, &own, Dialled::refused)?;
    machine.eventually(&at(&far), Dialled::served)?;
    ensure!(machine.dial("system.slice", &at(&far))?.refused(), "a unit that is not enrolled");
    let seen = machine.must(&commands("Looking at it")?)?;
    ensure!(seen.contains("Active: active (running)") && seen.contains("sa/vm"), "{seen}");

    // Without its node it is closed, and the node has no need of a token to come back.
    machine.must("systemctl stop mesh-node")?;
    ensure!(machine.dial(SLICE, &at(&far))?.refused(), "nobody is there who could carry it");
    ensure!(dial(&stranger, &[&own, "--timeout", "1500"])?.refused(), "in plain text");
    machine.must(
        "mv /etc/mesh/istio-token /srv && systemctl start mesh-node && mv /srv/istio-token /etc/mesh",
    )?;
    machine.eventually(&at(&far), Dialled::served)?;

    // All comes back by itself.
    machine.pull_the_plug()?;
    machine.boot()?;
    machine.wait_for("systemctl is-active mesh-node && systemctl is-active postgresql")?;
    machine.ensure_enrolled("postgresql")?;
    eventually(&bed, &client, "10.200.0.9:80", Dialled::served)?;
    machine.eventually(&at(&far), Dialled::served)?;
    ensure!(dial(&stranger, &[&own, "--timeout", "1500"])?.refused(), "in plain text");

    machine.must(&commands("Taking it out")?)?;
    eventually(&bed, &stranger, &own, Dialled::served)?;
    let left = machine.must("ls /sys/fs/bpf; systemctl is-enabled mesh-node || true")?;
    ensure!(left.ends_with("disabled\n") && !left.contains("mesh"), "{left}");
    Ok(())
}

/// The control group that is the machine's root of them.
const GROUP: &str = "booted";
const SLICE: &str = "mesh.slice";
