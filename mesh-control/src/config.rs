//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use mesh_ca::authorize::NodeName;
use mesh_core::gateway_api::Settings;
use mesh_core::id::{SpiffeId, TrustDomain};
use mesh_core::resource::value::time;
use serde::Serialize;

/// The control plane of the mesh: follows resources, serves discovery and certificates.
///
/// Example: mesh-control --config /etc/mesh/config --state /var/lib/mesh-control
#[derive(Debug, Parser)]
#[command(name = "mesh-control", version, about, long_about = None, args_conflicts_with_subcommands = true)]
pub struct Command {
    /// Something else than to serve.
    #[command(subcommand)]
    pub task: Option<Task>,
    /// How to serve.
    #[command(flatten)]
    pub options: Options,
}

/// What the binary can do besides serving.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// The certificate authority.
    #[command(subcommand)]
    Ca(CaCommand),
    /// Tokens with which machines outside of Kubernetes join the mesh.
    Join {
        /// Where the tokens are kept.
        #[command(flatten)]
        keep: Keep,
        /// What to do.
        #[command(subcommand)]
        command: JoinCommand,
    },
}

/// What can be done with the certificate authority.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Change the root, one step at a time: every peer trusts the new root before anything is signed with it, and the
    /// old one until nothing signed with it is left.
    ///
    /// Example: mesh-control ca rotate begin --state /var/lib/mesh-control
    Rotate(RotateOptions),
}

/// A step of a change of the root, and of which CA.
#[derive(Debug, Args)]
pub struct RotateOptions {
    /// What to do.
    #[arg(value_enum)]
    pub step: RotateStep,
    /// Where the CA is kept.
    #[command(flatten)]
    pub keep: Keep,
    /// Trust domain of the CA.
    #[arg(long, default_value = "cluster.local", value_parser = TrustDomain::parse)]
    pub trust_domain: TrustDomain,
    /// Longest lifetime of a certificate, as the serving process has it: no step comes sooner.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = time)]
    pub max_svid_lifetime: Duration,
    /// How long a change may take to reach everybody, at least 6s: nobody may be away for longer between two steps.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = propagation)]
    pub propagation: Duration,
}

/// A step of a change of the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RotateStep {
    /// Make a new root and have it trusted.
    Begin,
    /// Sign with the new root.
    Switch,
    /// Remove the old root.
    Finish,
    /// Take back what was begun.
    Abort,
    /// Say how far it has come.
    Status,
}

/// What can be done with join tokens.
#[derive(Debug, Subcommand)]
pub enum JoinCommand {
    /// Make a token and print it; nobody will see it again.
    ///
    /// Example: mesh-control join create --node node-1 --uses 1 --lifetime 1h
    ///
    /// Example: mesh-control join create --identity `spiffe://cluster.local/ns/edge/sa/shop`
    Create(TokenTerms),
    /// List the tokens that are still good.
    List,
    /// Make a token good for nothing.
    Revoke {
        /// As listed.
        id: String,
    },
}

/// What a token is good for.
#[derive(Debug, Args)]
pub struct TokenTerms {
    /// The node that joins with it.
    #[arg(long, value_parser = NodeName::parse, conflicts_with = "identity", required_unless_present = "identity")]
    pub node: Option<NodeName>,
    /// In place of a node, the identity of a gateway or another workload, for example
    /// `spiffe://cluster.local/ns/edge/sa/shop`.
    #[arg(long, value_parser = SpiffeId::parse)]
    pub identity: Option<SpiffeId>,
    /// How many times it lets somebody in.
    #[arg(long, default_value_t = 1)]
    pub uses: u32,
    /// For how long, for example 24h, 90m or 30s.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time)]
    pub lifetime: Duration,
}

/// Where the certificate authority and join tokens are kept.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Keep {
    /// Directory of the state.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE, global = true)]
    pub state: PathBuf,
    /// In place of a directory, use Secrets of the cluster that this process runs in, or that KUBECONFIG names.
    #[arg(long, global = true)]
    pub kubernetes: bool,
    /// The namespace of these Secrets.
    #[arg(long, default_value = "istio-system", global = true)]
    pub root_namespace: String,
}

/// How to serve.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Directory of Kubernetes YAML to follow.
    #[arg(long, value_name = "DIR", conflicts_with = "kubernetes", required_unless_present = "kubernetes")]
    pub config: Option<PathBuf>,
    /// Follow the cluster that this process runs in, or that KUBECONFIG names.
    #[arg(long)]
    pub kubernetes: bool,
    /// Directory for what must survive a restart: the certificate authority and join tokens. With --kubernetes they are
    /// in Secrets, and nothing is kept here.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    pub state: PathBuf,
    /// Where discovery and certificates are served over TLS.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15012")]
    pub grpc: SocketAddr,
    /// Where discovery is served without protection.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15010")]
    pub plain: SocketAddr,
    /// Where metrics and what subscribers know are served.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15014")]
    pub monitoring: SocketAddr,
    /// Where the API server asks whether an object may be written, with --kubernetes.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15017")]
    pub webhook: SocketAddr,
    /// Names and addresses that clients know this control plane by, beside the usual ones.
    #[arg(long = "serve-as", value_name = "NAME")]
    pub names: Vec<String>,
    /// Trust domain of all identities.
    #[arg(long, default_value = "cluster.local", value_parser = TrustDomain::parse)]
    pub trust_domain: TrustDomain,
    /// Namespace of mesh-wide configuration.
    #[arg(long, default_value = "istio-system")]
    pub root_namespace: String,
    /// The cluster's name, as telemetry shows it.
    #[arg(long, default_value = "Kubernetes")]
    pub cluster: String,
    /// Longest lifetime of a certificate, for example 24h, 90m or 30s.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = time)]
    pub max_svid_lifetime: Duration,
    /// How long the WorkloadEntry of a machine that has registered itself stays after the machine has gone.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub machine_grace: Duration,
    /// Image of the pods that are made for Gateways and waypoints, with --kubernetes.
    #[arg(long, value_name = "IMAGE", default_value = concat!("mesh:", env!("CARGO_PKG_VERSION")))]
    pub gateway_image: String,
    /// What is logged on standard error, as a tracing filter.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// What the mesh page links to.
    #[command(flatten)]
    pub page: PageOptions,
}

