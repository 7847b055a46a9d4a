//! `cargo xtask image`: the image of the mesh as an OCI layout, without a container engine.
//!
//! It holds the programs, the libraries that they are linked to, certificates of public authorities, and the list of
//! what it is made of. Times, owners and orders are fixed: the same programs come to the same digests.

mod layout;
mod sbom;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Profile},
    setup::{self, Part},
    shell::{self, print},
    workspace::{Depth, Workspace},
};

/// Build the image of the mesh: target/image/mesh.tar, an OCI layout that `ctr image import` and `docker load` take.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo xtask image && ctr -n k8s.io image import target/image/mesh.tar")]
pub(crate) struct Args {
    /// Take the programs for debugging: quick, and several times as large.
    #[arg(long)]
    debug: bool,
    /// Take the programs as they are, without building them.
    #[arg(long)]
    no_build: bool,
    /// Where everything is written [default: target/image].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Write only the files that are to be in the image, into this directory: for the Dockerfile.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let profile = if args.debug { Profile::Debug } else { Profile::Release };
    if !args.no_build {
        setup::ensure(&[Part::Ebpf])?;
        shell::must(&mut build::programs(profile)).context("the programs do not build")?;
        shell::must(&mut build::plugin(profile)).context("the CNI plugin does not build")?;
    }
    let workspace = Workspace::load(Depth::All)?;
    let programs = workspace.target_dir.join(profile.directory());
    let output = args.output.clone().unwrap_or_else(|| workspace.target_dir.join("image"));
    if let Some(root) = &args.root {
        fill(root, (&programs, profile), &output.join("debug"), &workspace)?;
        return Ok(ExitCode::SUCCESS);
    }
    let root = output.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("{} cannot be emptied", root.display()))?;
    }
    fill(&root, (&programs, profile), &output.join("debug"), &workspace)?;
    let effort = if args.debug { "-1" } else { "-9" };
    let image = layout::write(&root, &output, &version(&workspace)?, effort)?;
    let megabytes = image.size.div_ceil(1_000_000);
    print(format_args!("{} {} ({megabytes} MB)", image.path.display(), image.digest));
    if !args.debug && megabytes > MOST_MEGABYTES {
        bail!("an image of {megabytes} MB is larger than the {MOST_MEGABYTES} MB that were promised");
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes all files of the image.
fn fill(
    root: &Path,
    (programs, profile): (&Path, Profile),
    symbols: &Path,
    workspace: &Workspace,
) -> Result<()> {
    let place = root.join("usr/local/bin");
    fs::create_dir_all(&place).with_context(|| format!("{} cannot be made", place.display()))?;
    fs::create_dir_all(symbols).with_context(|| format!("{} cannot be made", symbols.display()))?;
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let (from, to) = (programs.join(name), place.join(name));
        if !from.is_file() {
            bail!("{} is not there (build it, or leave out --no-build)", from.display());
        }
        // What debuggers want stays outside, beside the image.
        let kept = symbols.join(format!("{name}.debug"));
        shell::must(Command::new("objcopy").arg("--only-keep-debug").args([&from, &kept]))?;
        shell::must(Command::new("objcopy").arg("--strip-all").args([&from, &to]))?;
        if profile == Profile::Release {
            names_no_place(&to)?;
        }
        let linked = linked(&from)?;
        if name == build::PLUGIN && profile == Profile::Release && !linked.is_empty() {
            bail!("{} needs libraries, which nodes may not have (leave out --no-build)", from.display());
        }
        libraries.extend(linked);
    }
    let certificates = Path::new(CERTIFICATES);
    if certificates.is_file() {
        libraries.insert(certificates.to_owned());
    } else if profile == Profile::Release {
        bail!(
            "{CERTIFICATES} is not there, and an image without it trusts no server (package ca-certificates)"
        );
    }
    for library in &libraries {
        copy(library, root)?;
    }
    let users = root.join("etc");
    fs::create_dir_all(&users)?;
    fs::write(users.join("passwd"), "root:x:0:0:root:/:\nmesh:x:1337:1337:mesh:/:\n")?;
    fs::write(users.join("group"), "root:x:0:\nmesh:x:1337:\n")?;
    let list = root.join("usr/local/share/mesh");
    fs::create_dir_all(&list)?;
    fs::write(
        list.join("sbom.spdx.json"),
        sbom::write(workspace, (&version(workspace)?, &PROGRAMS), &libraries)?,
    )?;
    Ok(())
}

/// Refuses a program that names a directory of this machine: another machine would build another one from the same source.
fn names_no_place(program: &Path) -> Result<()> {
    let content = fs::read(program).with_context(|| format!("{} cannot be read", program.display()))?;
    for (place, _) in build::places() {
        let name = place.display().to_string() + "/";
        if let Some(found) = named_in(&content, &name) {
            bail!(
                "{} names {found}: the image is not reproducible (leave out --no-build)",
                program.display()
            );
        }
    }
    Ok(())
}

/// The rest of what begins with `name` in a program.
fn named_in(content: &[u8], name: &str) -> Option<String> {
    let at = content.windows(name.len()).position(|window| window == name.as_bytes())?;
    let rest = content.get(at..)?.iter().take(SHOWN).take_while(|byte| byte.is_ascii_graphic());
    Some(rest.map(|byte| char::from(*byte)).collect())
}

/// The libraries that a program is linked to, as the loader finds them here, and the loader itself.
fn linked(program: &Path) -> Result<Vec<PathBuf>> {
    let text = shell::read(Command::new("ldd").arg(program))?;
    Ok(text.lines().filter_map(library).collect())
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, or `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn library(line: &str) -> Option<PathBuf> {
    let path = line.split("=>").last()?.split_whitespace().next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// To the same place in the image, whatever links lead there.
fn copy(file: &Path, root: &Path) -> Result<()> {
    let to = root.join(file.strip_prefix("/").context("a whole path")?);
    let directory = to.parent().context("a file in a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    fs::copy(file, &to).with_context(|| format!("{} cannot be copied", file.display()))?;
    let mode = if file.extension().is_some_and(|it| it == "crt") { 0o644 } else { 0o755 };
    fs::set_permissions(&to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn version(workspace: &Workspace) -> Result<String> {
    let package = workspace.packages.iter().find(|it| it.name == "mesh-node");
    package.map(|it| it.version.clone()).context("there is no mesh-node in this workspace")
}

const PROGRAMS: [&str; 4] = [build::PLUGIN, "mesh-control", "mesh-node", "meshctl"];
/// Debian's place, which TLS to authorities of the public looks at.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Compressed, all of it.
const MOST_MEGABYTES: u64 = 40;
/// Characters of a place, in a complaint.
const SHOWN: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let of = |line| library(line).map(|path| path.display().to_string());
        assert_eq!(of("\tlibc.so.6 => /lib/libc.so.6 (0x00007f)").as_deref(), Some("/lib/libc.so.6"));
        assert_eq!(of("\t/lib64/ld-linux-x86-64.so.2 (0x1)").as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!((of("\tlinux-vdso.so.1 (0x1)"), of("\tstatically linked")), (None, None));
    }

    #[test]
    fn a_place_of_this_machine_is_found_in_a_program() {
        let program = b"\x7fELF\0/home/me/.cargo/registry/a.rs\0more";
        assert_eq!(named_in(program, "/home/me/.cargo/").as_deref(), Some("/home/me/.cargo/registry/a.rs"));
        assert_eq!(named_in(program, "/src/mesh/"), None);
    }
}
