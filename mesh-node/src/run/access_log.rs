//! The access log as `MeshConfig` wants it.

use std::sync::Arc;

use mesh_core::model::Snapshot;
use mesh_core::resource::mesh_config::MeshConfig;
use mesh_core::resource::mesh_config::settings::AccessLogEncoding;
use tokio::sync::watch;
use tracing::warn;

use super::tasks;
use crate::report::{AccessFormat, AccessLogFormat, FormatError, Reporter, name_unknown};

/// Keeps the access log as the mesh's settings have it, until the process ends. `given` is what the command line says,
/// which counts more.
pub fn start(
    reporter: &Arc<Reporter>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    given: Option<AccessLogFormat>,
) {
    tasks::spawn_local("access log", follow(Arc::clone(reporter), snapshots, given));
}

async fn follow(
    reporter: Arc<Reporter>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    given: Option<AccessLogFormat>,
) {
    if given.is_some() {
        return;
    }
    let mut known = Arc::<MeshConfig>::default();
    loop {
        let mesh = Arc::clone(snapshots.borrow_and_update().mesh());
        if !Arc::ptr_eq(&mesh, &known) {
            apply(&reporter, &mesh);
            known = mesh;
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

fn apply(reporter: &Reporter, mesh: &MeshConfig) {
    let file = mesh.access_log_file.as_deref().filter(|file| !file.is_empty());
    reporter.set_access_log_file(file.is_some());
    if let Some(file) = file.filter(|file| *file != STANDARD_OUTPUT) {
        warn!(file, "accessLogFile: the access log goes to standard output, not to a file.");
    }
    let (lines, requests) = formats(mesh);
    reporter.set_access_log(lines);
    match requests.transpose() {
        Ok(format) => {
            format.iter().for_each(|it| name_unknown(it, "accessLogFormat"));
            reporter.set_request_log(format);
        }
        Err(error) => warn!(%error, "accessLogFormat is not used: it cannot be read."),
    }
}

/// How lines are written, and the format of those about requests if it is not the usual one.
fn formats(mesh: &MeshConfig) -> (AccessLogFormat, Option<Result<AccessFormat, FormatError>>) {
    let own = Some(&*mesh.access_log_format).filter(|format| !format.trim().is_empty());
    match mesh.access_log_encoding {
        AccessLogEncoding::Text => (AccessLogFormat::Text, own.map(AccessFormat::parse)),
        AccessLogEncoding::Json => (AccessLogFormat::Json, own.map(AccessFormat::parse_json)),
    }
}

const STANDARD_OUTPUT: &str = "/dev/stdout";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_and_the_format_are_the_meshs() {
        for (encoding, format, expected, own) in [
            (AccessLogEncoding::Text, "", AccessLogFormat::Text, None),
            (AccessLogEncoding::Json, "", AccessLogFormat::Json, None),
            (AccessLogEncoding::Text, "%PROTOCOL%\n", AccessLogFormat::Text, Some(true)),
            (AccessLogEncoding::Json, r#"{"p": "%PROTOCOL%"}"#, AccessLogFormat::Json, Some(true)),
            (AccessLogEncoding::Json, "no JSON", AccessLogFormat::Json, Some(false)),
            (AccessLogEncoding::Text, "%NO_OPERATOR", AccessLogFormat::Text, Some(false)),
        ] {
            let mesh = MeshConfig {
                access_log_encoding: encoding,
                access_log_format: format.to_owned(),
                ..MeshConfig::default()
            };
            let (lines, requests) = formats(&mesh);
            assert_eq!(lines, expected, "{format}");
            assert_eq!(requests.map(|it| it.is_ok()), own, "{format}");
        }
    }
}
