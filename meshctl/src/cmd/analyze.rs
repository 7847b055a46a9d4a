//! `meshctl analyze`: what is wrong with resources, before they are applied and after.

use std::fmt::{Display, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use mesh_core::analyze::{self, Message, Options, analyzers};
use mesh_core::resource::{Level, Object, Parsed};

use self::cluster::Access;
use self::read::Input;
use self::suppress::Suppression;
use crate::{emit, note, reach};

mod cluster;
pub(super) mod read;
mod show;
mod suppress;

/// Analyze resources and print what is wrong with them.
///
/// Reads Kubernetes YAML or JSON, any number of documents per file, as `kubectl apply` takes it. Each file is checked
/// by itself, then all objects together. Codes, names and levels are those of `istioctl analyze`.
///
/// With --kubernetes, what is in a cluster is analyzed, and files as if they had been applied to it. Nothing is written.
///
/// One line per finding: `FILE:DOC LEVEL [CODE] field.path: reason (hint)`, with `KIND NAMESPACE/NAME` in place of
/// `FILE:DOC` for what is in the cluster. The exit code is 1 if a finding is at or above the failure threshold.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
pub(crate) struct Args {
    /// Files, directories, or - for standard input.
    #[arg(value_name = "PATH", required_unless_present_any = ["list_analyzers", "kubernetes", "kubeconfig", "context"])]
    paths: Vec<PathBuf>,
    /// Also read the directories within directories.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// How findings are printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", ignore_case = true)]
    output: Format,
    /// Level from which on findings make the command fail.
    #[arg(long, value_name = "LEVEL", default_value = "Error", ignore_case = true)]
    failure_threshold: Threshold,
    /// Level from which on findings are printed.
    #[arg(long, value_name = "LEVEL", default_value = "Info", ignore_case = true)]
    output_threshold: Threshold,
    /// Leave out a code for some objects: CODE=KIND NAME[.NAMESPACE], where * stands for any text. Can be repeated.
    #[arg(short = 'S', long, value_name = "CODE=OBJECT")]
    suppress: Vec<Suppression>,
    /// Only print findings about objects of this namespace.
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// Print findings about objects of all namespaces, which is the default.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Namespace of mesh-wide configuration.
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system")]
    root_namespace: String,
    /// Also tell, on standard error, what the mesh does not use.
    #[arg(short, long)]
    verbose: bool,
    /// List the analyzers and do nothing else.
    #[arg(short = 'L', long)]
    list_analyzers: bool,
    /// Analyze the cluster that kubectl would talk to, with the files on top of it.
    #[arg(short = 'k', long, visible_alias = "use-kube", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    kubernetes: Option<bool>,
    /// Kubeconfig to find the cluster in; implies --kubernetes.
    #[arg(short = 'c', long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; implies --kubernetes.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// `FILE:DOC LEVEL [CODE] field.path: reason (hint)`
    Text,
    /// A list of objects.
    Json,
    /// `LEVEL [CODE] (KIND NAMESPACE/NAME FILE:DOC) field.path: reason (hint)`
    Log,
}

/// Where a command reads the configuration. Without any of this: what the control plane on this machine reads, if there is one
/// that reads files; else the cluster that kubectl would talk to.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// The file or directory to read.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubernetes", "kubeconfig", "context"])]
    config: Option<PathBuf>,
    /// Read the cluster that kubectl would talk to.
    #[arg(short = 'k', long)]
    kubernetes: bool,
    /// Kubeconfig to find the cluster in; implies --kubernetes.
    #[arg(short = 'c', long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; implies --kubernetes.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Namespace of mesh-wide configuration.
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system")]
    pub(super) root_namespace: String,
}

/// The objects there.
pub(super) fn load(source: &Source) -> Result<Vec<Object>> {
    let Source { config, kubernetes, kubeconfig, context, root_namespace } = source;
    let is_said = *kubernetes || kubeconfig.is_some() || context.is_some();
    let files = config.clone().or_else(|| if is_said { None } else { reach::followed_here() });
    if let Some(files) = files {
        if config.is_none() {
            note(&format!("reading {}, as the control plane on this machine does", files.display()));
        }
        return Ok(read::all(&[files], true)?.parsed.objects);
    }
    let access = Access { kubeconfig: kubeconfig.as_deref(), context: context.as_deref() };
    let options = Options { root_namespace: root_namespace.clone(), ..Options::default() };
    let read = cluster::with_files(&access, &Parsed::default(), &options);
    let read = if is_said {
        read
    } else {
        read.context("there is no --config, and no control plane on this machine that reads files")
    };
    Ok(read?.objects)
}

