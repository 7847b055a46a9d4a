//! A node with an agent and a small container runtime.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::scenario::Dialled;
use serde_json::{Value, json};

/// A node; everything of it goes when it is dropped.
pub(crate) struct Stand {
    name: String,
    home: tempfile::TempDir,
    bins: PathBuf,
    cgroup: PathBuf,
    agent: Mutex<Option<Child>>,
    processes: Mutex<Vec<Child>>,
    networks: Mutex<Vec<String>>,
    layout: Layout,
}

/// Where a kubelet and a runtime put their cgroups, below the stand's own: pods of cgroup v2, with `UID`, `UNDER` (the uid with
/// underscores) and `CID` in it, and the agent's.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) pod: &'static str,
    pub(crate) agent: &'static str,
    /// As `pod`, below a hierarchy of v1.
    pub(crate) v1: Option<&'static str>,
    /// Whether the agent serves the plugin.
    pub(crate) plugin: bool,
}

impl Default for Layout {
    fn default() -> Self {
        Self { pod: "kubepods/burstable/podUID/CID", agent: "agent", v1: None, plugin: true }
    }
}

/// A pod as an object; its sandboxes are made by [`Stand::add`].
#[derive(Clone)]
pub(crate) struct Pod {
    pub(crate) namespace: &'static str,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// One network namespace with one id, as a runtime makes it for each attempt.
#[derive(Clone)]
pub(crate) struct Sandbox {
    pub(crate) pod: Pod,
    pub(crate) container: String,
    netns: String,
}

/// What a chain of plugins has said.
pub(crate) type Said = std::result::Result<Value, Value>;

impl Stand {
    /// A node whose agent runs.
    pub(crate) fn start() -> Result<Self> {
        let stand = Self::without_agent(Layout::default())?;
        stand.start_agent()?;
        stand.wait("the plugin in the configuration", || stand.installed())?;
        Ok(stand)
    }

    /// A node with cgroups like these.
    pub(crate) fn without_agent(layout: Layout) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mcni-{}-{number}", std::process::id());
        let bins = std::env::current_exe()?;
        let bins = bins.ancestors().nth(2).context("the target directory")?.to_owned();
        let cgroup = Path::new(&cgroup2()?).join(&name);
        let home = tempfile::tempdir()?;
        for directory in ["objects", "conf", "bin", "state"] {
            fs::create_dir(home.path().join(directory))?;
        }
        let pods = layout.pod.split("/podUID").next().unwrap_or_default();
        let pods = pods.split("/kubepods-burstable-pod").next().unwrap_or_default();
        let pods = pods.split("/kubelet-kubepods-burstable-pod").next().unwrap_or_default();
        for group in [layout.agent, pods] {
            fs::create_dir_all(cgroup.join(group))?;
        }
        let stand = Self {
            name,
            home,
            bins,
            cgroup,
            agent: Mutex::default(),
            processes: Mutex::default(),
            networks: Mutex::default(),
            layout,
        };
        if layout.v1.is_some() {
            stand.mount_v1()?;
        }
        stand.make_network(&stand.name.clone())?;
        run(Command::new("ip").args(["-n", &stand.name, "link", "set", "lo", "up"]))?;
        stand.write_conflist()?;
        stand.object("namespaces", NAMESPACES)?;
        Ok(stand)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// What the network's owner writes: nothing of ours is in it.
    pub(crate) fn write_conflist(&self) -> Result<()> {
        let ipam = json!({"type": "host-local", "dataDir": self.path("ipam"), "ranges": [[{"subnet": "10.88.0.0/24"}]],
                          "routes": [{"dst": "0.0.0.0/0"}]});
        let bridge =
            json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": ipam});
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let list = json!({"cniVersion": "1.0.0", "name": self.name, "plugins": [bridge, portmap]});
        let (prepared, path) = (self.path("conf/.new"), self.conflist());
        fs::write(&prepared, list.to_string())?;
        Ok(fs::rename(prepared, path)?)
    }

    pub(crate) fn conflist(&self) -> PathBuf {
        self.path("conf/10-net.conflist")
    }

    pub(crate) fn installed(&self) -> bool {
        fs::read_to_string(self.conflist()).is_ok_and(|text| text.contains("\"mesh-cni\""))
    }

