//! `httpbin`: the sample service that does as the path of a request says.

use std::net::TcpListener;

use anyhow::{Context, Result};
use clap::Parser;
use mesh_tests::http;
use mesh_tests::httpbin::{App, DEFAULT_PORT};

/// Answers as the path says: /get, /headers, /anything/…, /hostname, /status/CODE, /delay/SECONDS, /websocket/echo.
#[derive(Debug, Parser)]
#[command(name = "httpbin", after_help = "Example: httpbin --port 8080")]
struct Cli {
    /// Where to listen, on all addresses.
    #[arg(long, default_value_t = DEFAULT_PORT)]
    port: u16,
    /// Answer everything with this status, as a broken pod does.
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(200..=599))]
    always: Option<u16>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let pod = std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned());
    let app = App { pod, always: cli.always };
    let listener = TcpListener::bind(("::", cli.port)).or_else(|_| TcpListener::bind(("0.0.0.0", cli.port)));
    let listener = listener.with_context(|| format!("cannot listen on port {}", cli.port))?;
    http::serve(&listener, |request| app.answer(request));
    Ok(())
}