/// A level, as users name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Threshold {
    /// Nothing is wrong, but something could be better.
    #[value(name = "Info")]
    Info,
    /// It applies, but probably not as intended.
    #[value(name = "Warning")]
    Warning,
    /// It is refused, or does not work.
    #[value(name = "Error")]
    Error,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.list_analyzers {
        emit(&lines(analyzers()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let input = read::all(&args.paths, args.recursive)?;
    for skipped in &input.skipped {
        note(&format!("{}: a directory within a directory is only read with -R", skipped.display()));
    }
    for suppression in args.suppress.iter().filter(|suppression| !suppression.is_known()) {
        note(&format!("there is no code {}: its suppression has no effect", suppression.code()));
    }
    let access = args.access();
    if access.is_none() && args.paths.is_empty() {
        bail!("name files or directories to analyze, or --kubernetes");
    }
    let mut options = Options { root_namespace: args.root_namespace.clone(), ..Options::default() };
    let input = match &access {
        None => input,
        Some(access) => {
            // Every Secret that the analysis asks for is looked for.
            options.secrets_are_complete = true;
            Input { parsed: cluster::with_files(access, &input.parsed, &options)?, ..input }
        }
    };
    if args.verbose {
        let unused = input.parsed.findings.iter().filter(|finding| finding.level == Level::Info);
        unused.for_each(|finding| note(&finding.to_string()));
    }
    let mut messages = analyze::analyze(&input.parsed, &options);
    messages.retain(|message| args.is_wanted(message));
    let failed = messages.iter().any(|message| message.level() >= args.failure_threshold.level());
    messages.retain(|message| message.level() >= args.output_threshold.level());
    emit(&match args.output {
        Format::Json => show::json(&messages)?,
        _ if messages.is_empty() && !failed => clean(&input, access.is_some()),
        Format::Text => lines(&messages),
        Format::Log => lines(messages.iter().map(show::log)),
    })?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// One line each.
fn lines(items: impl IntoIterator<Item = impl Display>) -> String {
    items.into_iter().fold(String::new(), |mut text, item| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{item}");
        text
    })
}

fn clean(input: &Input, has_cluster: bool) -> String {
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let objects = count(input.parsed.objects.len(), "object");
    let place = match (has_cluster, count(input.files, "file")) {
        (false, files) => files,
        (true, _) if input.files == 0 => "the cluster".to_owned(),
        (true, files) => format!("the cluster and {files}"),
    };
    format!("No validation issues found: {objects} in {place}.\n")
}

impl Args {
    /// The cluster to analyze, if there is one to be.
    fn access(&self) -> Option<Access<'_>> {
        let Self { kubernetes, kubeconfig, context, .. } = self;
        let wanted = kubernetes.unwrap_or(kubeconfig.is_some() || context.is_some());
        wanted.then_some(Access { kubeconfig: kubeconfig.as_deref(), context: context.as_deref() })
    }

    fn is_wanted(&self, message: &Message) -> bool {
        let Some(key) = &message.key else { return true };
        let place = if key.kind == "Namespace" { &key.name } else { &key.namespace };
        self.namespace.as_deref().is_none_or(|namespace| namespace == &**place)
            && !self.suppress.iter().any(|suppression| suppression.covers(message.code, key))
    }
}

impl Threshold {
    fn level(self) -> Level {
        match self {
            Self::Info => Level::Info,
            Self::Warning => Level::Warning,
            Self::Error => Level::Error,
        }
    }
}

const EXAMPLES: &str = "\
Example: meshctl analyze my-app.yaml
         meshctl analyze -R deploy/ -o json
         meshctl analyze --kubernetes --context staging -n shop
         meshctl analyze -k new-policy.yaml
         kustomize build | meshctl analyze - --failure-threshold Warning
         meshctl analyze deploy/ --suppress \"IST0102=Namespace outside\" -S \"IST0118=Service *.default\"";
