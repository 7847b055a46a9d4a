//! `demo`: the main job of the mesh on one machine, told step by step.

use std::process::ExitCode;

use clap::Parser;
use mesh_tests::demo::{self, Options};

fn main() -> ExitCode {
    demo::run(&Options::parse())
}
