//! `mesh-control`: the control plane's process.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use mesh_control::config::{CaCommand, Command, JoinCommand, Task};
use mesh_control::run;
use mesh_proto::protocol;

fn main() -> ExitCode {
    let command = Command::parse();
    let outcome = match command.task {
        None => protocol::check().map_err(Into::into).and_then(|()| run::serve(command.options)),
        Some(Task::Ca(CaCommand::Rotate(options))) => run::rotate(&options),
        Some(Task::Join { keep, command }) => match command {
            JoinCommand::Create(terms) => run::create_token(&keep, &terms),
            JoinCommand::List => run::list_tokens(&keep),
            JoinCommand::Revoke { id } => run::revoke_token(&keep, &id),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("mesh-control: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the reason why the process ends, where people look for it")]
fn say(text: &str) {
    eprintln!("{text}");
}
