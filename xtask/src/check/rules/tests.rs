use super::*;

fn lines(count: usize) -> String {
    "fn f() {}\n".repeat(count)
}

fn test_module(lines: usize) -> String {
    format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "fn t() {}\n".repeat(lines - 3))
}

#[test]
fn a_file_may_be_as_long_as_its_budget_and_no_longer() {
    assert_eq!(judge_rust("mesh-core/src/a.rs", &lines(FILE_LINES)), Vec::<String>::new());
    let findings = judge_rust("mesh-core/src/a.rs", &lines(FILE_LINES + 1));
    assert_eq!(findings, ["mesh-core/src/a.rs:1: 601 lines without tests (at most 600: split by subject)"]);
}

#[test]
fn test_lines_have_a_budget_of_their_own() {
    let long_code = lines(FILE_LINES) + &test_module(INLINE_TEST_LINES);
    assert_eq!(judge_rust("xtask/src/a.rs", &long_code), Vec::<String>::new());
    let findings = judge_rust("xtask/src/a.rs", &test_module(INLINE_TEST_LINES + 1));
    assert_eq!(findings, ["xtask/src/a.rs:1: a test module of 151 lines (at most 150: move it to tests.rs)"]);
}

#[test]
fn files_of_tests_have_no_budget() {
    for file in
        ["mesh-core/src/a/tests.rs", "mesh-core/tests/a.rs", "tests/e2e/main.rs", "tests/src/bed/tests.rs"]
    {
        assert_eq!(judge_rust(file, &lines(FILE_LINES + 1)), Vec::<String>::new(), "{file}");
    }
    for file in ["tests/src/bed.rs", "mesh-core/src/attests.rs"] {
        assert_eq!(judge_rust(file, &lines(FILE_LINES + 1)).len(), 1, "{file}");
    }
}

#[test]
fn unsafe_code_has_its_places() {
    let code = "unsafe { f() }";
    for file in
        ["mesh-ebpf/src/connect.rs", "mesh-common/src/lib.rs", "mesh-node/src/sys.rs", "tests/src/sys/ns.rs"]
    {
        assert_eq!(judge_rust(file, code), Vec::<String>::new(), "{file}");
    }
    for file in
        ["mesh-node/src/system.rs", "mesh-core/src/lib.rs", "tests/src/bed.rs", "mesh-node/src/run/sys.rs"]
    {
        assert_eq!(judge_rust(file, code).len(), 1, "{file}");
    }
    assert_eq!(judge_rust("mesh-core/src/lib.rs", "#![forbid(unsafe_code)] // unsafe"), Vec::<String>::new());
}

#[test]
fn decisions_do_not_look_at_the_clock() {
    let code = "let now = std::time::Instant::now();";
    assert_eq!(judge_rust("mesh-core/src/lb.rs", code).len(), 1);
    assert_eq!(judge_rust("mesh-core/src/lb/tests.rs", code), Vec::<String>::new());
    assert_eq!(judge_rust("mesh-node/src/run.rs", code), Vec::<String>::new());
}

#[test]
fn paths_of_one_machine_are_named_with_their_line() {
    let machine = ["/somewhere/mesh/".to_owned()];
    let findings = names_of_machine("README.md", "fine\nsee /somewhere/mesh/docs\n", &machine);
    assert_eq!(findings, ["README.md:2: names /somewhere/mesh/, which exists on one machine only"]);
}
