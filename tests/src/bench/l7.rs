//! The bench of layer 7: the gateway beside nginx, `HAProxy` and Envoy, and a node with routes beside one without,
//! and beside a waypoint with the same. And answers of DNS.
//!
//! Every proxy has one thread on the same processor, load and origin share another one, and all of them take turns in
//! the same run. The configurations are generated from one description, and before anything is measured each proxy is
//! asked whether it does what the description says. Where load and origin are the limit, proxies differ in processor
//! time only; `direct` shows that limit.

use anyhow::Result;

use self::subject::Subject as Case;
use super::{Failure, Outcome, Plan};

mod config;
mod contest;
mod contestant;
pub(super) mod demand;
mod load;
mod machine;
mod names;
mod node;
mod subject;
mod table;

pub use self::subject::Subject;

/// Measures one case; what keeps everybody from being measured is held against the mesh.
pub(super) fn run(case: Case, plan: &Plan, tell: &mut dyn FnMut(&str), outcome: &mut Outcome) {
    if let Err(reason) = measure(case, plan, tell, outcome) {
        let (case, system) = (case.to_string(), "mesh".to_owned());
        outcome.fail(Failure { case, system, reason }, tell);
    }
}

fn measure(case: Case, plan: &Plan, tell: &mut dyn FnMut(&str), outcome: &mut Outcome) -> Result<()> {
    machine::check_tools()?;
    match case {
        Case::Names => names::run(plan, tell, outcome),
        Case::Node | Case::Waypoint => node::run(case, plan, tell, outcome),
        _ => contest::run(case, plan, tell, outcome),
    }
}
