//! The server as a process of its own, which clients find as they find a cluster: by a kubeconfig.

use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{ApiServer, Settings, Token, User, clock};

/// Serves over TLS, decides by roles, and lets nobody in without a token; the administrator's is in `kubeconfig`, which
/// is written first. Ends when standard input does.
pub fn serve_alone(kubeconfig: &Path) -> Result<()> {
    let settings =
        Settings { tls: true, private: true, rbac: true, bookmark_interval: Duration::from_millis(500) };
    let server = ApiServer::start(&settings)?;
    // A server that has run for a while has forgotten its beginnings.
    server.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}));
    server.compact();
    let token = format!("{:016x}{:016x}", clock::random(), clock::random());
    server.add_token(&token, Token::of(User::admin()));
    let authority = STANDARD.encode(server.certificate().context("a server without TLS")?);
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{
            "name": "test", "cluster": {"server": server.url(), "certificate-authority-data": authority},
        }],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
    });
    std::fs::write(kubeconfig, config.to_string())
        .with_context(|| format!("cannot write {}", kubeconfig.display()))?;
    let mut rest = [0; 64];
    while io::stdin().read(&mut rest)? > 0 {}
    Ok(())
}
