//! `meshctl x workload`: machines outside of Kubernetes, prepared for the mesh. Commands and flags are those of `istioctl x
//! workload`.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use mesh_core::machine::account_of;
use mesh_core::resource::{Object, SourceFile, Spec, WorkloadGroupSpec, parse};
use serde_json::{Value, json};

use self::cluster::Cluster;
use crate::kubeconfig::Kubeconfig;
use crate::{emit, note};

mod cluster;

/// Commands that Istio has under this name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl x workload group create --name db --namespace shop --labels app=db")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Experimental,
}

#[derive(Debug, Subcommand)]
enum Experimental {
    /// Machines outside of Kubernetes.
    #[command(
        subcommand,
        after_help = "\
Example: meshctl x workload group create --name db --namespace shop --labels app=db --serviceAccount db
         meshctl x workload entry configure -f group.yaml -o db-1"
    )]
    Workload(Workload),
}

#[derive(Debug, Subcommand)]
enum Workload {
    /// What machines of a kind have in common.
    #[command(
        subcommand,
        after_help = "Example: meshctl x workload group create --name db --namespace shop --labels app=db"
    )]
    Group(Group),
    /// One machine.
    #[command(subcommand, after_help = "Example: meshctl x workload entry configure -f group.yaml -o db-1")]
    Entry(Entry),
}

#[derive(Debug, Subcommand)]
enum Group {
    /// Print a WorkloadGroup as YAML.
    #[command(after_help = "\
Example: meshctl x workload group create --name db --namespace shop --labels app=db --ports sql=5432 \\
             --serviceAccount db | kubectl apply -f -")]
    Create(Create),
}

#[derive(Debug, Subcommand)]
enum Entry {
    /// Write the files with which a machine joins a WorkloadGroup.
    ///
    /// cluster.env has what its node is told, root-cert.pem whom it believes, istio-token whom it is, hosts where the control
    /// plane is. Anybody who has the token can be a machine of the group until it ends: keep it as you keep a password.
    #[command(after_help = "\
Example: meshctl x workload entry configure -f group.yaml -o db-1 --ingressIP 203.0.113.7
         meshctl x workload entry configure --name db --namespace shop -o db-1 --tokenDuration 600")]
    Configure(Box<Configure>),
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Its name.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Its namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: String,
    /// Labels of its machines.
    #[arg(short, long, value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Annotations of their `WorkloadEntries`.
    #[arg(short, long, value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = pair)]
    annotations: Vec<(String, String)>,
    /// Ports that they serve, by the names of a service's ports.
    #[arg(short, long, value_name = "NAME=PORT,…", value_delimiter = ',', value_parser = port)]
    ports: Vec<(String, u16)>,
    /// The service account in whose name they have their identity.
    #[arg(
        short,
        long = "serviceAccount",
        visible_alias = "service-account",
        value_name = "NAME",
        default_value = "default"
    )]
    service_account: String,
}

#[derive(Debug, clap::Args)]
struct Configure {
    /// File with the WorkloadGroup.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["name", "namespace"])]
    file: Option<PathBuf>,
    /// The WorkloadGroup's name, in the cluster.
    #[arg(long, value_name = "NAME", required_unless_present = "file", requires = "namespace")]
    name: Option<String>,
    /// Its namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Directory to write to.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// For how many seconds the token is good; a machine needs it once, and renews what it gets for it by itself.
    #[arg(
        long = "tokenDuration",
        visible_alias = "token-duration",
        value_name = "SECONDS",
        default_value_t = 3600
    )]
    token_duration: i64,
    /// The control plane, as the machine reaches it.
    /// [default: `https://istiod.NAMESPACE.svc:15012`, the namespace being that of the mesh].
    #[arg(long, value_name = "URL")]
    control: Option<String>,
    /// The address that its name stands for, where the machine's DNS does not know it.
    #[arg(long = "ingressIP", visible_alias = "ingress-ip", value_name = "IP")]
    ingress_ip: Option<IpAddr>,
    /// The address that others reach the machine at [default: the one that it reaches the control plane from].
    #[arg(long = "internalIP", visible_alias = "internal-ip", value_name = "IP")]
    internal_ip: Option<IpAddr>,
    /// A token to write in place of asking the cluster for one, as `mesh-control join create` prints it.
    #[arg(long, value_name = "FILE", requires = "root_cert", requires = "file")]
    join_token: Option<PathBuf>,
    /// The control plane's root certificates (PEM), in place of asking the cluster.
    #[arg(long, value_name = "FILE", requires = "join_token")]
    root_cert: Option<PathBuf>,
    /// The trust domain of the mesh, where the cluster is not asked.
    #[arg(
        long,
        visible_alias = "trustDomain",
        value_name = "NAME",
        default_value = "cluster.local",
        requires = "join_token"
    )]
    trust_domain: String,
    /// The namespace that the mesh is installed in.
    #[arg(
        short,
        long = "istioNamespace",
        visible_alias = "istio-namespace",
        value_name = "NAMESPACE",
        default_value = "istio-system"
    )]
    istio_namespace: String,
    /// As Istio has it; machines always register themselves here.
    #[arg(long)]
    autoregister: bool,
    #[command(flatten)]
    kubeconfig: Kubeconfig,
}

