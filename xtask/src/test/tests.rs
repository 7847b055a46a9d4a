use super::*;

#[test]
fn suites_are_known_by_name() {
    for suite in Suite::ALL.into_iter().chain(Suite::PARTS) {
        assert_eq!(suite.name().parse(), Ok(suite));
    }
}

#[test]
fn planned_and_unknown_suites_say_so() {
    assert!("interop".parse::<Suite>().unwrap_err().contains("planned"));
    assert!("nonsense".parse::<Suite>().unwrap_err().contains(
        "unit, control, kubernetes, gateway, conformance, fuzz, gateway-api, ebpf, cni, e2e, observability, browser, security"
    ));
}

#[test]
fn unit_takes_every_test_target_but_the_other_suites() {
    let workspace: Workspace = serde_json::from_value(serde_json::json!({
        "target_directory": "/x/target", "workspace_members": ["a", "b"],
        "packages": [
            {"id": "a", "name": "mesh-a", "dependencies": [], "targets": [{"name": "forms", "kind": ["test"]}]},
            {"id": "b", "name": "mesh-b", "dependencies": [], "targets": [
                {"name": "e2e", "kind": ["test"]}, {"name": "chaos", "kind": ["test"]}, {"name": "b", "kind": ["lib"]}
            ]},
        ],
    }))
    .unwrap();
    let runs = Suite::Unit.runs(&workspace).unwrap();
    assert_eq!(runs[0].selection, ["--workspace", "--exclude=mesh-ebpf", "--lib", "--bins", "--test=forms"]);
    assert_eq!(runs[1].selection, ["--workspace", "--exclude=mesh-ebpf", "--doc"]);
    assert_eq!(
        Suite::EndToEnd.runs(&workspace).unwrap()[0].selection,
        ["--workspace", "--exclude=mesh-ebpf", "--test=e2e"]
    );
    assert!(Suite::Ebpf.runs(&workspace).is_err());
}
