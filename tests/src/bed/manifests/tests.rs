use super::*;

const MIXED: &str = "# top\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: a}\nspec: {ports: [{port: 80}]}\n--- # third\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i, comand: [x]}]}\n";

#[test]
fn documents_put_together_are_the_file() {
    let parts = documents("x.yaml", MIXED);
    assert_eq!(parts.iter().map(|(_, t)| *t).collect::<String>(), MIXED);
    assert_eq!(parts.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 1, 2, 3]);
    assert_eq!(documents("x.yaml", "a: 1\n---\nb: 2").iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(documents("x.json", "{}\n---\n{}").len(), 1);
}

#[test]
fn completed_kinds_leave_their_place_and_broken_ones_stay() {
    let file = ManifestFile::parse("x.yaml", MIXED.to_owned());
    assert!(file.published.contains("kind: Namespace"), "{}", file.published);
    assert!(!file.published.contains("kind: Service"), "{}", file.published);
    assert!(file.published.contains("comand"), "the node has to report it: {}", file.published);
    assert_eq!(documents("x.yaml", &file.published).len(), documents("x.yaml", MIXED).len());
    assert_eq!(file.objects.services.keys().map(Key::to_string).collect::<Vec<_>>(), ["a/s"]);
    assert!(file.objects.pods.is_empty());
    assert!(
        file.problems.iter().any(|p| p.starts_with("x.yaml:3 ") && p.contains("comand")),
        "{:?}",
        file.problems
    );
}

#[test]
fn lists_lose_only_what_is_completed() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n- {apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i}]}}\n";
    let file = ManifestFile::parse("l.yaml", list.to_owned());
    assert!(file.published.contains("Namespace") && !file.published.contains("Pod"), "{}", file.published);
    assert_eq!((file.objects.namespaces.len(), file.objects.pods.len()), (1, 1));
}

#[test]
fn objects_survive_a_broken_edit() {
    let directory = std::env::temp_dir().join(format!("bed-manifests-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join("p.yaml");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}]}\n";
    let mut input = Input::default();
    fs::write(&path, pod).unwrap();
    assert!(input.refresh(&directory).unwrap());
    assert!(!input.refresh(&directory).unwrap());
    fs::write(&path, &pod[..pod.len() - 4]).unwrap();
    assert!(input.refresh(&directory).unwrap());
    assert_eq!((input.objects().pods.len(), input.problems().is_empty()), (1, false));
    fs::remove_file(&path).unwrap();
    assert!(input.refresh(&directory).unwrap());
    assert!(input.objects().pods.is_empty());
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn separates_objects_by_name() {
    let names: Vec<String> = separate(MIXED).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["Namespace..a.yaml", "Service.a.s.yaml", "Pod.default.p.yaml"]);
    assert!(separate("a: [").first().unwrap().0.starts_with("text-"));
}