    pub(crate) fn start_agent(&self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.path("log"))?;
        let program = self.bins.join("mesh-node");
        let text = |name: &str| self.path(name).display().to_string();
        let mut command = self.inside(&[self.cgroup.join(self.layout.agent)], &self.name, &program)?;
        command.args(["node", "--node", "node-1", "--express-path", "disabled", "--cni-wait", "6s"]);
        let plugin = [
            ("--cni-conf-dir", text("conf")),
            ("--cni-bin-dir", text("bin")),
            ("--cni-socket", text("cni.sock")),
        ];
        let plugin = plugin.into_iter().filter(|_| self.layout.plugin);
        let usual = [
            ("--config", text("objects")),
            ("--state", text("state")),
            ("--cgroup", self.cgroup.display().to_string()),
            ("--pin-root", self.pins().display().to_string()),
            ("--svid-cache", text("cache")),
        ];
        for (option, value) in usual.into_iter().chain(plugin) {
            command.args([option, &value]);
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        *self.agent.lock().expect("no panic") = Some(child);
        Ok(())
    }

    pub(crate) fn kill_agent(&self) -> Result<()> {
        let mut agent = self.agent.lock().expect("no panic").take().context("an agent")?;
        agent.kill()?;
        agent.wait()?;
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(&self.name)
    }

    /// Writes resources where the agent reads them.
    pub(crate) fn object(&self, name: &str, yaml: &str) -> Result<()> {
        let prepared = self.path(&format!("{name}.new"));
        fs::write(&prepared, yaml)?;
        Ok(fs::rename(prepared, self.path("objects").join(format!("{name}.yaml")))?)
    }

    /// The object of a pod that was bound to the node: nobody knows its address.
    pub(crate) fn pod(&self, namespace: &'static str, name: &str) -> Result<Pod> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{:08x}-0000-4000-8000-{number:012x}", std::process::id());
        let pod = Pod { namespace, name: name.to_owned(), uid };
        self.publish(&pod, None)?;
        Ok(pod)
    }

