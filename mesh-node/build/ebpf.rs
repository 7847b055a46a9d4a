//! Which toolchain builds the kernel programs, and the command that does it.
//!
//! Kernel programs need what a stable host toolchain does not have: the source of `core` (no target ships it
//! compiled for eBPF), permission to use `-Z build-std`, and `bpf-linker`. Two compilers can offer that: rustup's
//! nightly with `rust-src`, or a distribution's compiler with its source package. This file is the only place that
//! chooses between them; the build script and `xtask` both include it, so it uses nothing but `std`.

use std::{
    env,
    ffi::OsString,
    fmt, fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

/// A Rust compiler found on this machine, and what it has that kernel programs need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// Where it comes from, for messages: `rustup's nightly`, `/usr/bin/rustc`.
    pub(crate) origin: &'static str,
    /// Directory that holds `rustc` and what else there is of the toolchain.
    pub(crate) bin: PathBuf,
    /// Version as (major, minor).
    pub(crate) release: (u32, u32),
    /// Major version of the LLVM it writes bitcode with.
    pub(crate) llvm: u32,
    /// Unstable flags work without `RUSTC_BOOTSTRAP`.
    pub(crate) nightly: bool,
    /// What is installed beside it.
    pub(crate) parts: Vec<Part>,
}

/// A part of a toolchain that may or may not be installed beside its `rustc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The source of `core`.
    CoreSource,
    /// `cargo`.
    Cargo,
    /// `cargo-clippy` and its driver.
    Clippy,
}

/// The `bpf-linker` found on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Linker {
    /// The program.
    pub(crate) path: PathBuf,
    /// Major version of the LLVM it is linked to; none where it carries its own, which cannot be told from outside.
    pub(crate) llvm: Option<u32>,
}

/// What this machine has. Everything else in this file is decided from here, without looking again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// rustup's nightly.
    pub(crate) nightly: Option<Compiler>,
    /// The distribution's compiler.
    pub(crate) system: Option<Compiler>,
    /// The linker.
    pub(crate) linker: Option<Linker>,
}

/// A compiler and a linker that fit each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// The compiler.
    pub(crate) compiler: Compiler,
    /// The linker.
    pub(crate) linker: Linker,
}

/// Why kernel programs cannot be built here: one reason for each thing that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing(pub(crate) Vec<String>);

/// What cargo is asked to do with the kernel programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Build the object.
    Build {
        /// A warning is an error.
        strict: bool,
    },
    /// Lint; a warning is an error.
    Clippy,
}

/// The machine that the object is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Target triple of the kernel programs.
    pub(crate) triple: &'static str,
    /// Architecture of the host, which decides the layout of `pt_regs` and the like.
    pub(crate) arch: String,
}

impl Compiler {
    /// What keeps this compiler from building kernel programs, if anything does.
    pub(crate) fn lack(&self) -> Option<String> {
        let Self { origin, release: (major, minor), .. } = self;
        if self.release < OLDEST_RELEASE {
            let (needed_major, needed_minor) = OLDEST_RELEASE;
            return Some(format!("{origin} is {major}.{minor}, {needed_major}.{needed_minor} is needed"));
        }
        if !self.has(Part::CoreSource) {
            return Some(format!("{origin} has no source of `core`"));
        }
        (!self.has(Part::Cargo)).then(|| format!("{origin} has no cargo beside it"))
    }

    /// Whether a part is installed.
    pub(crate) fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    fn probe(origin: &'static str, rustc: &Path) -> Option<Self> {
        let bin = rustc.parent()?.to_path_buf();
        let about = output(Command::new(rustc).arg("-vV"))?;
        let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]))?;
        let release = field(&about, "release: ")?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
        Some(Self {
            origin,
            release: major_minor(release)?,
            llvm: field(&about, "LLVM version: ").and_then(leading_number)?,
            nightly: release.contains("-nightly") || release.contains("-dev"),
            parts: [
                (Part::CoreSource, core.is_dir()),
                (Part::Cargo, bin.join("cargo").is_file()),
                (Part::Clippy, bin.join("cargo-clippy").is_file() && bin.join("clippy-driver").is_file()),
            ]
            .into_iter()
            .filter_map(|(part, is_there)| is_there.then_some(part))
            .collect(),
            bin,
        })
    }
}

impl Linker {
    /// Whether this linker reads the bitcode of a compiler: LLVM reads what older versions wrote, not what newer did.
    pub(crate) fn reads(&self, compiler: &Compiler) -> bool {
        self.llvm.is_none_or(|llvm| llvm >= compiler.llvm)
    }