/// What a machine of a group is given.
#[derive(Debug, PartialEq, Eq)]
struct Given {
    trust_domain: String,
    roots: String,
    token: String,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Experimental::Workload(workload) = &args.command;
    match workload {
        Workload::Group(Group::Create(create)) => {
            emit(&serde_yaml_ng::to_string(&create.group())?)?;
            Ok(ExitCode::SUCCESS)
        }
        Workload::Entry(Entry::Configure(configure)) => configure.run(),
    }
}

impl Create {
    fn group(&self) -> Value {
        let map = |pairs: &[(String, String)]| pairs.iter().cloned().collect::<BTreeMap<_, _>>();
        let mut template = json!({"serviceAccount": self.service_account});
        if !self.ports.is_empty() {
            template["ports"] = json!(self.ports.iter().cloned().collect::<BTreeMap<_, _>>());
        }
        let mut spec = json!({"template": template});
        for (field, pairs) in [("labels", &self.labels), ("annotations", &self.annotations)] {
            if !pairs.is_empty() {
                spec["metadata"][field] = json!(map(pairs));
            }
        }
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "WorkloadGroup",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        })
    }
}

impl Configure {
    fn run(&self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (group, given) = match (&self.join_token, &self.root_cert) {
            (Some(token), Some(roots)) => {
                let given = Given {
                    trust_domain: self.trust_domain.clone(),
                    roots: read(roots)?,
                    token: read(token)?.trim().to_owned(),
                };
                (self.group_of_file()?.context("-f is needed")?, given)
            }
            _ => runtime.block_on(self.ask_cluster())?,
        };
        let spec = spec_of(&group)?;
        fs::create_dir_all(&self.output).with_context(|| format!("making {}", self.output.display()))?;
        let hosts =
            self.ingress_ip.map(|ip| Ok::<_, anyhow::Error>(format!("{ip} {}\n", host_of(&self.control())?)));
        let hosts = hosts.transpose()?.unwrap_or_default();
        for (name, text, mode) in [
            ("cluster.env", self.environment(&group, spec, &given.trust_domain)?, 0o644),
            ("root-cert.pem", given.roots, 0o644),
            ("istio-token", given.token, 0o600),
            ("hosts", hosts, 0o644),
        ] {
            write(&self.output.join(name), &text, mode)?;
        }
        emit(&format!("Configuration generation into directory {} was successful\n", self.output.display()))?;
        if spec.probe.as_ref().is_some_and(|probe| probe.exec.is_some()) {
            note(
                "the WorkloadGroup's probe is a command, which nodes do not run: its machines always count as well",
            );
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn ask_cluster(&self) -> Result<(Object, Given)> {
        let cluster = Cluster::of(self.kubeconfig.connect().await?.0);
        let group = match (self.group_of_file()?, &self.name, &self.namespace) {
            (Some(group), _, _) => group,
            (None, Some(name), Some(namespace)) => {
                parse_group("the cluster's WorkloadGroup", &cluster.group(namespace, name).await?)?
            }
            _ => bail!("--name and --namespace, or -f, are needed"),
        };
        let (namespace, account) = (&group.meta.namespace, account_of(&spec_of(&group)?.template));
        let given = Given {
            trust_domain: cluster.trust_domain(&self.istio_namespace).await?,
            roots: cluster.roots(namespace).await?,
            token: cluster.token(namespace, account, self.token_duration).await?,
        };
        Ok((group, given))
    }

    fn group_of_file(&self) -> Result<Option<Object>> {
        let Some(path) = &self.file else { return Ok(None) };
        parse_group(&path.display().to_string(), &read(path)?).map(Some)
    }

    /// What the machine's node is told, in the form of systemd's environment files.
    ///
    /// What a group says comes into the command line of a process of root's: it is names, or nothing.
    fn environment(&self, group: &Object, spec: &WorkloadGroupSpec, trust_domain: &str) -> Result<String> {
        let network = &spec.template.network;
        for (what, name) in [
            ("the trust domain", trust_domain),
            ("template.network of the WorkloadGroup", network),
            ("the name of the WorkloadGroup", &*group.meta.name),
            ("the namespace of the WorkloadGroup", &*group.meta.namespace),
        ] {
            if !name.is_empty() && !is_name(name) {
                bail!("{what}, {name:?}, is not a name of a-z, 0-9, - and .");
            }
        }
        let control = self.control();
        if control.contains(|c: char| c.is_whitespace() || c.is_control() || "'\"\\$`".contains(c)) {
            bail!("--control: {control:?} is no URL");
        }
        let mut options = Vec::new();
        if let Some(ip) = self.internal_ip {
            options.push(format!("--address {ip}"));
        }
        if !network.is_empty() {
            options.push(format!("--network {network}"));
        }
        let lines = [
            ("MESH_CONTROL", control),
            ("MESH_WORKLOAD_GROUP", format!("{}/{}", group.meta.namespace, group.meta.name)),
            ("MESH_TRUST_DOMAIN", trust_domain.to_owned()),
            ("MESH_ENROL", "--enrol-cgroup /sys/fs/cgroup/mesh.slice".to_owned()),
            ("MESH_OPTIONS", options.join(" ")),
        ];
        Ok(lines.map(|(name, value)| format!("{name}='{value}'\n")).concat())
    }

    fn control(&self) -> String {
        let usual = || format!("https://istiod.{}.svc:15012", self.istio_namespace);
        self.control.clone().unwrap_or_else(usual)
    }
}

fn parse_group(name: &str, text: &str) -> Result<Object> {
    let parsed = parse(&SourceFile { name, text });
    let mut groups = parsed.objects.into_iter().filter(|it| matches!(it.spec, Spec::WorkloadGroup(_)));
    match (groups.next(), groups.next()) {
        (Some(group), None) => Ok(group),
        (Some(_), Some(_)) => bail!("{name} has several WorkloadGroups: a machine joins one"),
        (None, _) => {
            let why: Vec<_> = parsed.findings.iter().map(ToString::to_string).collect();
            bail!("{name} has no WorkloadGroup that could be used; {}", why.join("; "))
        }
    }
}

fn spec_of(group: &Object) -> Result<&WorkloadGroupSpec> {
    match &group.spec {
        Spec::WorkloadGroup(spec) => Ok(spec),
        _ => bail!("{} is no WorkloadGroup", group.meta.name),
    }
}

/// Parts joined by dots, as names of DNS are.
fn is_name(text: &str) -> bool {
    let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(byte) && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_part)
}

fn host_of(url: &str) -> Result<String> {
    let uri: http::Uri = url.parse().context("--control")?;
    Ok(uri.host().context("--control has no host")?.to_owned())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// A token must never be readable by others, not even for a moment.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let failed = || format!("writing {}", path.display());
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(failed),
        _ => {}
    }
    let file = OpenOptions::new().create_new(true).write(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(failed)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

fn port(text: &str) -> Result<(String, u16), String> {
    let (name, number) = pair(text)?;
    match number.parse() {
        Ok(number @ 1..) => Ok((name, number)),
        _ => Err(format!("{number:?} is not a port: 1 to 65535")),
    }
}

#[cfg(test)]
mod tests;
