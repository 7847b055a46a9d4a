//! `bookinfo`: one of the four services of the sample application.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use mesh_tests::bookinfo::{self, App, DEFAULT_PORT, Peers, Role, Stars};

/// The Bookinfo sample application: productpage asks details and reviews, reviews asks ratings.
#[derive(Debug, Parser)]
#[command(name = "bookinfo", after_help = "Example: bookinfo reviews --version v3")]
struct Cli {
    /// productpage, details, reviews or ratings.
    role: Role,
    /// Of reviews: v1 shows no stars, v2 black ones, v3 red ones. The others are the same in all versions.
    #[arg(long, default_value = "v1")]
    version: Stars,
    /// Where to listen, on all addresses.
    #[arg(long, default_value_t = DEFAULT_PORT)]
    port: u16,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let variable = |name: &str| std::env::var(name).ok();
    let pod = variable("HOSTNAME").unwrap_or_else(|| "unknown".to_owned());
    let app = App::new(cli.role, cli.version, Peers::from_environment(variable), pod);
    bookinfo::run(&app, cli.port).with_context(|| format!("cannot listen on port {}", cli.port))?;
    Ok(ExitCode::SUCCESS)
}