    fn probe() -> Option<Self> {
        let path = find_program("bpf-linker")?;
        let llvm = linked_llvm(&path);
        Some(Self { path, llvm })
    }
}

impl Machine {
    /// Looks at this machine. Runs `rustup` and the compilers to ask them their versions; changes nothing.
    pub(crate) fn probe() -> Self {
        let nightly = find_program("rustup").and_then(|rustup| {
            let mut which = Command::new(rustup);
            which.args(["which", "--toolchain", "nightly", "rustc"]).env("RUSTUP_AUTO_INSTALL", "0");
            Compiler::probe("rustup's nightly", Path::new(output(&mut which)?.trim()))
        });
        let system = Compiler::probe(SYSTEM_RUSTC, Path::new(SYSTEM_RUSTC));
        Self { nightly, system, linker: Linker::probe() }
    }

    /// The compiler that is to be used: rustup's nightly where it is complete, as its owner chose to have it, else
    /// the distribution's. A compiler whose bitcode the linker cannot read is used only if there is no other.
    pub(crate) fn compiler(&self) -> Option<&Compiler> {
        let complete = || [&self.nightly, &self.system].into_iter().flatten().filter(|c| c.lack().is_none());
        let readable = |c: &&Compiler| self.linker.as_ref().is_none_or(|l| l.reads(c));
        complete().find(readable).or_else(|| complete().next())
    }

    /// The toolchain to build with, or everything that is missing.
    pub(crate) fn choose(&self) -> Result<Toolchain, Missing> {
        let mut missing = Vec::new();
        let compiler = self.compiler();
        if compiler.is_none() {
            let why = [(&self.nightly, "rustup's nightly"), (&self.system, SYSTEM_RUSTC)]
                .map(|(found, name)| match found {
                    Some(found) => found.lack().expect("a complete compiler would have been chosen"),
                    None => format!("{name} is not installed"),
                })
                .join("; ");
            missing.push(format!("a compiler for eBPF ({why})"));
        }
        match (&self.linker, compiler) {
            (None, _) => missing.push("bpf-linker".to_owned()),
            (Some(linker), Some(compiler)) if !linker.reads(compiler) => missing.push(format!(
                "a bpf-linker with LLVM {} or newer, as {} has (the one found has LLVM {})",
                compiler.llvm,
                compiler.origin,
                linker.llvm.unwrap_or_default(),
            )),
            (Some(linker), Some(compiler)) => {
                return Ok(Toolchain { compiler: compiler.clone(), linker: linker.clone() });
            }
            (Some(_), None) => {}
        }
        Err(Missing(missing))
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the eBPF programs cannot be built here, run `cargo xtask setup`; missing: {}",
            self.0.join(", ")
        )
    }
}

impl Target {
    /// The target for a host's `target_endian` and `target_arch`, as cargo names them.
    pub(crate) fn new(endian: &str, arch: &str) -> Self {
        let triple = if endian == "big" { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
        // The eBPF bindings know one 64-bit RISC-V; rustc's names for it carry extensions.
        let arch = if arch.starts_with("riscv64") { "riscv64" } else { arch };
        Self { triple, arch: arch.to_owned() }
    }
}

impl Toolchain {
    /// The command that builds or lints the kernel programs of the workspace at `root`.
    ///
    /// `target_dir` must not be the one of the cargo that waits for this command: both would lock it, for ever.
    pub(crate) fn command(&self, verb: Verb, root: &Path, target_dir: &Path, target: &Target) -> Command {
        let Self { compiler, linker } = self;
        let cargo = compiler.bin.join("cargo");
        let mut command = match verb {
            Verb::Build { .. } => {
                let mut build = Command::new(&cargo);
                build.arg("build");
                build
            }
            // Asking cargo for `clippy` would find whichever comes first in PATH, often another toolchain's.
            Verb::Clippy => {
                let mut clippy = Command::new(compiler.bin.join("cargo-clippy"));
                clippy.arg("clippy");
                clippy
            }
        };
        clean(&mut command);
        command
            .current_dir(root)
            .args(["--package", PACKAGE, "--bins", "--release", "--locked", "-Zbuild-std=core"])
            .args(["--target", target.triple])
            .arg("--target-dir")
            .arg(target_dir)
            .args(PROFILE.iter().flat_map(|setting| ["--config", setting]))
            .env("CARGO", &cargo)
            .env("RUSTC", compiler.bin.join("rustc"))
            .env(linker_variable(target), &linker.path)
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags(verb, target, &self.places(root)));
        if !compiler.nightly {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        if verb == Verb::Clippy {
            command.args(["--", "-Dwarnings"]);
        }
        command
    }
}

impl Toolchain {
    /// Directories whose names would be in the object's BTF, and what is there instead: the same source comes to the same object,
    /// wherever it is built.
    fn places(&self, root: &Path) -> Vec<(PathBuf, &'static str)> {
        let sysroot = self.compiler.bin.parent().map(|prefix| (prefix.to_owned(), "/rust"));
        let cargo = cargo_home().map(|home| (home, "/cargo"));
        sysroot.into_iter().chain(cargo).chain([(root.to_owned(), "/mesh")]).collect()
    }
}

/// Removes from a command's environment what the cargo or clippy around this process has put there for itself, and
/// what a user has set for host builds: none of it is meant for the kernel programs.
pub(crate) fn clean(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_for_host_builds) {
            command.env_remove(name);
        }
    }
}

