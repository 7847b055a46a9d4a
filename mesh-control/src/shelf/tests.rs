use mesh_core::model::{LocalPod, MeshSettings};

use super::*;

fn pod(uid: &str, node: &str, enrolled: bool) -> (RecordKey, Option<Record>) {
    let pod = LocalPod {
        uid: uid.into(),
        node: node.into(),
        pod_uid: None,
        labels: Arc::default(),
        probe_ports: Vec::new(),
        enrolled,
        inbound_bypass: false,
        dns_bypass: false,
    };
    let record = Record::LocalPod(Arc::new(pod));
    (record.key(), Some(record))
}

fn after(shelf: &Shelf, sequence: u64) -> Vec<String> {
    shelf.store(ResourceType::LocalPod).after(sequence).map(|(_, entry)| entry.name.to_string()).collect()
}

#[test]
fn order_is_that_of_the_last_change() {
    let mut shelf = Shelf::default();
    shelf.apply(vec![pod("a", "n1", false), pod("b", "n1", false), pod("c", "n1", false)]);
    assert_eq!((after(&shelf, 0), shelf.sequence()), (vec!["a".into(), "b".into(), "c".into()], 3));
    shelf.apply(vec![pod("a", "n1", true)]);
    assert_eq!(after(&shelf, 0), ["b", "c", "a"]);
    assert_eq!(after(&shelf, 3), ["a"]);
    shelf.apply(vec![(pod("b", "n1", true).0, None)]);
    assert_eq!(after(&shelf, 0), ["c", "a"]);
    let gone = |after| shelf.store(ResourceType::LocalPod).gone_after(after).unwrap().count();
    assert_eq!((gone(4), gone(5)), (1, 0));
}

#[test]
fn a_version_is_that_of_the_content() {
    let version = |record: (RecordKey, Option<Record>)| {
        let mut shelf = Shelf::default();
        shelf.apply(vec![(RecordKey::Mesh, Some(Record::Mesh(Arc::new(MeshSettings::default())))), record]);
        shelf.store(ResourceType::LocalPod).get("a").unwrap().version
    };
    assert_eq!(version(pod("a", "n1", true)), version(pod("a", "n1", true)));
    assert_ne!(version(pod("a", "n1", true)), version(pod("a", "n1", false)));
    let one = version(pod("a", "n1", true));
    assert!(one.is(&one.to_string()));
    assert!(!one.is("") && !one.is("trust") && !one.is(&format!("{one}0")));
}

#[test]
fn a_pod_that_moves_is_gone_for_its_old_node() {
    let mut shelf = Shelf::default();
    shelf.apply(vec![pod("a", "n1", false)]);
    shelf.apply(vec![pod("a", "n2", false)]);
    let of = |node| shelf.pods_of(Some(node)).count();
    assert_eq!((of("n1"), of("n2"), shelf.pods_of(None).count()), (0, 1, 0));
    let gone: Vec<_> = shelf.store(ResourceType::LocalPod).gone_after(0).unwrap().collect();
    assert!(matches!(gone[..], [(2, name, Record::LocalPod(pod))] if &**name == "a" && &*pod.node == "n1"));
}

#[test]
fn removals_are_forgotten_after_a_while() {
    let mut shelf = Shelf::default();
    for index in 0..=MAX_GONE {
        let (key, record) = pod(&format!("p{index}"), "n1", false);
        shelf.apply(vec![(key.clone(), record), (key, None)]);
    }
    assert!(shelf.store(ResourceType::LocalPod).gone_after(0).is_none());
    assert_eq!(shelf.store(ResourceType::LocalPod).gone_after(2).unwrap().count(), MAX_GONE);
}
