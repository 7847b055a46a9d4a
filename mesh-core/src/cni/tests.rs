use std::collections::BTreeMap;

use super::*;

const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u-1";

fn parse(changes: &[(&str, &str)], input: &Value) -> Result<Call, CniError> {
    let mut variables: BTreeMap<&str, &str> = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/var/run/netns/cni-1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", ARGS),
    ]
    .into();
    variables.extend(changes.iter().copied());
    Call::parse(|name| variables.get(name).map(|value| (*value).to_owned()), input.to_string().as_bytes())
}

fn conf() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": PLUGIN, "socket": "/run/s", "waitSeconds": 5,
        "excludeNamespaces": ["kube-system"],
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/var/run/netns/cni-1"}],
            "ips": [{"address": "10.1.0.1/24", "interface": 0}, {"address": "10.1.0.7/24", "interface": 1}, {"address": "fd00::7/64"}],
            "unknown": {"kept": [1, "a"]}
        }
    })
}

#[test]
fn an_add_asks_and_passes_the_result_on() {
    let call = parse(&[], &conf()).expect("good");
    let question = call.question.clone().expect("asked");
    assert_eq!(
        question.pod,
        Some(PodRef { namespace: "shop".into(), name: "cart-0".into(), uid: Some("u-1".into()) })
    );
    assert_eq!(question.ips, ["10.1.0.7", "fd00::7"].map(|ip| ip.parse::<IpAddr>().expect("good")));
    assert_eq!((question.netns.as_deref(), question.patience_ms), (Some("/var/run/netns/cni-1"), 5000));
    for answer in [Answer::Captured, Answer::Outside { reason: "r".into() }] {
        let printed = call.conclude(Ok(answer)).expect("let through").expect("printed");
        assert_eq!(serde_json::from_str::<Value>(&printed).expect("JSON"), conf()["prevResult"]);
    }
}

#[test]
fn nothing_but_a_good_answer_lets_a_pod_start() {
    let call = parse(&[], &conf()).expect("good");
    let away = call.conclude(Err("no such file".into())).expect_err("closed");
    assert_eq!(away.code, CniError::TRY_AGAIN);
    for part in ["shop/cart-0", "/run/s", "no such file", "mesh-node"] {
        assert!(away.to_string().contains(part), "{part}: {away}");
    }
    let refused = call.conclude(Ok(Answer::Refused { reason: "no certificate".into() })).expect_err("closed");
    assert_eq!(refused.code, CniError::NOT_CAPTURED);
    assert!(refused.to_string().contains("no certificate"));
    let printed: Value = serde_json::from_str(&refused.render("1.0.0")).expect("JSON");
    assert_eq!((&printed["code"], &printed["cniVersion"]), (&json!(100), &json!("1.0.0")));
}

#[test]
fn who_is_not_asked_about() {
    let excluded = ARGS.replace("=shop", "=kube-system");
    for args in
        [excluded.as_str(), "", "IgnoreUnknown=1", "K8S_POD_NAME=a", "K8S_POD_NAMESPACE=;K8S_POD_NAME=a"]
    {
        let call = parse(&[("CNI_ARGS", args)], &conf()).expect("good");
        assert_eq!(call.question, None, "{args}");
        assert!(call.output.is_some(), "{args}");
    }
    // The list is of namespaces, not of what they begin with.
    let near = ARGS.replace("=shop", "=kube-system-2");
    assert!(parse(&[("CNI_ARGS", &near)], &conf()).expect("good").question.is_some());
}

