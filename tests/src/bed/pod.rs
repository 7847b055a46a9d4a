//! A pod at work: the process that holds its namespaces, its containers, its health.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

pub(crate) use self::container::ContainerHealth;
use self::container::{Container, Context, Restart};
use super::cgroup;
use super::error::{Doing, Result};
use super::manifests::Key;
use super::place::{Place, Tools};
use super::probe::Prober;
use super::stop::{Stop, lock};
use crate::sys::{self, Enter, Fresh};

mod container;
mod environment;
mod watch;

/// Everything about a pod that does not change while it lives.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) key: Key,
    pub(crate) manifest: Pod,
    pub(crate) uid: String,
    pub(crate) node: String,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) host_ip: IpAddr,
    pub(crate) netns: PathBuf,
    pub(crate) cgroup: PathBuf,
    /// Holds the pod's hosts file and resolver configuration.
    pub(crate) files: PathBuf,
    /// Where its containers' output goes, one file each.
    pub(crate) logs: PathBuf,
}

/// The namespaces of a pod, before anything runs in them.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) facts: Facts,
    pub(crate) place: Place,
    pause: Child,
}

impl Sandbox {
    /// Starts the process that holds the namespaces. The network namespace must exist.
    pub(crate) fn start(facts: Facts, hosts: &str, resolver: &str) -> Result<Self> {
        fs::create_dir_all(&facts.files).at("make", &facts.files)?;
        let (hosts_file, resolver_file) = (facts.files.join("hosts"), facts.files.join("resolv.conf"));
        fs::write(&hosts_file, hosts).at("write", &hosts_file)?;
        fs::write(&resolver_file, resolver).at("write", &resolver_file)?;
        let mut binds = Vec::new();
        for (source, target) in [(&hosts_file, "/etc/hosts"), (&resolver_file, "/etc/resolv.conf")] {
            // Without the file there is nothing to mount over, and nothing that could mislead the pod.
            if Path::new(target).exists() {
                binds.push((source.as_path(), Path::new(target)));
            }
        }
        let group = facts.cgroup.join("pause");
        cgroup::make(&group)?;
        let enter = Enter {
            network: Some(File::open(&facts.netns).at("open", &facts.netns)?),
            cgroup: Some(cgroup::entrance(&group)?),
            fresh: Some(Fresh::new(&facts.key.name, &binds).doing(|| "name the pod".to_owned())?),
            session: true,
            ..Enter::default()
        };
        let mut command = Command::new("sleep");
        command.arg("infinity").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sys::enter(&mut command, enter);
        let pause = command.spawn().doing(|| format!("start the pod {}", facts.key))?;
        let place = Place { netns: facts.netns.clone(), pid: pause.id(), cgroup: facts.cgroup.clone() };
        Ok(Self { facts, place, pause })
    }
}

/// A running pod.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) place: Place,
    files: PathBuf,
    containers: Vec<Arc<Container>>,
    stop: Stop,
    pause: Mutex<Child>,
    grace: Duration,
    /// Why initialisation does not get on.
    init: Arc<Mutex<Init>>,
}

#[derive(Debug, Default)]
struct Init {
    done: bool,
    failed: Option<String>,
}

/// How a pod is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    pub(crate) phase: &'static str,
    pub(crate) ready: bool,
    /// What keeps it from being ready.
    pub(crate) message: Option<String>,
    pub(crate) containers: Vec<ContainerHealth>,
}

