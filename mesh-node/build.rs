//! Builds the kernel programs from source into this package's own output directory, for every build of the node, so
//! that the node never carries an object that does not fit its maps. The node includes it by the path in
//! `MESH_EBPF_OBJECT`.

use std::{
    env,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

#[path = "build/ebpf.rs"]
mod ebpf;

fn main() -> ExitCode {
    let toolchain = match ebpf::Machine::probe().choose() {
        Ok(toolchain) => toolchain,
        Err(missing) => {
            // This line alone fails the build, without the noise cargo prints around a script that fails.
            println!("cargo::error={missing}");
            return ExitCode::SUCCESS;
        }
    };
    match build(&toolchain) {
        Ok(object) => {
            println!("cargo::rustc-env=MESH_EBPF_OBJECT={}", object.display());
            ExitCode::SUCCESS
        }
        Err(reason) => {
            // Failing makes cargo show what the compiler wrote.
            let _ = writeln!(io::stderr(), "The eBPF programs (package {}) {reason}.", ebpf::PACKAGE);
            ExitCode::FAILURE
        }
    }
}

fn build(toolchain: &ebpf::Toolchain) -> Result<PathBuf, String> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let root = manifest_dir.parent().expect("this package is a directory of the workspace");
    for file in ["mesh-ebpf", "mesh-common", "Cargo.lock", "Cargo.toml", "mesh-node/build/ebpf.rs"] {
        watch(&root.join(file));
    }
    watch(&toolchain.compiler.bin.join("rustc"));
    watch(&toolchain.linker.path);

    let target = ebpf::Target::new(&variable("CARGO_CFG_TARGET_ENDIAN"), &variable("CARGO_CFG_TARGET_ARCH"));
    let target_dir = PathBuf::from(variable("OUT_DIR")).join("ebpf");
    let mut command = toolchain.command(ebpf::Verb::Build { strict: false }, root, &target_dir, &target);
    let program = command.get_program().display().to_string();
    let status =
        command.status().map_err(|error| format!("need {program}, which does not start: {error}"))?;
    if !status.success() {
        return Err(format!("do not build with {}, see above: {status}", toolchain.compiler.origin));
    }
    Ok(target_dir.join(target.triple).join("release").join(ebpf::PACKAGE))
}

fn watch(file: &Path) {
    println!("cargo::rerun-if-changed={}", file.display());
}

fn variable(name: &str) -> String {
    env::var(name).expect("cargo sets its variables for build scripts")
}