    /// Tells of the pod's address, as the kubelet does after its start.
    pub(crate) fn publish(&self, pod: &Pod, ip: Option<&str>) -> Result<()> {
        let Pod { namespace, name, uid } = pod;
        let status = match ip {
            Some(ip) => format!("{{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}"),
            None => "{phase: Pending}".to_owned(),
        };
        let yaml = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{namespace: {namespace}, name: {name}, uid: {uid}, labels: {{app: {name}}}}}, \
             spec: {{nodeName: node-1, serviceAccountName: {name}, containers: [{{name: app, image: i}}]}}, status: {status}}}"
        );
        self.object(&format!("pod-{namespace}-{name}"), &yaml)
    }

    /// A new sandbox for a pod: namespace and cgroup are there, processes are not.
    pub(crate) fn sandbox(&self, pod: &Pod) -> Result<Sandbox> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let netns = format!("{}-s{number}", self.name);
        self.make_network(&netns)?;
        // As containerd has the plugin `loopback` do, at the same time.
        let loopback = netns.clone();
        thread::spawn(move || {
            thread::sleep(LOOPBACK);
            run(Command::new("ip").args(["-n", &loopback, "link", "set", "lo", "up"]))
        });
        let container = format!("{:016x}{number:048x}", std::process::id());
        Ok(Sandbox { pod: pod.clone(), container, netns })
    }

    fn make_network(&self, name: &str) -> Result<()> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        self.networks.lock().expect("no panic").push(name.to_owned());
        Ok(())
    }

    /// The cgroups of a container.
    fn groups(&self, Sandbox { pod, container, .. }: &Sandbox) -> Vec<PathBuf> {
        let (uid, under) = (&pod.uid, pod.uid.replace('-', "_"));
        let filled = |text: &str| text.replace("UID", uid).replace("UNDER", &under).replace("CID", container);
        let mut groups = vec![self.cgroup.join(filled(self.layout.pod))];
        if let Some(path) = self.layout.v1 {
            groups.push(self.v1().join(&self.name).join(filled(path)));
        }
        groups
    }

    /// Where the stand has a hierarchy of v1 of its own: one without controllers, which any kernel has to give, whatever else is
    /// mounted on this machine.
    fn v1(&self) -> PathBuf {
        self.path("v1")
    }

    fn mount_v1(&self) -> Result<()> {
        fs::create_dir(self.v1())?;
        let mut mount = Command::new("mount");
        run(mount.args(["-t", "cgroup", "-o", V1, "none"]).arg(self.v1())).context(
            "a hierarchy of cgroup v1 cannot be mounted (is cgroup_no_v1 on the kernel's command line?)",
        )
    }

    /// A group below the stand's own.
    pub(crate) fn group(&self, path: &str) -> PathBuf {
        self.cgroup.join(path)
    }

    /// Runs the chain as a runtime does, with the configuration as it is now. After a failure of `ADD` nothing is undone.
    pub(crate) fn chain(&self, verb: &str, sandbox: &Sandbox) -> Result<Said> {
        let list: Value = serde_json::from_str(&fs::read_to_string(self.conflist())?)?;
        let mut plugins = list["plugins"].as_array().context("plugins")?.clone();
        let kept = self.path(&format!("result-{}", sandbox.container));
        let mut result = fs::read(&kept).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if verb == "DEL" {
            plugins.reverse();
        }
        for mut plugin in plugins {
            plugin["cniVersion"] = list["cniVersion"].clone();
            plugin["name"] = list["name"].clone();
            if let Some(result) = &result {
                plugin["prevResult"] = Value::clone(result);
            }
            match self.plugin(verb, Some(sandbox), &plugin)? {
                Ok(Value::Null) => {}
                Ok(said) => result = Some(said),
                Err(error) => return Ok(Err(error)),
            }
        }
        if verb == "ADD" {
            fs::write(kept, serde_json::to_vec(&result)?)?;
        }
        Ok(Ok(result.unwrap_or_default()))
    }

    /// Runs one plugin in the node's network.
    pub(crate) fn plugin(&self, verb: &str, sandbox: Option<&Sandbox>, conf: &Value) -> Result<Said> {
        let kind = conf["type"].as_str().context("a type")?;
        let own = self.path("bin").join(kind);
        let program = if own.exists() { own } else { Path::new(REFERENCE).join(kind) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", format!("{}:{REFERENCE}", self.path("bin").display()));
        if let Some(Sandbox { pod, container, netns }) = sandbox {
            let args = format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={}",
                pod.namespace, pod.name, pod.uid
            );
            command.env("CNI_CONTAINERID", container).env("CNI_NETNS", format!("/var/run/netns/{netns}"));
            command.env("CNI_IFNAME", "eth0").env("CNI_ARGS", args);
        }
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("a pipe")?.write_all(conf.to_string().as_bytes())?;
        let Output { status, stdout, stderr } = child.wait_with_output()?;
        let printed = || format!("{kind} printed {:?} {:?}", lossy(&stdout), lossy(&stderr));
        let said = if stdout.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&stdout).with_context(printed)?
        };
        Ok(if status.success() { Ok(said) } else { Err(said) })
    }

    /// `ADD` of a new sandbox that has to succeed; returns it with its address.
    pub(crate) fn add(&self, pod: &Pod) -> Result<(Sandbox, String)> {
        let sandbox = self.sandbox(pod)?;
        match self.chain("ADD", &sandbox)? {
            Ok(result) => {
                let ip = result["ips"][0]["address"].as_str().context("an address")?;
                Ok((sandbox, ip.split('/').next().unwrap_or(ip).to_owned()))
            }
            Err(error) => bail!("ADD of {}: {error}\n{}", pod.name, self.log()),
        }
    }

    /// A program of ours in a sandbox.
    pub(crate) fn exec(&self, sandbox: &Sandbox, program: &str) -> Result<Command> {
        self.inside(&self.groups(sandbox), &sandbox.netns, &self.bins.join(program))
    }

    /// A program in these groups and that network. As with runtimes it is in its groups while it is still in the network of the
    /// node, which is not that of this machine here.
    fn inside(&self, groups: &[PathBuf], netns: &str, program: &Path) -> Result<Command> {
        ensure!(program.is_file(), "there is no {}", program.display());
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).args(["--", "bash", "-c", ENTER, netns]);
        for group in groups {
            fs::create_dir_all(group)?;
            command.arg(group.join("cgroup.procs"));
        }
        command.arg("--").arg(program);
        Ok(command)
    }

    /// A server in a sandbox.
    pub(crate) fn serve(&self, sandbox: &Sandbox) -> Result<()> {
        let mut command = self.exec(sandbox, "netprobe")?;
        let child = command.args(["serve", "--port", "7000"]).stdout(Stdio::null()).spawn()?;
        self.processes.lock().expect("no panic").push(child);
        Ok(())
    }

    /// One connection out of a sandbox.
    pub(crate) fn dial(&self, sandbox: &Sandbox, to: &str) -> Result<Dialled> {
        let mut command = self.exec(sandbox, "netprobe")?;
        let output = command.args(["dial", &format!("{to}:7000"), "--timeout", "4000"]).output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("netprobe: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Hooks in the kernel that are a pod's.
    pub(crate) fn hooks(&self, pod: &Pod) -> usize {
        let links = self.pins().join("node-1").join(mesh_common::ABI).join("link");
        let entries = fs::read_dir(links).into_iter().flatten().flatten();
        entries.filter(|link| link.file_name().to_string_lossy().ends_with(&pod.uid)).count()
    }

    pub(crate) fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !holds() {
            ensure!(Instant::now() < until, "not within {PATIENCE:?}: {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What of ours stands in the configuration.
    pub(crate) fn conf(&self) -> Result<Value> {
        let list: Value = serde_json::from_str(&fs::read_to_string(self.conflist())?)?;
        let plugins = list["plugins"].as_array().context("plugins")?;
        let mut ours = plugins.iter().find(|it| it["type"] == "mesh-cni").context("ours")?.clone();
        ours["cniVersion"] = json!("1.1.0");
        ours["name"] = list["name"].clone();
        Ok(ours)
    }

    /// Takes the mesh off the node.
    pub(crate) fn cleanup(&self) -> Result<()> {
        let mut command = Command::new(self.bins.join("mesh-node"));
        command.args(["cleanup", "--node", "node-1"]);
        for (option, path) in [
            ("--pin-root", self.pins()),
            // Stands of tests beside this one call their node the same.
            ("--svid-cache", self.path("cache")),
            ("--cgroup", self.cgroup.clone()),
            ("--cni-conf-dir", self.path("conf")),
            ("--cni-bin-dir", self.path("bin")),
        ] {
            command.arg(option).arg(path);
        }
        run(&mut command)
    }
}

impl Sandbox {
    /// Two more interfaces, which lead to each other.
    pub(crate) fn add_interfaces(&self) -> Result<()> {
        let words = ["link", "add", "net1", "type", "veth", "peer", "name", "net2"];
        run(Command::new("ip").args(["-n", &self.netns]).args(words))
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = self.kill_agent();
        for process in self.processes.get_mut().expect("no panic") {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = self.cleanup();
        let _ = fs::remove_dir(self.pins());
        for network in self.networks.get_mut().expect("no panic") {
            let _ = run(Command::new("ip").args(["netns", "del", network]));
        }
        remove_groups(&self.cgroup);
        if self.layout.v1.is_some() {
            remove_groups(&self.v1().join(&self.name));
            let _ = run(Command::new("umount").arg(self.v1()));
        }
    }
}

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

fn lossy(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn cgroup2() -> Result<String> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    mesh_core::cgroup::cgroup2_mount(&mounts).context("no cgroup v2 is mounted")
}

/// Enters the groups that come before `--`, then the network, then becomes the program behind it.
const ENTER: &str = r#"while [ "$1" != -- ]; do echo $$ > "$1" || exit 1; shift; done; shift; exec nsenter --net="/run/netns/$0" -- "$@""#;
/// Stands of one machine share it, each below its own name.
const V1: &str = "none,name=mesh-suite";
const NAMESPACES: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: mesh, labels: {istio.io/dataplane-mode: ambient}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: outside}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: kube-system}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-1}, spec: {podCIDR: 10.88.0.0/24}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: mesh}, spec: {mtls: {mode: STRICT}}}
";
/// Debian's package `containernetworking-plugins`.
const REFERENCE: &str = "/usr/lib/cni";
/// How much later than the chain begins a sandbox has its loopback interface.
const LOOPBACK: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(10);
static NEXT: AtomicU32 = AtomicU32::new(1);
