use std::path::Path;

use super::*;

fn compiler(origin: &'static str, llvm: u32, parts: &[Part]) -> Compiler {
    let nightly = origin == "nightly";
    let bin = Path::new("/opt").join(origin);
    Compiler { origin, bin, release: (1, 96), llvm, nightly, parts: parts.to_vec() }
}

fn linker(llvm: Option<u32>) -> Linker {
    Linker { path: "/opt/bpf-linker".into(), llvm }
}

fn chosen(machine: &Machine) -> &'static str {
    machine.choose().expect("this machine can build").compiler.origin
}

const COMPLETE: [Part; 2] = [Part::CoreSource, Part::Cargo];

#[test]
fn a_complete_nightly_comes_first() {
    let mut machine = Machine {
        nightly: Some(compiler("nightly", 22, &COMPLETE)),
        system: Some(compiler("system", 22, &COMPLETE)),
        linker: Some(linker(Some(22))),
    };
    assert_eq!(chosen(&machine), "nightly");
    machine.nightly = Some(compiler("nightly", 22, &[Part::Cargo]));
    assert_eq!(chosen(&machine), "system");
    machine.nightly = None;
    assert_eq!(chosen(&machine), "system");
}

#[test]
fn a_linker_that_is_too_old_for_one_compiler_may_do_for_the_other() {
    let mut machine = Machine {
        nightly: Some(compiler("nightly", 23, &COMPLETE)),
        system: Some(compiler("system", 22, &COMPLETE)),
        linker: Some(linker(Some(22))),
    };
    assert_eq!(chosen(&machine), "system");
    machine.linker = Some(linker(None));
    assert_eq!(chosen(&machine), "nightly");
    machine.system = None;
    assert_eq!(chosen(&machine), "nightly");
    machine.linker = Some(linker(Some(22)));
    assert!(machine.choose().unwrap_err().to_string().contains("LLVM 23 or newer"));
}

#[test]
fn everything_missing_is_named_in_one_message() {
    let mut machine =
        Machine { nightly: Some(compiler("nightly", 22, &[Part::Cargo])), ..Machine::default() };
    let message = machine.choose().unwrap_err().to_string();
    for part in [
        "cargo xtask setup",
        "nightly has no source of `core`",
        "/usr/bin/rustc is not installed",
        "bpf-linker",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    machine.system = Some(compiler("system", 22, &COMPLETE));
    machine.system.as_mut().unwrap().release = (1, 63);
    assert!(machine.choose().unwrap_err().to_string().contains("system is 1.63, 1.89 is needed"));
}

#[test]
fn only_a_compiler_that_is_not_nightly_is_told_to_allow_unstable_flags() {
    for (origin, bootstrap) in [("nightly", None), ("system", Some("1"))] {
        let toolchain = Toolchain { compiler: compiler(origin, 22, &COMPLETE), linker: linker(None) };
        let target = Target::new("little", "x86_64");
        let command =
            toolchain.command(Verb::Build { strict: false }, Path::new("/tree"), Path::new("/out"), &target);
        let env = |name: &str| {
            let set = command.get_envs().find(|(n, _)| *n == name).and_then(|(_, value)| value);
            set.map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(env("RUSTC_BOOTSTRAP").as_deref(), bootstrap);
        assert_eq!(env("RUSTC"), Some(format!("/opt/{origin}/rustc")));
        assert_eq!(env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER").as_deref(), Some("/opt/bpf-linker"));
        let flags = env("CARGO_ENCODED_RUSTFLAGS").unwrap();
        assert!(flags.ends_with("\x1f--cfg=bpf_target_arch=\"x86_64\""));
        assert!(flags.contains("--remap-path-prefix=/tree=/mesh\x1f"), "{flags}");
    }
}

#[test]
fn host_settings_do_not_reach_the_kernel_programs() {
    for name in
        ["RUSTFLAGS", "CARGO_TARGET_DIR", "RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS", "CARGO_ENCODED_RUSTFLAGS"]
    {
        assert!(is_for_host_builds(name), "{name}");
    }
    for name in
        ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_MAKEFLAGS", "CARGO_REGISTRIES_X_INDEX", "PATH", "HOME"]
    {
        assert!(!is_for_host_builds(name), "{name}");
    }
}

#[test]
fn targets_follow_the_host() {
    assert_eq!(Target::new("big", "s390x").triple, "bpfeb-unknown-none");
    assert_eq!(Target::new("little", "riscv64gc").arch, "riscv64");
}

#[test]
fn the_linked_llvm_is_read_from_library_names() {
    assert_eq!(llvm_in_names(b"\0libc.so.6\0libLLVM.so.22.1\0"), Some(22));
    assert_eq!(llvm_in_names(b"\0libLLVM-19.so\0"), Some(19));
    assert_eq!(llvm_in_names(b"\0libc.so.6\0libLLVM"), None);
}
