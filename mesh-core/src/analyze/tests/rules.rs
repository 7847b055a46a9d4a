//! What holds beside single codes.

use super::*;
use crate::resource::Level;

const ROUTE: &str = "hosts: [reviews]\nhttp: [{route: [{destination: {host: gone}}]}]";

#[test]
fn a_message_is_one_line_whatever_users_write() {
    let text = document("VirtualService", "x", ROUTE);
    assert_eq!(
        lines(&text),
        ["1.yaml:1 Error [IST0101] spec.http[0].route[0].destination.host: there is no service \"gone\" \
          (a short name is a Service of namespace book)"]
    );
    let message = Message {
        field: "a\nb".into(),
        reason: "c\rd".into(),
        hint: Some("e\u{85}f".into()),
        ..messages(&text).remove(0)
    };
    assert_eq!(message.to_string(), "1.yaml:1 Error [IST0101] a b: c d (e f)");
}

#[test]
fn a_service_of_another_namespace_is_named() {
    let text = document("VirtualService", "x", ROUTE).replace("book", "other").replace("gone", "reviews");
    let hint = messages(&text).remove(0).hint.unwrap_or_default();
    assert_eq!(hint, "write reviews.book.svc.cluster.local if that one is meant");
    let text = document("VirtualService", "x", ROUTE).replace("gone", "reviews.book");
    assert_eq!(messages(&text).remove(0).hint, Some(hint));
}

#[test]
fn an_annotation_suppresses_messages_of_its_object() {
    let annotated = |codes: &str| {
        let metadata =
            format!("namespace: book, annotations: {{galley.istio.io/analyze-suppress: \"{codes}\"}}");
        places(&document("VirtualService", "x", ROUTE).replace("namespace: book", &metadata))
    };
    assert_eq!(annotated("IST0102,IST0101"), Vec::<String>::new());
    assert_eq!(annotated("IST0102, IST0101"), Vec::<String>::new());
    assert_eq!(annotated("*"), Vec::<String>::new());
    assert_eq!(annotated("IST0102").len(), 1);
    assert_eq!(annotated("IST01").len(), 1);
}

#[test]
fn what_was_refused_is_not_missing_as_well() {
    let broken = |kind: &str, name: &str, spec: &str| document(kind, name, spec);
    let service =
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: gone, namespace: book}\nspec: {prots: []}\n";
    let text = document("VirtualService", "x", ROUTE) + service;
    assert!(places(&text).iter().all(|place| place.starts_with("IST0106")), "{:?}", lines(&text));

    let gateway = broken("Gateway", "g", "selector: {a: b}\nservers: [{prot: 1}]");
    let route = "hosts: [a.example.com]\ngateways: [g]\nhttp: [{route: [{destination: {host: reviews}}]}]";
    let text = document("VirtualService", "x", route) + &gateway;
    assert!(places(&text).iter().all(|place| place.starts_with("IST0106")), "{:?}", lines(&text));

    let rule = broken("DestinationRule", "two", "host: two\nsubset: []");
    let route = "hosts: [two]\nhttp: [{route: [{destination: {host: two, subset: v1, port: {number: 80}}}]}]";
    let text = document("VirtualService", "x", route) + &rule;
    assert!(places(&text).iter().all(|place| place.starts_with("IST0106")), "{:?}", lines(&text));

    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: book}\nspec: {container: []}\n";
    let policy = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x, namespace: book}\n\
                  spec: {selector: {matchLabels: {app: p}}, rules: [{}]}\n";
    let text = format!("{pod}{policy}");
    assert!(places(&text).iter().all(|place| place.starts_with("IST0106")), "{:?}", lines(&text));
}

#[test]
fn pods_of_controllers_that_the_mesh_does_not_read_count() {
    let template = "template: {metadata: {labels: {app: set}}}";
    for (api, kind, spec) in [
        ("apps/v1", "StatefulSet", format!("{{{template}}}")),
        ("apps/v1", "DaemonSet", format!("{{{template}}}")),
        ("batch/v1", "CronJob", format!("{{jobTemplate: {{spec: {{{template}}}}}}}")),
    ] {
        let controller = format!(
            "---\napiVersion: {api}\nkind: {kind}\nmetadata: {{name: s, namespace: book}}\nspec: {spec}\n"
        );
        let policy = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                      metadata: {name: x, namespace: book}\nspec: {selector: {matchLabels: {app: set}}, rules: [{}]}\n";
        assert_eq!(lines(&format!("{controller}{policy}")), Vec::<String>::new());
        assert_eq!(places(policy), ["IST0127 spec.selector"]);
    }
}

