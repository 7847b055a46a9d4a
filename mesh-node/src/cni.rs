//! The agent's side of the CNI plugin: it answers whether a pod may start, and puts the plugin into the node's
//! configuration.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use crate::config::CniOptions;

pub mod install;
pub mod serve;

pub use install::Installer;
pub use serve::Desk;

/// Where things are on this node.
#[derive(Clone, Debug)]
pub struct Places {
    /// Where the agent listens.
    pub socket: PathBuf,
    /// What it keeps of the sandboxes it was told of.
    pub sandboxes: PathBuf,
}

impl Places {
    /// Of the options, `None` where no plugin is served.
    pub fn of(options: &CniOptions, node: &str) -> Option<Self> {
        let is_wanted = options.cni_conf_dir.is_some() || options.cni_socket.is_some();
        let home = Path::new(HOME).join(node);
        let socket = options.cni_socket.clone().unwrap_or_else(|| home.join("cni.sock"));
        let sandboxes = socket.with_extension("sandboxes");
        is_wanted.then_some(Self { socket, sandboxes })
    }
}

/// The plugin's own part of a network configuration.
pub fn plugin_conf(options: &CniOptions, socket: &Path) -> Value {
    json!({
        "type": mesh_core::cni::PLUGIN,
        "socket": socket,
        "excludeNamespaces": options.cni_exclude_namespaces,
        "waitSeconds": options.cni_wait.max(Duration::from_secs(1)).as_secs(),
    })
}

/// Puts the plugin where the options say, and sees to it that it stays.
pub fn installer(options: &CniOptions, places: &Places) -> io::Result<Option<Installer>> {
    let (Some(conf), Some(bin)) = (&options.cni_conf_dir, &options.cni_bin_dir) else { return Ok(None) };
    let program = std::env::current_exe()?.with_file_name(mesh_core::cni::PLUGIN);
    let plugin = plugin_conf(options, &places.socket);
    Ok(Some(Installer { conf: conf.clone(), bin: bin.clone(), program, plugin }))
}

/// The sandboxes of this node; of one without a plugin there are none.
pub fn sandboxes(places: &Places) -> io::Result<Arc<crate::redirect::Sandboxes>> {
    crate::redirect::Sandboxes::open(places.sandboxes.clone())
}

const HOME: &str = "/run/mesh";
