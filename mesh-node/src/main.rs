//! The binary: command line in, role out.

use std::process::ExitCode;

use clap::Parser;
use mesh_node::{
    config::{Command, Role},
    gateway, run, waypoint,
};
use mesh_proto::protocol;

fn main() -> ExitCode {
    let role = Command::parse().role;
    let result = protocol::check().map_err(Into::into).and_then(|()| match role {
        Role::Node(options) => run::node::run(*options),
        Role::Gateway(options) => gateway::run(*options),
        Role::Waypoint(options) => waypoint::run(*options),
        Role::Ready => run::ready::run(),
        Role::Enrolled(options) => run::enrolled::run(&options),
        Role::Cleanup(options) => run::cleanup::run(&options),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "mesh-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}
