//! `meshctl`: the user's command line. It tells what is wrong with resources before anything acts on them, and how far
//! the mesh is with those it has; and it looks after waypoints.
//!
//! Exit codes: 0 for success; 1 for findings at or above the threshold, and for what could not be done; 2 for a command
//! line that cannot be understood.
#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

mod cmd;
mod http;
mod install;
mod kubeconfig;
mod output;
mod reach;
mod table;

/// The command line of the mesh.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, after_help = "Example: meshctl analyze deploy/samples/bookinfo")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Analyze(cmd::analyze::Args),
    Authz(cmd::authz::Args),
    BugReport(cmd::bug_report::Args),
    Completion(cmd::completion::Args),
    Config(cmd::config::Args),
    Dashboard(cmd::dashboard::Args),
    Describe(cmd::describe::Args),
    LogLevel(cmd::log_level::Args),
    Logs(cmd::logs::Args),
    Install(cmd::install::Args),
    Manifest(cmd::manifest::Args),
    Profile(cmd::manifest::ProfileArgs),
    ProxyStatus(cmd::status::Args),
    Top(cmd::top::Args),
    Trace(cmd::trace::Args),
    Uninstall(cmd::install::UninstallArgs),
    Upgrade(cmd::install::UpgradeArgs),
    Version(cmd::version::Args),
    Waypoint(cmd::waypoint::Args),
    #[command(name = "x", visible_alias = "experimental")]
    X(cmd::workload::Args),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Analyze(args) => cmd::analyze::run(&args),
        Command::Authz(args) => cmd::authz::run(&args),
        Command::BugReport(args) => cmd::bug_report::run(&args),
        Command::Completion(args) => cmd::completion::run(&args, &mut Arguments::command()),
        Command::Config(args) => cmd::config::run(&args),
        Command::Dashboard(args) => cmd::dashboard::run(&args),
        Command::Describe(args) => cmd::describe::run(&args),
        Command::LogLevel(args) => cmd::log_level::run(&args),
        Command::Logs(args) => cmd::logs::run(&args),
        Command::Install(args) => cmd::install::run(&args),
        Command::Manifest(args) => cmd::manifest::run(&args),
        Command::Profile(args) => cmd::manifest::run_profile(&args),
        Command::Top(args) => cmd::top::run(&args),
        Command::Trace(args) => cmd::trace::run(&args),
        Command::ProxyStatus(args) => cmd::status::run(&args),
        Command::Uninstall(args) => cmd::install::run_uninstall(&args),
        Command::Upgrade(args) => cmd::install::run_upgrade(&args),
        Command::Version(args) => cmd::version::run(&args),
        Command::Waypoint(args) => cmd::waypoint::run(&args),
        Command::X(args) => cmd::workload::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        note(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}

/// Writes what was asked for. A reader that has seen enough (`| head`) is no failure.
fn emit(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Tells the user something beside what was asked for.
#[expect(clippy::print_stderr, reason = "where a command line tells what is not its output")]
fn note(text: &str) {
    eprintln!("meshctl: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        let mut command = Arguments::command();
        command.build();
        check_examples(&mut command);
    }

    fn check_examples(command: &mut clap::Command) {
        for command in command.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example: meshctl "), "{}: {help}", command.get_name());
            check_examples(command);
        }
    }
}
