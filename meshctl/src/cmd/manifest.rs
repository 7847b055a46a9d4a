//! `meshctl manifest` and `meshctl profile`: what an installation consists of, without a cluster.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Subcommand;

use crate::install::{Plan, Request, chart, defaults, schema};
use crate::{emit, note};

/// Print what `meshctl install` would apply.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: meshctl manifest generate --set profile=demo | kubectl apply --server-side -f -"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print all objects as YAML.
    #[command(after_help = "\
Example: meshctl manifest generate --set profile=demo
         meshctl manifest generate -f operator.yaml
         meshctl manifest generate --output-dir out")]
    Generate(Generate),
    /// Print the schema of the chart's values, for `cargo xtask manifests`.
    #[command(hide = true, after_help = "Example: meshctl manifest schema")]
    Schema,
}

#[derive(Debug, clap::Args)]
struct Generate {
    #[command(flatten)]
    wish: Wish,
    /// Write a file for each template into this directory, with comments, and without the definitions of kinds.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

/// What an installation is to be like.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Wish {
    /// A file: an `IstioOperator`, or values of the chart. May be given several times; - is standard input.
    #[arg(short, long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A value, as in profile=demo. May be given several times.
    #[arg(short, long = "set", value_name = "PATH=VALUE")]
    sets: Vec<String>,
}

/// Show the profiles that an installation can begin with.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: meshctl profile dump demo")]
pub(crate) struct ProfileArgs {
    #[command(subcommand)]
    command: ProfileCommand,
}

#[derive(Debug, Subcommand)]
enum ProfileCommand {
    /// List their names.
    #[command(after_help = "Example: meshctl profile list")]
    List,
    /// Print all values of one.
    #[command(after_help = "Example: meshctl profile dump ambient")]
    Dump {
        /// Its name.
        #[arg(default_value = "default")]
        name: String,
    },
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Command::Generate(Generate { wish, output_dir }) = &args.command else {
        emit(&format!("{}\n", serde_json::to_string_pretty(&schema()?)?))?;
        return Ok(ExitCode::SUCCESS);
    };
    let plan = wish.plan()?;
    match output_dir {
        Some(directory) => write(&plan, directory)?,
        None => emit(&as_yaml(&plan)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `meshctl profile`.
pub(crate) fn run_profile(args: &ProfileArgs) -> Result<ExitCode> {
    match &args.command {
        ProfileCommand::List => {
            let first =
                |text: &str| text.lines().next().unwrap_or_default().trim_start_matches("# ").to_owned();
            let lines = chart::PROFILES.iter().fold(String::new(), |mut lines, (name, text)| {
                // Writing to a string does not fail.
                let _ = writeln!(lines, "{name:<9}{}", first(text));
                lines
            });
            emit(&lines)?;
        }
        ProfileCommand::Dump { name } => emit(&serde_yaml_ng::to_string(&defaults(name)?)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Wish {
    /// What comes of it; what has no effect is told.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let read = |path: &PathBuf| {
            let name = path.display().to_string();
            let text = if name == "-" {
                std::io::read_to_string(std::io::stdin())
            } else {
                std::fs::read_to_string(path)
            };
            text.map(|text| (name.clone(), text)).with_context(|| format!("{name} cannot be read"))
        };
        let files = self.files.iter().map(read).collect::<Result<_>>()?;
        let plan = Request { files, sets: self.sets.clone() }.plan()?;
        plan.warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
        Ok(plan)
    }
}

fn as_yaml(plan: &Plan) -> Result<String> {
    let mut text = String::new();
    for object in &plan.objects {
        text.push_str("---\n");
        text.push_str(&serde_yaml_ng::to_string(&object.value)?);
    }
    Ok(text)
}

fn write(plan: &Plan, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    for (name, text) in plan.texts.iter().filter(|(_, text)| !text.trim().is_empty()) {
        let path = directory.join(format!("{name}.yaml"));
        let text = format!("{}\n", text.trim_start_matches("---\n").trim_end());
        std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(())
}
