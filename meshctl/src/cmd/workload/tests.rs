use std::os::unix::fs::PermissionsExt as _;

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn workload(words: &str) -> Workload {
    let line = Line::try_parse_from(["x", "workload"].into_iter().chain(words.split(' ')));
    let Experimental::Workload(workload) = line.unwrap_or_else(|error| panic!("{error}")).args.command;
    workload
}

#[test]
fn a_group_is_one_that_the_mesh_takes() {
    let words = "group create --name db --namespace shop --labels app=db,tier=a --annotations note=x \
                 --ports sql=5432,http=80 --serviceAccount db";
    let Workload::Group(Group::Create(create)) = workload(words) else { panic!("another command") };
    let text = serde_yaml_ng::to_string(&create.group()).unwrap();
    let group = parse_group("a", &text).unwrap();
    let spec = spec_of(&group).unwrap();
    assert_eq!((&*group.meta.namespace, &*group.meta.name), ("shop", "db"));
    assert_eq!((&*spec.metadata.labels["tier"], &*spec.metadata.annotations["note"]), ("a", "x"));
    assert_eq!((spec.template.ports["sql"].get(), &*spec.template.service_account), (5432, "db"));
    assert!(port("a=0").is_err() && port("a=x").is_err() && pair("=a").is_err());
}

#[test]
fn a_machine_gets_what_it_needs_and_nobody_else_can_read_its_token() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let group = "{apiVersion: networking.istio.io/v1, kind: WorkloadGroup, metadata: {name: db, namespace: shop}, \
                 spec: {template: {serviceAccount: db, network: vpc-1}}}";
    fs::write(at("group.yaml"), group).unwrap();
    fs::write(at("token"), "mesh-join.1.2\n").unwrap();
    fs::write(at("roots"), "PEM").unwrap();
    fs::create_dir(at("out")).unwrap();
    fs::write(at("out/istio-token"), "old").unwrap();
    let words = format!(
        "entry configure -f {0}/group.yaml -o {0}/out --join-token {0}/token --root-cert {0}/roots --ingressIP \
         203.0.113.7 --internalIP 10.0.0.5",
        place.path().display()
    );
    let Workload::Entry(Entry::Configure(configure)) = workload(&words) else { panic!("another command") };
    configure.run().unwrap();
    let said = |name: &str| fs::read_to_string(at("out").join(name)).unwrap();
    assert_eq!(
        said("cluster.env"),
        "MESH_CONTROL='https://istiod.istio-system.svc:15012'\nMESH_WORKLOAD_GROUP='shop/db'\n\
         MESH_TRUST_DOMAIN='cluster.local'\nMESH_ENROL='--enrol-cgroup /sys/fs/cgroup/mesh.slice'\n\
         MESH_OPTIONS='--address 10.0.0.5 --network vpc-1'\n"
    );
    assert_eq!((said("istio-token"), said("root-cert.pem")), ("mesh-join.1.2".to_owned(), "PEM".to_owned()));
    assert_eq!(said("hosts"), "203.0.113.7 istiod.istio-system.svc\n");
    let mode = |name: &str| fs::metadata(at("out").join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("istio-token"), 0o600);
}

fn environment(network: &str, options: &str) -> Result<String> {
    let spec = json!({"template": {"serviceAccount": "db", "network": network}});
    let (kind, meta) = ("WorkloadGroup", json!({"name": "db", "namespace": "shop"}));
    let group = json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": meta, "spec": spec});
    let group = parse_group("g", &group.to_string())?;
    let words = format!("entry configure -f g -o o --join-token t --root-cert r{options}");
    let Workload::Entry(Entry::Configure(configure)) = workload(&words) else { panic!("another command") };
    configure.environment(&group, spec_of(&group)?, &configure.trust_domain)
}

#[test]
fn what_a_group_says_is_no_command_line() {
    for network in ["a --svid-cache /", "a'b", "a\nMESH_OPTIONS=x", "$(reboot)", "-x", "a\"", "a\\", "Vpc"] {
        let error = environment(network, "").unwrap_err().to_string();
        assert!(error.contains("template.network"), "{network}: {error}");
    }
    for options in [" --trust-domain a'b", " --trust-domain x;y", " --control https://a'b"] {
        assert!(environment("", options).is_err(), "{options}");
    }
    let fine = environment("vpc-1.eu", " --trust-domain shop.example --istioNamespace mesh").unwrap();
    assert!(fine.contains("MESH_TRUST_DOMAIN='shop.example'\n"), "{fine}");
    assert!(fine.contains("MESH_CONTROL='https://istiod.mesh.svc:15012'\n"), "{fine}");
    assert!(fine.contains("MESH_OPTIONS='--network vpc-1.eu'\n"), "{fine}");
}

#[test]
fn what_is_no_group_is_refused_by_name() {
    let pod = "{apiVersion: v1, kind: Namespace, metadata: {name: a}}";
    let error = parse_group("g.yaml", pod).unwrap_err().to_string();
    assert!(error.contains("g.yaml has no WorkloadGroup"), "{error}");
}
