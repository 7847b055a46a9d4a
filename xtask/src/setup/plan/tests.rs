use super::*;
use crate::toolchain::Linker;

fn compiler(origin: &'static str, llvm: u32, parts: &[CompilerPart]) -> Compiler {
    let nightly = origin == "nightly";
    Compiler { origin, bin: "/bin".into(), release: (1, 96), llvm, nightly, parts: parts.to_vec() }
}

fn debian() -> Facts {
    let offered = [("rustc-web", 96), ("cargo-web", 96), ("rust-web-src", 96), ("rust-web-clippy", 96)];
    let llvm = ["llvm-22-dev", "libpolly-22-dev"].map(|name| (name.to_owned(), (22, 1)));
    let offered =
        offered.map(|(name, minor)| (name.to_owned(), (1, minor))).into_iter().chain(llvm).collect();
    Facts { apt: true, offered, ..Facts::default() }
}

fn packages(action: Result<Option<Action>, String>) -> Vec<String> {
    match action {
        Ok(Some(Action::Packages(names))) => names,
        other => panic!("no packages: {other:?}"),
    }
}

const COMPLETE: [CompilerPart; 2] = [CompilerPart::Cargo, CompilerPart::CoreSource];

#[test]
fn debian_goes_from_nothing_to_complete_step_by_step() {
    let mut facts = debian();
    assert_eq!(packages(next(Part::Ebpf, &facts)), ["cargo-web", "rust-web-src", "rustc-web"]);

    facts.machine.system = Some(compiler("system", 22, &COMPLETE));
    let expected = ["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev", "g++"];
    assert_eq!(packages(next(Part::Ebpf, &facts)), expected);

    facts.llvm = vec![(21, "/usr/lib/llvm-21".into()), (22, "/usr/lib/llvm-22".into())];
    let Ok(Some(Action::Crate { name, feature, llvm, .. })) = next(Part::Ebpf, &facts) else {
        panic!("the linker is next")
    };
    assert_eq!((name, feature.as_deref()), ("bpf-linker", Some("llvm-22")));
    assert_eq!(llvm, Some("/usr/lib/llvm-22".into()));

    facts.machine.linker = Some(Linker { path: "/bin/bpf-linker".into(), llvm: Some(22) });
    assert_eq!(next(Part::Ebpf, &facts), Ok(None));
    assert_eq!(missing(Part::Ebpf, &facts), Vec::<String>::new());
}

#[test]
fn an_old_packaged_compiler_is_no_use() {
    let mut facts = debian();
    facts.offered.insert("rustc-web".to_owned(), (1, 85));
    assert!(next(Part::Ebpf, &facts).unwrap_err().contains("install rustup"));
    facts.rustup = true;
    assert_eq!(next(Part::Ebpf, &facts), Ok(Some(Action::Nightly)));
}

#[test]
fn a_complete_nightly_needs_only_a_linker_that_fits() {
    let mut facts = Facts { llvm: vec![(22, "/l22".into()), (23, "/l23".into())], ..Facts::default() };
    facts.machine.nightly = Some(compiler("nightly", 23, &COMPLETE));
    facts.machine.linker = Some(Linker { path: "/bin/bpf-linker".into(), llvm: Some(22) });
    let Ok(Some(Action::Crate { feature, .. })) = next(Part::Ebpf, &facts) else {
        panic!("a newer linker is next")
    };
    assert_eq!(feature.as_deref(), Some("llvm-23"));
    facts.llvm.clear();
    assert!(next(Part::Ebpf, &facts).unwrap_err().contains("by hand"));
}

#[test]
fn tools_come_from_packages_or_are_named() {
    let mut facts = debian();
    facts.programs =
        TOOLS.iter().map(|(program, ..)| *program).filter(|program| *program != "nginx").collect();
    assert_eq!(packages(next(Part::Tools, &facts)), ["nginx-light"]);
    facts.apt = false;
    assert_eq!(next(Part::Tools, &facts), Err("install these with your package manager: nginx".to_owned()));
    facts.programs.insert("nginx");
    assert_eq!(next(Part::Tools, &facts), Ok(None));
}

#[test]
fn every_tool_is_looked_for() {
    assert!(TOOLS.iter().chain(&BROWSER).chain(&PEERS).all(|(program, ..)| PROGRAMS.contains(program)));
}

#[test]
fn peers_come_after_what_fetches_them() {
    let mut facts = debian();
    assert_eq!(
        packages(next(Part::Peers, &facts)),
        ["haproxy", "nghttp2-client", "python3-pip", "util-linux"]
    );
    facts.programs = PEERS.iter().map(|(program, ..)| *program).collect();
    facts.envoy = Some("1.2.3".to_owned());
    assert_eq!(next(Part::Peers, &facts), Ok(Some(Action::Envoy)), "another version is none");
    assert_eq!(missing(Part::Peers, &facts).len(), 1);
    facts.envoy = Some(ENVOY.to_owned());
    assert_eq!(next(Part::Peers, &facts), Ok(None));
}

#[test]
fn what_manifests_are_held_against_comes_after_what_fetches_it() {
    let mut facts = debian();
    assert_eq!(packages(next(Part::Manifests, &facts)), ["python3-pip"]);
    assert_eq!(missing(Part::Manifests, &facts).len(), 3);
    facts.programs.insert("pip3");
    assert_eq!(next(Part::Manifests, &facts), Ok(Some(Action::Schemas)));
    facts.schemas = Some(SCHEMAS.to_owned());
    assert_eq!(next(Part::Manifests, &facts), Ok(Some(Action::Helm)));
    facts.helm = Some(HELM.to_owned());
    assert_eq!(next(Part::Manifests, &facts), Ok(None));
    assert_eq!(missing(Part::Manifests, &facts), Vec::<String>::new());
}

#[test]
fn check_takes_clippy_where_the_distribution_has_the_same_release() {
    let mut facts = debian();
    facts.programs.insert("cargo-deny");
    facts.machine.system = Some(compiler("system", 22, &COMPLETE));
    assert_eq!(packages(next(Part::Audit, &facts)), ["rust-web-clippy"]);
    facts.offered.insert("rust-web-clippy".to_owned(), (1, 85));
    assert_eq!(next(Part::Audit, &facts), Ok(None));
    facts.machine.nightly = Some(compiler("nightly", 22, &COMPLETE));
    assert_eq!(missing(Part::Audit, &facts), Vec::<String>::new());
}

#[test]
fn candidates_are_read_from_policy() {
    let policy = "\
rustc-web:
  Installed: (none)
  Candidate: 1.96.0+dfsg1-1~deb12u2
  Version table:
     1.96.0+dfsg1-1~deb12u2 500
llvm-22-dev:
  Installed: (none)
  Candidate: 1:22.1.8-1~deb12u1
nothing-here:
  Installed: (none)
  Candidate: (none)
";
    let expected = [("llvm-22-dev".to_owned(), (22, 1)), ("rustc-web".to_owned(), (1, 96))];
    assert_eq!(candidates(policy), BTreeMap::from(expected));
}