#[test]
fn an_end_never_fails_for_the_agents_sake() {
    let mut bare = conf();
    bare.as_object_mut().expect("an object").remove("prevResult");
    for netns in ["", "/var/run/netns/cni-1"] {
        let call = parse(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", netns)], &bare).expect("good");
        let question = call.question.clone().expect("told");
        assert!(question.patience_ms <= 1000);
        assert_eq!(call.conclude(Err("away".into())), Ok(None));
        assert_eq!(call.conclude(Ok(Answer::Refused { reason: "no".into() })), Ok(None));
    }
}

#[test]
fn the_other_verbs() {
    let check = parse(&[("CNI_COMMAND", "CHECK")], &conf()).expect("good");
    assert_eq!(check.conclude(Ok(Answer::Captured)), Ok(None));
    assert!(check.conclude(Err("away".into())).is_err());
    let status = parse(&[("CNI_COMMAND", "STATUS")], &json!({"cniVersion": "1.1.0"})).expect("good");
    assert_eq!((status.question, status.output), (None, None));
    let version = parse(&[("CNI_COMMAND", "VERSION")], &json!({"cniVersion": "9.0.0"})).expect("good");
    assert_eq!(version.output.expect("printed")["supportedVersions"], json!(VERSIONS));
    let attachments =
        json!([{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "eth0"}]);
    // libcni sends both names since the first one was found to differ from the specification.
    for names in [
        &["cni.dev/valid-attachments"][..],
        &["cni.dev/attachments"],
        &["cni.dev/valid-attachments", "cni.dev/attachments"],
    ] {
        let mut gc = json!({"cniVersion": "1.1.0"});
        names.iter().for_each(|name| gc[name] = attachments.clone());
        let gc = parse(&[("CNI_COMMAND", "GC")], &gc).expect("good");
        assert_eq!(gc.question.clone().expect("told").containers, ["c1", "c2"]);
        assert_eq!(gc.conclude(Err("away".into())), Ok(None));
    }
    let nothing = parse(&[("CNI_COMMAND", "GC")], &json!({"cniVersion": "1.1.0"})).expect("good");
    assert_eq!(
        (nothing.question, nothing.output),
        (None, None),
        "without a list nothing is known to be gone"
    );
}

#[test]
fn wrong_calls_are_told_apart() {
    let mut alone = conf();
    alone.as_object_mut().expect("an object").remove("prevResult");
    let mut old = conf();
    old["cniVersion"] = json!("0.2.0");
    for (changes, input, code) in [
        (vec![("CNI_COMMAND", "ATTACH")], conf(), CniError::ENVIRONMENT),
        (vec![("CNI_COMMAND", "")], conf(), CniError::ENVIRONMENT),
        (vec![("CNI_CONTAINERID", "")], conf(), CniError::ENVIRONMENT),
        (vec![("CNI_NETNS", "")], conf(), CniError::ENVIRONMENT),
        (vec![], alone, CniError::CONFIGURATION),
        (vec![], old, CniError::VERSION),
        (vec![], json!([]), CniError::DECODE),
        (vec![], json!({"socket": 7}), CniError::DECODE),
    ] {
        assert_eq!(parse(&changes, &input).expect_err("wrong").code, code, "{changes:?}");
    }
}

#[test]
fn how_pods_stand() {
    use crate::model::{CompileOptions, compile};
    let pod = |name: &str, labels: &str, node: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{namespace: shop, name: {name}, uid: u-{name}, labels: {{{labels}}}}}, \
             spec: {{nodeName: {node}, containers: [{{name: c, image: i}}]}}, status: {{phase: Pending}}}}\n"
        )
    };
    let ambient = "istio.io/dataplane-mode: ambient";
    let text = [pod("in", ambient, "node1"), pod("out", "", "node1"), pod("far", ambient, "node2")].concat();
    let parsed = crate::resource::parse(&crate::resource::SourceFile { name: "t", text: &text });
    let options = CompileOptions { node: "node1".to_owned(), ..CompileOptions::default() };
    let snapshot = compile(&parsed.objects, &options).snapshot;
    let stand = |name: &str, uid: Option<&str>| {
        let pod = PodRef { namespace: "shop".into(), name: name.into(), uid: uid.map(str::to_owned) };
        match standing(&snapshot, &pod) {
            Standing::Enrolled => "in",
            Standing::Outside(_) => "out",
            Standing::Unknown(_) => "unknown",
        }
    };
    for (name, uid, expected) in [
        ("in", Some("u-in"), "in"),
        ("in", None, "in"),
        // The word is of a pod that had the name before.
        ("in", Some("u-new"), "unknown"),
        ("out", Some("u-out"), "out"),
        ("out", Some("u-new"), "unknown"),
        ("far", Some("u-far"), "unknown"),
        ("none", None, "unknown"),
    ] {
        assert_eq!(stand(name, uid), expected, "{name} {uid:?}");
    }
}

#[test]
fn without_configuration_nothing_is_known() {
    let pod = PodRef { namespace: "shop".into(), name: "cart-0".into(), uid: None };
    assert!(matches!(standing(&Snapshot::default(), &pod), Standing::Unknown(_)));
}
