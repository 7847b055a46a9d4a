//! `helloworld`: the sample service that says hello, and in which version.

use std::net::TcpListener;

use anyhow::{Context, Result};
use clap::Parser;
use mesh_tests::http::{self, Request, Response};

/// Answers /hello with its version and the name of its pod.
#[derive(Debug, Parser)]
#[command(name = "helloworld", after_help = "Example: helloworld --version v2")]
struct Cli {
    /// What to call oneself.
    #[arg(long, default_value = "v1")]
    version: String,
    /// Where to listen, on all addresses.
    #[arg(long, default_value_t = 5000)]
    port: u16,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let pod = std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned());
    let greeting = format!("Hello version: {}, instance: {pod}\n", cli.version);
    let listener = TcpListener::bind(("::", cli.port)).or_else(|_| TcpListener::bind(("0.0.0.0", cli.port)));
    let listener = listener.with_context(|| format!("cannot listen on port {}", cli.port))?;
    http::serve(&listener, |request: &Request| match request.path() {
        "/hello" => Response::new(200, "text/html; charset=utf-8", greeting.clone()),
        "/health" => Response::new(200, "text/html; charset=utf-8", "Helloworld is healthy\n"),
        _ => Response::new(404, "text/html; charset=utf-8", "Not found\n"),
    });
    Ok(())
}
