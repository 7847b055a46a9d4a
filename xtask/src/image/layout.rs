//! From files to an OCI image layout in a tar archive, with Docker's list in it as well.
//!
//! The tools that pack and count are the machine's: `tar`, `gzip` and `sha256sum`, told to leave out whatever differs from
//! run to run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::shell;

/// An image that was written.
pub(super) struct Image {
    /// The archive.
    pub(super) path: PathBuf,
    /// Of the manifest, as registries name it.
    pub(super) digest: String,
    /// Of the archive, in bytes.
    pub(super) size: u64,
}

/// Writes `mesh.tar` into `output`, with everything below `root` as its only layer. `effort` is what
/// gzip is told.
pub(super) fn write(root: &Path, output: &Path, version: &str, effort: &str) -> Result<Image> {
    let layout = output.join("layout");
    if layout.exists() {
        fs::remove_dir_all(&layout).with_context(|| format!("{} cannot be emptied", layout.display()))?;
    }
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("{} cannot be made", blobs.display()))?;

    let layer = output.join("layer.tar");
    pack(root, &layer, &["."])?;
    let unpacked = digest(&layer)?;
    shell::must(Command::new("gzip").args([effort, "-n", "-f"]).arg(&layer))?;
    let layer = take(&output.join("layer.tar.gz"), &blobs, "application/vnd.oci.image.layer.v1.tar+gzip")?;

    let config = config(&unpacked, version)?;
    let config = blob(&config, output, &blobs, "application/vnd.oci.image.config.v1+json")?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
    });
    let mut manifest = blob(&manifest, output, &blobs, MANIFEST)?;
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    let name = format!("docker.io/library/mesh:{version}");
    manifest["annotations"] = json!({
        // As containerd names it, and as everybody else does.
        "io.containerd.image.name": name, "org.opencontainers.image.ref.name": version,
    });
    manifest["platform"] = json!({"architecture": architecture()?, "os": "linux"});
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest],
    });
    let path_of = |blob: &Value| {
        let digest = blob["digest"].as_str().unwrap_or_default();
        format!("blobs/{}", digest.replace(':', "/"))
    };
    let dockers = json!([{"Config": path_of(&config), "RepoTags": [format!("mesh:{version}")], "Layers": [path_of(&layer)]}]);
    for (file, content) in [
        ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
        ("index.json", index),
        ("manifest.json", dockers),
    ] {
        fs::write(layout.join(file), content.to_string())?;
    }
    let path = output.join("mesh.tar");
    pack(&layout, &path, &["oci-layout", "index.json", "manifest.json", "blobs"])?;
    let size = fs::metadata(&path)?.len();
    Ok(Image { path, digest, size })
}

/// What a runtime is to know: the manifests of a cluster say the rest.
fn config(layer: &str, version: &str) -> Result<Value> {
    Ok(json!({
        "created": CREATED, "architecture": architecture()?, "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/bin"], "User": "1337:1337", "Cmd": ["mesh-node", "--help"], "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "mesh", "org.opencontainers.image.version": version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [layer]},
        "history": [{"created": CREATED, "created_by": "cargo xtask image"}],
    }))
}

/// Nothing in it says when, by whom, or in which order a disk lists its files.
fn pack(directory: &Path, archive: &Path, entries: &[&str]) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--format=gnu",
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ]);
    tar.args(["--mode=u=rwX,go=rX", "--file"]).arg(archive).arg("--directory").arg(directory).args(entries);
    shell::must(&mut tar)
}

fn blob(content: &Value, output: &Path, blobs: &Path, kind: &str) -> Result<Value> {
    let file = output.join("blob.json");
    fs::write(&file, content.to_string())?;
    take(&file, blobs, kind)
}

/// Moves a file to where its content says, and describes it.
fn take(file: &Path, blobs: &Path, kind: &str) -> Result<Value> {
    let digest = digest(file)?;
    let size = fs::metadata(file)?.len();
    let name = digest.trim_start_matches("sha256:");
    fs::rename(file, blobs.join(name)).with_context(|| format!("{} cannot be moved", file.display()))?;
    Ok(json!({"mediaType": kind, "digest": digest, "size": size}))
}

fn digest(file: &Path) -> Result<String> {
    let text = shell::read(Command::new("sha256sum").arg("--binary").arg(file))?;
    let digits = text.split_whitespace().next().filter(|it| it.len() == 64);
    digits.map(|it| format!("sha256:{it}")).with_context(|| format!("sha256sum said {text:?}"))
}

/// As images name the machine that this program was built for, which is the one that the others were built for.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image is defined for {other}: there are amd64 and arm64"),
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The same for all, or no two images would be equal.
const CREATED: &str = "1970-01-01T00:00:00Z";
