//! `meshctl bug-report`: what somebody who helps has to see, in one file, without secrets.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

use self::redact::redact;
use crate::emit;
use crate::reach::{Admin, ControlPlane, Which};

mod archive;
mod redact;

/// Collect what the control plane and proxies say of themselves into one file, to be sent to somebody who helps.
///
/// Keys, tokens, passwords, cookies and the data of Secrets are taken out; names, addresses and identities are not: look at it
/// before you send it. What cannot be had is named in it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    control: ControlPlane,
    /// A proxy: its admin address; or in a cluster the name of a node, or NAMESPACE/NAME of a pod, waypoint or gateway. May be
    /// given again.
    #[arg(long, value_name = "URL|NODE|NAMESPACE/NAME")]
    proxy: Vec<Which>,
    /// The state directory of a testbed, whose logs are taken.
    #[arg(long, value_name = "DIR")]
    bed: Option<PathBuf>,
    /// Where to write it. It must not be there yet.
    #[arg(short, long, value_name = "FILE", default_value = "mesh-bug-report.tar.gz")]
    file: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut report = Report::default();
    report.add("versions.txt", &format!("meshctl {}\n", env!("CARGO_PKG_VERSION")));
    match args.control.replicas() {
        Ok(replicas) => report.ask_all("control", replicas, CONTROL),
        Err(error) => report.missing.push(format!("control: {error:#}")),
    }
    let mut proxies = Vec::new();
    for proxy in &args.proxy {
        match proxy.find(args.control.place()) {
            Ok(proxy) => proxies.push(proxy),
            Err(error) => report.missing.push(format!("{proxy:?}: {error:#}")),
        }
    }
    report.ask_all("proxy", &proxies, PROXY);
    if let Some(bed) = &args.bed {
        report.take_logs(&bed.join("logs"))?;
    }
    ensure!(report.files.len() > 1, "nobody has answered: {}", report.missing.join("; "));
    let missing = report.missing.iter().map(|line| line.clone() + "\n").collect::<String>();
    report.add("missing.txt", &missing);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let bytes = archive::pack(&report.files, time)?;
    let mut options = OpenOptions::new();
    // It names everything of the mesh: for the eyes of whoever has asked for it.
    let file = options.write(true).create_new(true).mode(0o600).open(&args.file);
    let path = args.file.display();
    file.and_then(|mut file| file.write_all(&bytes)).with_context(|| path.to_string())?;
    let (files, missing) = (report.files.len(), report.missing.len());
    emit(&format!("{path}: {files} files, {} kB; {missing} could not be had\n", bytes.len() / 1000))?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Default)]
struct Report {
    files: Vec<(String, String)>,
    missing: Vec<String>,
}

impl Report {
    fn add(&mut self, name: &str, text: &str) {
        self.files.push((format!("mesh-bug-report/{name}"), redact(text)));
    }

    /// What each of them says, and what it has logged where that can be had.
    fn ask_all(&mut self, role: &str, them: &[Admin], paths: &[(&str, &str)]) {
        for (number, one) in them.iter().enumerate() {
            // There is one control plane, as a rule, and proxies are counted.
            let is_alone = number == 0 && role == "control";
            let who = if is_alone { role.to_owned() } else { format!("{role}-{}", number + 1) };
            self.add(&format!("{who}/who.txt"), &(one.name() + "\n"));
            for (path, name) in paths {
                self.take(&format!("{who}/{name}"), one.get(path));
            }
            if let Some(log) = one.log(MAX_LOG) {
                self.take(&format!("{who}/log.txt"), log);
            }
        }
    }

    fn take(&mut self, name: &str, text: Result<String>) {
        match text {
            Ok(text) => self.add(name, &text),
            Err(error) => self.missing.push(format!("{name}: {error:#}")),
        }
    }

    fn take_logs(&mut self, directory: &Path) -> Result<()> {
        let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name: String = name.chars().take(MAX_NAME).collect();
            match super::logs::end_of(&path, MAX_LOG) {
                Ok(text) => self.add(&format!("logs/{name}"), &text),
                Err(error) => self.missing.push(format!("logs/{name}: {error:#}")),
            }
        }
        Ok(())
    }
}

/// What the control plane is asked for, and what it is called.
const CONTROL: &[(&str, &str)] = &[
    ("/version", "version.txt"),
    ("/metrics", "metrics.txt"),
    ("/debug/subscribers", "subscribers.json"),
    ("/debug/syncz", "syncz.json"),
    ("/debug/findings", "findings.json"),
    ("/api/v1/mesh", "mesh.json"),
    ("/api/v1/graph?level=workload", "graph.json"),
    ("/api/v1/workloads", "workloads.json"),
    ("/api/v1/services", "services.json"),
    ("/api/v1/policies", "policies.json"),
    ("/api/v1/problems", "problems.json"),
    ("/api/v1/nodes", "nodes.json"),
];
/// What a proxy is asked for.
const PROXY: &[(&str, &str)] = &[
    ("/state.json", "state.json"),
    ("/config_dump", "config_dump.json"),
    ("/connections", "connections.json"),
    ("/certs", "certs.json"),
    ("/ebpf", "ebpf.json"),
    ("/logging", "logging.txt"),
    ("/metrics", "metrics.txt"),
];
/// Bytes of each log, from its end.
const MAX_LOG: u64 = 4 << 20;
/// Characters of the name of a log.
const MAX_NAME: usize = 70;

const EXAMPLES: &str = "\
Example: meshctl bug-report
         meshctl bug-report --proxy http://127.0.0.1:15101 --bed /var/lib/mesh-testbed/bed -f report.tar.gz";
