//! What the mesh tells about itself, as those who look at it take it: collectors of spans, Prometheus, and the access log.
//! Gateways are processes of this machine; nodes need a bed, and so root.

mod bed;
mod dashboards;
mod gateway;
mod logs;
mod meshctl;
mod prometheus;
mod streams;

use mesh_tests::edge::process;
