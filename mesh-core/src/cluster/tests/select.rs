//! Which rules apply.

use proptest::prelude::*;

use super::*;
use crate::resource::value::ExportTo;

const REVIEWS: &str = "reviews.book.svc.cluster.local";

struct Case {
    id: &'static str,
    /// `namespace/name host`, and `exportTo` or `labels` if there are any.
    rules: &'static [&'static str],
    /// Namespace and labels.
    client: (&'static str, &'static str),
    host: &'static str,
    /// The rules, in their order.
    applies: &'static str,
}

#[test]
fn rules_that_apply() {
    for Case { id, rules: texts, client: (namespace, own), host, applies } in CASES {
        let text: String = texts.iter().map(|text| written(text)).collect();
        let own = labels(own);
        let client = Client { namespace, labels: &own };
        let owner = host.split('.').nth(1).unwrap_or_default();
        let policy = resolve(&rules(&text), &client, &Destination::new(owner, host, 80), None).unwrap();
        assert_eq!(names(&policy), *applies, "{id}");
    }
}

fn written(text: &str) -> String {
    let mut words = text.split(' ');
    let (namespace, name) = words.next().unwrap().split_once('/').unwrap();
    let host = format!("host: \"{}\"", words.next().unwrap());
    let rest = words.map(|word| match word.split_once(':').unwrap() {
        ("exportTo", value) => format!("exportTo: [\"{}\"]", value.replace(',', "\", \"")),
        (_, value) => format!("workloadSelector: {{matchLabels: {{{}}}}}", value.replace('=', ": ")),
    });
    let spec = std::iter::once(host).chain(rest).collect::<Vec<_>>().join("\n");
    rule(namespace, name, &spec)
}

const fn case(
    id: &'static str,
    rules: &'static [&'static str],
    client: (&'static str, &'static str),
    applies: &'static str,
) -> Case {
    Case { id, rules, client, host: REVIEWS, applies }
}

const CASES: &[Case] = &[
    case("none", &[], ("book", ""), ""),
    case("short name", &["book/a reviews"], ("book", ""), "book/a"),
    case("a short name is one of the rule's namespace", &["shop/a reviews"], ("shop", ""), ""),
    case(
        "full name in the client's namespace",
        &["shop/a reviews.book.svc.cluster.local"],
        ("shop", ""),
        "shop/a",
    ),
    case("a third namespace has no say", &["other/a reviews.book.svc.cluster.local"], ("shop", ""), ""),
    case("letters are equal in any case", &["book/a Reviews.Book.svc.cluster.local"], ("book", ""), "book/a"),
    case("a dot at the end", &["book/a reviews.book.svc.cluster.local."], ("book", ""), "book/a"),
    case("the service's namespace", &["book/a reviews"], ("shop", ""), "book/a"),
    case(
        "the client's before the service's before the root",
        &["istio-system/r *.local", "book/b reviews", "shop/a *.svc.cluster.local"],
        ("shop", ""),
        "shop/a",
    ),
    case(
        "the service's before the root",
        &["istio-system/r *.local", "book/b reviews"],
        ("shop", ""),
        "book/b",
    ),
    case("the root for everybody", &["istio-system/r *.local"], ("shop", ""), "istio-system/r"),
    case(
        "the root's own clients look at the service first",
        &["istio-system/r *.local", "book/b reviews"],
        ("istio-system", ""),
        "book/b",
    ),
    case(
        "what the root keeps to itself is for its own clients",
        &["istio-system/r *.local exportTo:.", "book/b reviews"],
        ("istio-system", ""),
        "istio-system/r",
    ),
    case(
        "what the root keeps to itself is for nobody else",
        &["istio-system/r *.local exportTo:."],
        ("shop", ""),
        "",
    ),
    case("exported to all", &["book/a reviews exportTo:*"], ("shop", ""), "book/a"),
    case("not exported", &["book/a reviews exportTo:."], ("shop", ""), ""),
    case("not exported, and not needed", &["book/a reviews exportTo:."], ("book", ""), "book/a"),
    case("exported to the client", &["book/a reviews exportTo:x,shop"], ("shop", ""), "book/a"),
    case("exported to others only", &["book/a reviews exportTo:shop"], ("book", ""), ""),
    case(
        "what is not seen hides nothing",
        &["book/a reviews exportTo:.", "book/b *.book.svc.cluster.local"],
        ("shop", ""),
        "book/b",
    ),
    case(
        "exact before wildcard",
        &["book/w *.book.svc.cluster.local", "book/a reviews"],
        ("book", ""),
        "book/a",
    ),
    case(
        "the longest wildcard",
        &["book/a *", "book/b *.local", "book/c *.cluster.local", "book/d *.com"],
        ("book", ""),
        "book/c",
    ),
    case("a part of a label", &["book/a *views.book.svc.cluster.local"], ("book", ""), "book/a"),
    case("a star is at least one character", &["book/a *reviews.book.svc.cluster.local"], ("book", ""), ""),
    case("the oldest first", &["book/b reviews", "book/a reviews"], ("book", ""), "book/b book/a"),
    case("only one host", &["book/a reviews", "book/b *.local"], ("book", ""), "book/a"),
    case(
        "a selector that selects the client",
        &["book/a reviews", "book/s reviews labels:app=x"],
        ("book", "app=x,v=b"),
        "book/s",
    ),
    case(
        "a selector that selects others",
        &["book/a reviews", "book/s reviews labels:app=x"],
        ("book", "app=y"),
        "book/a",
    ),
    case("selectors end at the namespace", &["book/s reviews labels:app=x"], ("shop", "app=x"), ""),
    case(
        "equal selectors are merged, others are not",
        &["book/s reviews labels:app=x", "book/t reviews labels:v=b", "book/u reviews labels:app=x"],
        ("book", "app=x,v=b"),
        "book/s book/u",
    ),
    case(
        "who is selected by nobody asks elsewhere",
        &["shop/s reviews.book.svc.cluster.local labels:app=x", "book/a reviews"],
        ("shop", ""),
        "book/a",
    ),
    Case {
        id: "a wildcard service",
        rules: &["book/a *.example.com", "book/b *.com"],
        client: ("book", ""),
        host: "*.example.com",
        applies: "book/a",
    },
];

