//! `meshctl log-level`: how much a proxy says, while it runs.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::emit;
use crate::reach::Proxy;

/// Show the log levels of a proxy, or change them; they are as before when it starts again.
///
/// Asks the admin port of a node, a waypoint or a gateway, as `meshctl config` does.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A level for everything, levels of parts (`mesh_node::l4=debug`), several with commas between; or reset.
    #[arg(value_name = "LEVELS", value_parser = levels)]
    levels: Option<String>,
    #[command(flatten)]
    proxy: Proxy,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let proxy = args.proxy.find()?;
    let answer = match &args.levels {
        Some(levels) => proxy.post(&format!("/logging?level={levels}")).context("asking the proxy")?,
        None => proxy.get("/logging").context("asking the proxy")?,
    };
    // What follows explains the port, not the levels.
    let now = answer.lines().next().unwrap_or_default();
    emit(&format!("{}\n", crate::table::one_line(now)))?;
    Ok(ExitCode::SUCCESS)
}

/// Of letters that mean nothing else in a question.
fn levels(text: &str) -> Result<String, String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '=' | ',');
    if !text.is_empty() && text.chars().all(is_fine) {
        return Ok(text.replace('=', "%3d"));
    }
    Err("no levels: write info, or mesh_node::l4=debug, or several with commas between".to_owned())
}

const EXAMPLES: &str = "\
Example: meshctl log-level
         meshctl log-level info,mesh_node::l4=debug --proxy http://127.0.0.1:15101
         meshctl log-level reset";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_mean_nothing_else_in_a_question() {
        assert_eq!(levels("info").unwrap(), "info");
        assert_eq!(levels("info,mesh_node::l4=debug").unwrap(), "info,mesh_node::l4%3ddebug");
        assert_eq!(levels("reset").unwrap(), "reset");
        for bad in ["", "info&x=1", "a b", "info#", "info?", "a%20b", "info\r\nhost: x", "[span{x=1}]=trace"]
        {
            assert!(levels(bad).is_err(), "{bad:?}");
        }
    }
}