impl Running {
    /// Starts the containers of a sandbox. `changed` is called whenever the health may have changed.
    pub(crate) fn start(
        sandbox: Sandbox,
        tools: &Tools,
        prober: &Arc<Prober>,
        changed: Arc<dyn Fn() + Send + Sync>,
    ) -> Arc<Self> {
        let Sandbox { facts, place, pause } = sandbox;
        let spec = facts.manifest.spec.clone().unwrap_or_default();
        let stop = Stop::default();
        let grace = spec.termination_grace_period_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(30);
        let files = facts.files.clone();
        let context = Arc::new(Context {
            place: place.clone(),
            path: tools.search_path(),
            prober: Arc::clone(prober),
            stop: stop.clone(),
            changed,
            facts,
        });
        let make = |c: &_, restart| Arc::new(Container::new(Arc::clone(&context), c, restart));
        let restart = Restart::parse(spec.restart_policy.as_deref());
        let mut containers = Vec::new();
        let mut first = Vec::new();
        for init in spec.init_containers.iter().flatten() {
            if init.restart_policy.as_deref() == Some("Always") {
                let sidecar = make(init, Restart::Always);
                containers.push(Arc::clone(&sidecar));
                first.push((sidecar, true));
            } else {
                let once = if restart == Restart::Never { Restart::Never } else { Restart::OnFailure };
                first.push((make(init, once), false));
            }
        }
        let main: Vec<_> = spec.containers.iter().map(|c| make(c, restart)).collect();
        containers.extend(main.iter().map(Arc::clone));
        let init = Arc::new(Mutex::new(Init::default()));
        let state = Arc::clone(&init);
        thread::spawn(move || initialise(first, main, &state));
        let grace = Duration::from_secs(grace);
        Arc::new(Self { place, files, containers, stop, pause: Mutex::new(pause), grace, init })
    }

    /// How it is now.
    pub(crate) fn health(&self) -> Health {
        let containers: Vec<ContainerHealth> = self.containers.iter().map(|c| c.health()).collect();
        let init = lock(&self.init);
        let finished = !containers.is_empty() && containers.iter().all(|c| c.exit.is_some());
        let phase = match () {
            () if init.failed.is_some() => "Failed",
            () if !init.done => "Pending",
            () if finished && containers.iter().all(|c| c.exit == Some(true)) => "Succeeded",
            () if finished => "Failed",
            () => "Running",
        };
        let ready = phase == "Running" && containers.iter().all(|c| c.ready);
        let message = init.failed.clone().or_else(|| {
            let waiting = containers.iter().filter(|c| !c.ready);
            waiting
                .map(|c| format!("container {}: {}", c.name, c.message.as_deref().unwrap_or("starting")))
                .next()
        });
        Health { phase, ready, message: message.filter(|_| !ready), containers }
    }

    /// Replaces the content of the hosts file, which processes of the pod see at once.
    pub(crate) fn write_hosts(&self, hosts: &str) -> Result<()> {
        let path = self.files.join("hosts");
        // In place: the mount shows this very file, a new one under its name would not be seen.
        let mut file =
            fs::OpenOptions::new().write(true).custom_flags(libc::O_CLOEXEC).open(&path).at("open", &path)?;
        file.write_all(hosts.as_bytes()).at("write", &path)?;
        let length = file.stream_position().at("write", &path)?;
        file.set_len(length).at("write", &path)
    }

    /// Ends the pod: asks its containers to end, gives them their grace period, kills what is left.
    pub(crate) fn end(&self) {
        self.stop.raise();
        for container in &self.containers {
            container.terminate();
        }
        let deadline = std::time::Instant::now() + self.grace;
        while self.containers.iter().any(|c| c.is_running()) && std::time::Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        cgroup::kill(&self.place.cgroup, Duration::from_secs(5));
        let mut pause = lock(&self.pause);
        // It is dead by the cgroup; these only collect it.
        let _ = pause.kill();
        let _ = pause.wait();
    }

    /// Stops looking after the containers without ending them, for an owner who is about to kill the whole bed.
    pub(crate) fn abandon(&self) {
        self.stop.raise();
    }
}

/// Runs the init containers one after the other, then starts the others. Sidecars start in their place and stay.
fn initialise(first: Vec<(Arc<Container>, bool)>, main: Vec<Arc<Container>>, init: &Mutex<Init>) {
    for (container, stays) in first {
        if stays {
            container.start();
        } else if !container.run() {
            let reason = container.health().message.unwrap_or_default();
            lock(init).failed = Some(format!("init container {}: {reason}", container.name()));
            container.changed();
            return;
        }
    }
    lock(init).done = true;
    for container in main {
        container.start();
    }
}