#[test]
fn the_mesh_can_keep_rules_to_themselves() {
    let mut all = rules(&rule("book", "a", "host: reviews"));
    assert_eq!(names(&policy(&all, "shop", REVIEWS, None)), "book/a");
    let defaults = Defaults { export_to: vec![ExportTo::Own], ..Defaults::default() };
    all.set_defaults(Arc::new(defaults));
    assert_eq!(names(&policy(&all, "shop", REVIEWS, None)), "");
    assert_eq!(names(&policy(&all, "book", REVIEWS, None)), "book/a");
}

#[test]
fn short_names_follow_the_domain() {
    let mut all = rules(&rule("book", "a", "host: reviews"));
    let defaults = Defaults { cluster_domain: "example.org".into(), ..Defaults::default() };
    all.set_defaults(Arc::new(defaults));
    assert_eq!(names(&policy(&all, "book", "reviews.book.svc.example.org", None)), "book/a");
    assert_eq!(names(&policy(&all, "book", REVIEWS, None)), "");
    assert_eq!(all.remove("book", "a").unwrap().name, "a".into());
    assert_eq!(names(&policy(&all, "book", "reviews.book.svc.example.org", None)), "");
}

#[test]
fn versions_do_not_share_changes() {
    let before = rules(&rule("book", "a", "host: reviews"));
    let mut after = before.clone();
    assert!(after.remove("book", "b").is_none());
    assert!(after.remove("book", "a").is_some());
    after.insert(parsed(&rule("book", "b", "host: ratings")).remove(0));
    assert_eq!(names(&policy(&before, "book", REVIEWS, None)), "book/a");
    assert_eq!(names(&policy(&after, "book", REVIEWS, None)), "");
    assert_eq!(after.iter().map(|rule| &*rule.name).collect::<Vec<_>>(), ["b"]);
    assert!(before.get("book", "a").is_some() && before.get("book", "b").is_none());
}

#[test]
fn a_rule_that_moves_to_another_host_leaves_the_old_one() {
    let mut all = rules(&rule("book", "a", "host: ratings"));
    all.insert(parsed(&rule("book", "a", "host: \"*.book.svc.cluster.local\"")).remove(0));
    assert_eq!(names(&policy(&all, "book", REVIEWS, None)), "book/a");
    all.insert(parsed(&rule("book", "a", "host: ratings")).remove(0));
    assert_eq!(names(&policy(&all, "book", REVIEWS, None)), "");
}

proptest! {
    /// Filing and taking out leave the same as never having filed.
    #[test]
    fn the_index_only_knows_what_is_there(steps in prop::collection::vec((0..4usize, 0..4usize, any::<bool>()), 0..30)) {
        let hosts = ["reviews", "\"*\"", "\"*.local\"", "ratings"];
        let mut all = Rules::default();
        let mut there = BTreeMap::new();
        for (name, host, put) in steps {
            let name = format!("r{name}");
            if put {
                let one = parsed(&rule("book", &name, &format!("host: {}", hosts[host]))).remove(0);
                all.insert(Arc::clone(&one));
                there.insert(name, one);
            } else {
                prop_assert_eq!(all.remove("book", &name), there.remove(&name));
            }
        }
        let mut fresh = Rules::default();
        there.into_values().for_each(|one| fresh.insert(one));
        for host in [REVIEWS, "ratings.book.svc.cluster.local", "other.com", "x.local"] {
            prop_assert_eq!(policy(&all, "book", host, None), policy(&fresh, "book", host, None));
        }
    }
}
