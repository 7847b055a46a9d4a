//! `torture`: the two ends of the torture suite, for the pods of a bed.

use std::net::IpAddr;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mesh_tests::torture::{self, Plan, Side};

/// Plays the cases of the torture suite and reports each flow as a line of JSON.
#[derive(Debug, Parser)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Accept, and do what each client's case says; `ready` is the first line.
    ///
    /// Example: torture serve
    Serve,
    /// Connect, for each flow of a plan.
    ///
    /// Example: torture run 10.244.1.3 both-ways io-uring bytes-4711 --repeat 4 --at-once 8
    Run(Plan),
    /// Connect and leave without a word.
    ///
    /// Example: torture knock 10.244.1.3 --times 100
    Knock {
        /// The server's address.
        server: IpAddr,
        /// How often.
        #[arg(long, default_value_t = 1)]
        times: u32,
    },
    /// Go on with the connection on standard input; what `serve` and `run` call.
    Inherit {
        /// Name of the case.
        case: String,
        /// Number of the flow.
        flow: u32,
        /// Which end of it.
        #[arg(value_enum)]
        side: Side,
    },
}

fn main() -> Result<()> {
    match Command::parse().verb {
        Verb::Serve => torture::serve(),
        Verb::Run(plan) => torture::run(&plan),
        Verb::Knock { server, times } => torture::knock(server, times),
        Verb::Inherit { case, flow, side } => torture::inherit(&case, flow, side),
    }
}