#[test]
fn a_host_is_only_found_where_it_is_exported_to() {
    let entry = |export: &str| {
        let spec =
            "hosts: [db.example.com]\nports: [{number: 80, name: http, protocol: HTTP}]\nresolution: DNS";
        let text = document("ServiceEntry", "db", &format!("{spec}\nexportTo: [EXPORT]"));
        text.replace("book", "data").replace("EXPORT", export)
    };
    let route = document("VirtualService", "x", &ROUTE.replace("gone", "db.example.com"));
    for (export, is_seen) in [("'*'", true), ("book", true), (".", false), ("'~'", false), ("data", false)] {
        assert_eq!(places(&(entry(export) + &route)).is_empty(), is_seen, "{export}");
    }
    let service = |export: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: data, annotations: \
             {{networking.istio.io/exportTo: \"{export}\"}}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n"
        )
    };
    let route = document("VirtualService", "x", &ROUTE.replace("gone", "s.data.svc.cluster.local"));
    for (export, is_seen) in [("*", true), ("a, book", true), (".", false), ("data", false), ("", true)] {
        assert_eq!(places(&(service(export) + &route)).is_empty(), is_seen, "{export}");
    }
}

#[test]
fn a_wildcard_entry_is_every_host_below_it() {
    let entry =
        "hosts: ['*.example.com']\nports: [{number: 80, name: http, protocol: HTTP}]\nresolution: NONE";
    let entry = document("ServiceEntry", "wild", entry);
    for (host, is_known) in [("a.example.com", true), ("a.b.example.com", true), ("example.com", false)] {
        let route = document("VirtualService", "x", &ROUTE.replace("gone", host));
        assert_eq!(places(&(entry.clone() + &route)).is_empty(), is_known, "{host}");
    }
}

#[test]
fn both_hear_of_a_conflict_however_many_there_are() {
    let service = |name: &str| {
        document(
            "VirtualService",
            name,
            "hosts: [reviews]\nhttp: [{route: [{destination: {host: reviews}}]}]",
        )
    };
    let text = service("a") + &service("b") + &service("c");
    let others: Vec<_> = messages(&text)
        .iter()
        .map(|message| {
            let name = message.key.as_ref().map(|key| key.name.to_string()).unwrap_or_default();
            format!("{name} {}", message.reason.rsplit('/').next().unwrap_or_default())
        })
        .collect();
    assert_eq!(others, ["a b", "b a", "c a"]);
}

#[test]
fn hosts_only_conflict_where_both_are_seen() {
    let service = |name: &str, export: &str| {
        let spec = "hosts: [reviews]\nhttp: [{route: [{destination: {host: reviews}}]}]";
        document("VirtualService", name, &format!("{spec}\nexportTo: [{export}]"))
    };
    for (one, two, conflict) in [
        ("'*'", "'*'", true),
        ("'*'", "a", true),
        ("a", "'*'", true),
        (".", "book", true),
        ("a, b", "b, c", true),
        ("a", "b", false),
        (".", "a", false),
    ] {
        let places = places(&(service("x", one) + &service("y", two)));
        assert_eq!(places.len(), if conflict { 2 } else { 0 }, "{one} {two}: {places:?}");
    }
}

#[test]
fn an_item_of_a_list_is_judged_like_a_document() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: networking.istio.io/v1\n  kind: VirtualService\n  \
                metadata: {name: x, namespace: book}\n  spec:\n    hosts: [reviews]\n    http:\n    \
                - route: [{destination: {host: reviews}}]\n    - route: [{destination: {host: reviews}}]\n";
    assert_eq!(places(text), ["IST0130 spec.http[1]"]);
}

#[test]
fn codes_are_istios() {
    assert!(Code::ALL.is_sorted_by_key(|code| code.number()));
    for code in Code::ALL {
        assert_eq!(code.to_string().parse(), Ok(*code));
        assert!(code.documentation_url().contains(&code.to_string().to_lowercase()));
    }
    assert_eq!(Code::ReferencedResourceNotFound.to_string(), "IST0101");
    assert_eq!(Code::NamespaceNotInjected.level(), Level::Info);
    assert!("IST0000".parse::<Code>().is_err());
    assert!("ist0101".parse::<Code>().is_err());
}

#[test]
fn messages_stand_in_the_order_of_the_documents() {
    let text = document("VirtualService", "b", ROUTE) + &document("DestinationRule", "a", "host: gone");
    assert_eq!(places(&text), ["IST0101 spec.http[0].route[0].destination.host", "IST0174 spec.host"]);
}

#[test]
fn a_secret_is_missed_where_all_secrets_are_known() {
    let gateway = document(
        "Gateway",
        "a",
        "selector: {istio: ingress}
servers:
- {port: {number: 443, name: a, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: SIMPLE, credentialName: c}}",
    );
    // Files leave Secrets to whoever makes them; a cluster has what it has.
    assert_eq!(places(&gateway), Vec::<String>::new());
    let whole = Options { secrets_are_complete: true, ..Options::default() };
    let parsed = read(&[BOOK, &gateway]);
    let said: Vec<_> = analyze(&parsed, &whole).iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "1.yaml:1 Error [IST0101] spec.servers[0].tls.credentialName: there is no Secret \"c\" in namespace book"
        ]
    );
    let named: Vec<_> = secrets(&parsed, &whole).iter().map(ToString::to_string).collect();
    assert_eq!(named, ["Secret book/c", "Secret book/c-cacert"]);
    // One that was refused is there.
    let refused = format!(
        "{gateway}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: c, namespace: book}}\ndata: {{tls.crt: '!'}}"
    );
    assert!(places(&refused).iter().all(|place| place.starts_with("IST0106")), "{:?}", lines(&refused));
}