/// Whether an environment variable speaks to a build of host code. Network, registry, proxy, terminal and job-server
/// settings are not among them: they hold for every build.
pub(crate) fn is_for_host_builds(name: &str) -> bool {
    HOST_VARIABLES.contains(&name) || HOST_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The first program of that name in `PATH` or in cargo's own directory of installed programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo = cargo_home().map(|home| home.join("bin"));
    env::split_paths(&path).chain(cargo).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Where cargo keeps what it has fetched.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    let own = env::var_os("CARGO_HOME").map(PathBuf::from);
    own.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
}

fn rustflags(verb: Verb, target: &Target, places: &[(PathBuf, &str)]) -> String {
    let remap = |(from, to): &(PathBuf, &str)| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags: Vec<String> = places.iter().map(remap).collect();
    // Debug information is where bpf-linker takes the BTF from.
    flags.extend([
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("--cfg=bpf_target_arch=\"{}\"", target.arch),
    ]);
    if verb == (Verb::Build { strict: true }) {
        flags.push("-Dwarnings".to_owned());
    }
    flags.join("\x1f")
}

fn linker_variable(target: &Target) -> OsString {
    format!("CARGO_TARGET_{}_LINKER", target.triple.to_uppercase().replace('-', "_")).into()
}

/// Major version of the shared LLVM that a program is linked to, read from the names in the front of the ELF file.
fn linked_llvm(program: &Path) -> Option<u32> {
    let mut front = Vec::new();
    fs::File::open(program).ok()?.take(NAMES_WITHIN).read_to_end(&mut front).ok()?;
    llvm_in_names(&front)
}

/// Finds `libLLVM.so.22.1` (current) or `libLLVM-22.so` (older) in bytes.
pub(crate) fn llvm_in_names(bytes: &[u8]) -> Option<u32> {
    let at = bytes.windows(LIBRARY.len()).position(|window| window == LIBRARY)?;
    let rest = bytes.get(at + LIBRARY.len()..)?;
    let rest = rest.strip_prefix(b".so.").or_else(|| rest.strip_prefix(b"-"))?;
    let digits: Vec<u8> = rest.iter().copied().take_while(u8::is_ascii_digit).take(4).collect();
    str::from_utf8(&digits).ok()?.parse().ok()
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.env_remove("RUSTUP_TOOLCHAIN").output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).ok())?
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let (major, rest) = version.split_once('.')?;
    Some((major.parse().ok()?, leading_number(rest)?))
}

fn leading_number(text: &str) -> Option<u32> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The package of the kernel programs, and the name of its one binary.
pub(crate) const PACKAGE: &str = "mesh-ebpf";

/// Where distributions put their compiler. A rustup proxy earlier in PATH must not hide it.
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";

/// The workspace's `rust-version`: cargo refuses older compilers anyway, later and less clearly.
const OLDEST_RELEASE: (u32, u32) = (1, 89);

/// The workspace's release profile suits the host; kernel programs want one module, optimised as a whole, and full
/// debug information for BTF. There is no unwinding in the kernel.
const PROFILE: [&str; 5] = [
    "profile.release.lto=true",
    "profile.release.codegen-units=1",
    "profile.release.debug=2",
    "profile.release.opt-level=3",
    "profile.release.panic=\"abort\"",
];

const LIBRARY: &[u8] = b"libLLVM";

/// Linkers put the names of needed libraries in front of code and data; 4 MiB is far more than they ever take.
const NAMES_WITHIN: u64 = 4 << 20;

const HOST_VARIABLES: [&str; 8] = [
    "CARGO",
    "CARGO_INCREMENTAL",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "RUSTC",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

const HOST_PREFIXES: [&str; 11] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_",
    "CARGO_FEATURE_",
    "CARGO_PKG_",
    "CARGO_PRIMARY_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CARGO_UNSTABLE_",
    "CLIPPY_",
    "RUSTC_",
];
