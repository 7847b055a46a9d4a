//! What `cargo xtask image` writes: held to the layout of the Open Container Initiative, and run.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mesh_tests::image;
use serde_json::Value;
use tempfile::TempDir;

/// Megabytes of the image of programs for debugging, compressed in a hurry: some more than the 61 that they had when this was written.
const MOST_FOR_DEBUGGING: u32 = 75;

fn ends_well(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn unpack(archive: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    ends_well(Command::new("tar").arg("--extract").arg("--file").arg(archive).arg("--directory").arg(to));
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

fn digest(path: &Path) -> String {
    let output = ends_well(Command::new("sha256sum").arg(path));
    let text = String::from_utf8(output.stdout).expect("text");
    format!("sha256:{}", text.split_whitespace().next().expect("a digest"))
}

/// The file of a descriptor, which must be as it says.
fn blob(layout: &Path, descriptor: &Value) -> std::path::PathBuf {
    let named = descriptor["digest"].as_str().expect("a digest");
    let path = layout.join("blobs").join(named.replace(':', "/"));
    assert_eq!(digest(&path), named);
    assert_eq!(Some(fs::metadata(&path).expect("a file").len()), descriptor["size"].as_u64());
    path
}

#[test]
fn the_image_is_a_layout_that_says_what_it_is_and_runs() {
    let directory: TempDir = tempfile::tempdir().expect("a directory");
    let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
    let [said, again] = [&first, &second].map(|to| image::build(to).expect("an image"));
    let named = said.split_whitespace().find(|word| word.starts_with("sha256:")).expect("a digest");
    assert!(again.contains(named), "two runs differ: {said}{again}");
    // What is released has to be 40 MB at most, which `cargo xtask image` holds itself to: these programs are half as large again.
    let megabytes = said.rsplit_once('(').and_then(|(_, size)| size.split(' ').next()?.parse::<u32>().ok());
    assert!(megabytes.is_some_and(|size| (10..=MOST_FOR_DEBUGGING).contains(&size)), "{said}");

    let layout = directory.path().join("layout");
    unpack(&first.join("mesh.tar"), &layout);
    assert_eq!(json(&layout.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let index = json(&layout.join("index.json"));
    let descriptor = &index["manifests"][0];
    assert_eq!(descriptor["digest"], named);
    let image = concat!("docker.io/library/mesh:", env!("CARGO_PKG_VERSION"));
    assert_eq!(descriptor["annotations"]["io.containerd.image.name"], image);
    let manifest = json(&blob(&layout, descriptor));
    let config = json(&blob(&layout, &manifest["config"]));
    let layer = blob(&layout, &manifest["layers"][0]);
    assert_eq!(config["config"]["User"], "1337:1337");
    // Docker's own list names the same files.
    let dockers = &json(&layout.join("manifest.json"))[0];
    assert!(layer.ends_with(dockers["Layers"][0].as_str().expect("a path")), "{dockers}");

    let root = directory.path().join("root");
    let unpacked = directory.path().join("layer.tar");
    let gunzip = ends_well(Command::new("gzip").args(["--decompress", "--stdout"]).arg(&layer));
    fs::write(&unpacked, gunzip.stdout).expect("written");
    assert_eq!(config["rootfs"]["diff_ids"][0], digest(&unpacked));
    unpack(&unpacked, &root);
    let version = env!("CARGO_PKG_VERSION");
    for (program, words) in
        [("mesh-node", "--version"), ("mesh-control", "--version"), ("meshctl", "version")]
    {
        let output = inside(&root, &[&format!("/usr/local/bin/{program}"), words]);
        assert!(output.contains(version), "{program}: {output}");
    }
    assert!(root.join("usr/local/bin/mesh-cni").is_file(), "agents copy it to their nodes");
    let list = json(&root.join("usr/local/share/mesh/sbom.spdx.json"));
    assert_eq!(list["spdxVersion"], "SPDX-2.3");
    let packages = list["packages"].as_array().expect("packages");
    for wanted in ["mesh-node", "rustls", "aya-ebpf", "libc.so.6"] {
        let has = |it: &&Value| it["name"] == wanted && it["versionInfo"].is_string();
        assert_eq!(packages.iter().filter(has).count(), 1, "{wanted}");
    }
    // What only builds or tests the programs is not in them.
    for unwanted in ["xtask", "mesh-tests", "proptest", "jsonschema", "tonic-prost-build"] {
        assert!(!packages.iter().any(|it| it["name"] == unwanted), "{unwanted}");
    }
}

/// The kernel programs, which are the same in every profile, name no directory of the machine that they were built on.
#[test]
fn kernel_programs_do_not_say_where_they_were_built() {
    let node = super::manifests::program("mesh-node");
    let directory = tempfile::tempdir().expect("a directory");
    // Beside its debug information, which stays outside of the image, a node has paths of its own crates in panics.
    let stripped = directory.path().join("mesh-node");
    ends_well(Command::new("objcopy").arg("--strip-all").args([&node, &stripped]));
    let content = fs::read(&stripped).expect("a program");
    let has = |name: &str| content.windows(name.len()).any(|window| window == name.as_bytes());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    assert!(has("/mesh/mesh-ebpf/src/connect.rs"), "it has the kernel programs, with their sources' names");
    assert!(!has(&format!("{}/mesh-ebpf/", root.display())), "kernel programs name {}", root.display());
}

/// What a program prints that sees nothing but the image.
fn inside(root: &Path, words: &[&str]) -> String {
    let is_root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    let mut command = if is_root {
        Command::new("chroot")
    } else {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "chroot"]);
        command
    };
    let output =
        ends_well(command.arg(root).args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"));
    String::from_utf8(output.stdout).expect("text")
}