/// What the mesh page links to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize)]
pub struct PageOptions {
    /// Where Kiali is, for the mesh page to link to, for example `http://localhost:20001/kiali`.
    #[arg(long, value_name = "URL", value_parser = link)]
    pub kiali: Option<String>,
    /// Where Grafana is, for the mesh page to link to.
    #[arg(long, value_name = "URL", value_parser = link)]
    pub grafana: Option<String>,
    /// Where Jaeger or another page of traces is, for the mesh page to link to.
    #[arg(long, value_name = "URL", value_parser = link)]
    pub jaeger: Option<String>,
}

impl Options {
    /// What the pods of Gateways have in common: they find this control plane by its Service.
    pub fn gateways(&self) -> Settings {
        Settings {
            image: self.gateway_image.clone(),
            control: format!("https://mesh-control.{}.svc:{SERVED}", self.root_namespace),
            trust_domain: self.trust_domain.to_string(),
        }
    }

    /// Where the certificate authority and join tokens are kept.
    pub fn keep(&self) -> Keep {
        let Self { state, kubernetes, root_namespace, .. } = self;
        Keep { state: state.clone(), kubernetes: *kubernetes, root_namespace: root_namespace.clone() }
    }

    /// Names and addresses that clients may know this control plane by: those of its Services, Istio's for it, this
    /// machine's, and those that the user adds.
    pub fn serving_names(&self) -> Vec<String> {
        let services = ["mesh-control", "istiod"].into_iter().flat_map(|name| {
            [format!("{name}.{}.svc", self.root_namespace), format!("{name}.{}", self.root_namespace)]
        });
        let here = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        services.chain(here).chain(self.names.iter().cloned()).collect()
    }
}

/// A [`time`] in which a serving process has looked at its CA, and told everybody who listens.
fn propagation(text: &str) -> Result<Duration, String> {
    let propagation = time(text)?;
    let enough = propagation >= LEAST_PROPAGATION;
    enough.then_some(propagation).ok_or_else(|| format!("at least {} s", LEAST_PROPAGATION.as_secs()))
}

/// An address that a page may lead to: never one that a browser would run.
fn link(text: &str) -> Result<String, String> {
    let uri: http::Uri = text.parse().map_err(|error| format!("not an address: {error}"))?;
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    is_web.then(|| uri.to_string()).ok_or_else(|| "begins with http:// or https://".to_owned())
}

/// A serving process looks at its CA's files each 5 s.
const LEAST_PROPAGATION: Duration = Duration::from_secs(6);
/// The port of the Service, see `deploy/manifests`.
const SERVED: u16 = 15012;
const DEFAULT_STATE: &str = "/var/lib/mesh-control";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Command::command().debug_assert();
    }

    #[test]
    fn one_source_is_needed_and_one_only() {
        let parse = |args: &[&str]| Command::try_parse_from(["mesh-control"].iter().chain(args));
        assert!(parse(&["--config", "d"]).is_ok());
        assert!(parse(&["--kubernetes"]).is_ok());
        assert!(parse(&[]).is_err());
        assert!(parse(&["--config", "d", "--kubernetes"]).is_err());
        assert!(parse(&["--config", "d", "--kiali", "http://localhost:20001/kiali"]).is_ok());
        assert!(parse(&["--config", "d", "--kiali", "javascript:alert(1)"]).is_err());
        assert!(parse(&["join", "create", "--node", "n1"]).is_ok());
        assert!(parse(&["ca", "rotate", "status"]).is_ok());
    }

    #[test]
    fn commands_find_the_same_place_as_the_process_that_serves() {
        let parse = |args: &[&str]| Command::try_parse_from(["mesh-control"].iter().chain(args)).unwrap();
        for flags in [&["--state", "s"][..], &["--kubernetes", "--root-namespace", "mesh"], &[]] {
            let source: &[&str] = if flags.contains(&"--kubernetes") { &[] } else { &["--config", "c"] };
            let serves = parse(&[source, flags].concat()).options.keep();
            let Some(Task::Join { keep, .. }) = parse(&[&["join", "list"], flags].concat()).task else {
                panic!()
            };
            assert_eq!(keep, serves);
            let rotates = parse(&[&["ca", "rotate", "status"], flags].concat()).task;
            let Some(Task::Ca(CaCommand::Rotate(options))) = rotates else { panic!() };
            assert_eq!(options.keep, serves);
        }
    }
}
