use std::collections::BTreeMap;

use super::*;

/// An attribute and its values.
type Extra<'a> = (&'a str, &'a [&'a str]);

fn review(username: &str, audiences: &[&str], extra: &[Extra<'_>]) -> TokenReviewStatus {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let extra: BTreeMap<_, _> = extra.iter().map(|(key, list)| ((*key).to_owned(), owned(list))).collect();
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(owned(audiences)),
        error: None,
        user: Some(UserInfo {
            username: Some(username.to_owned()),
            extra: Some(extra),
            ..UserInfo::default()
        }),
    }
}

fn ask(status: &TokenReviewStatus) -> Result<Caller, TokenError> {
    parse(status, &["istio-ca".to_owned()])
}

const CART: &str = "system:serviceaccount:shop:cart";

#[test]
fn a_bound_token_names_account_pod_and_node() {
    let extra: &[Extra<'_>] = &[
        (POD_NAME, &["cart-1"]),
        (POD_UID, &["6b29"]),
        (NODE_NAME, &["n1"]),
        ("authentication.kubernetes.io/node-uid", &["77aa"]),
        ("authentication.kubernetes.io/credential-id", &["JTI=1"]),
    ];
    let caller = ask(&review(CART, &["istio-ca"], extra)).expect("a caller");
    let expected = Caller::ServiceAccountToken {
        namespace: "shop".into(),
        service_account: "cart".into(),
        audiences: vec!["istio-ca".into()],
        pod: Some(PodRef { name: "cart-1".into(), uid: "6b29".into() }),
        node: Some(NodeName::parse("n1").expect("name")),
    };
    assert_eq!(caller, expected);
}

#[test]
fn an_unbound_token_names_the_account() {
    let mut status = review(CART, &["other", "istio-ca"], &[]);
    status.user.as_mut().expect("user").extra = None;
    let Caller::ServiceAccountToken { pod, node, audiences, .. } = ask(&status).expect("a caller") else {
        panic!("an account")
    };
    assert_eq!((pod, node, audiences.len()), (None, None, 2));
}

#[test]
fn what_is_not_proven_is_refused() {
    let good = || review(CART, &["istio-ca"], &[]);
    let reason = |status: &TokenReviewStatus| ask(status).expect_err("refused").reason();
    assert!(ask(&good()).is_ok());
    for authenticated in [None, Some(false)] {
        assert_eq!(reason(&TokenReviewStatus { authenticated, ..good() }), "token_invalid");
    }
    let error = Some("token expired".to_owned());
    let refused = ask(&TokenReviewStatus { error, ..good() }).expect_err("refused");
    assert_eq!(refused.to_string(), "the token is not valid: token expired");
    assert_eq!(reason(&TokenReviewStatus { audiences: None, ..good() }), "wrong_audience");
    for audiences in [&[][..], &["vault"], &["istio-ca "], &["ISTIO-CA"]] {
        assert_eq!(reason(&review(CART, audiences, &[])), "wrong_audience", "{audiences:?}");
    }
    assert_eq!(reason(&TokenReviewStatus { user: None, ..good() }), "not_a_service_account");
    assert_eq!(reason(&TokenReviewStatus::default()), "token_invalid");
}

#[test]
fn only_service_accounts_are_callers() {
    for name in [
        "",
        "kubernetes-admin",
        "system:node:n1",
        "system:serviceaccount:",
        "system:serviceaccount:shop",
        "system:serviceaccount::cart",
        "system:serviceaccount:shop:",
        "system:serviceaccount:shop:cart:x",
        "x:system:serviceaccount:shop:cart",
        "system:serviceaccounts:shop:cart",
    ] {
        let refused = ask(&review(name, &["istio-ca"], &[])).expect_err(name);
        assert_eq!(refused, TokenError::NotAServiceAccount(name.to_owned()));
    }
}

#[test]
fn attributes_have_one_value() {
    let (name, uid): (Extra<'_>, Extra<'_>) = ((POD_NAME, &["a"]), (POD_UID, &["1"]));
    let cases: [(&[Extra<'_>], &str); 7] = [
        (&[name], POD_UID),
        (&[uid], POD_NAME),
        (&[(POD_NAME, &["a", "b"]), uid], POD_NAME),
        (&[name, uid, (NODE_NAME, &["n1", "n2"])], NODE_NAME),
        (&[name, uid, (NODE_NAME, &["n1", "n1"])], NODE_NAME),
        (&[name, uid, (NODE_NAME, &[""])], NODE_NAME),
        (&[name, uid, (NODE_NAME, &["../n1"])], NODE_NAME),
    ];
    for (extra, attribute) in cases {
        let refused = ask(&review(CART, &["istio-ca"], extra)).expect_err(attribute);
        assert_eq!(refused, TokenError::BadAttribute(attribute), "{extra:?}");
    }
    ask(&review(CART, &["istio-ca"], &[(NODE_NAME, &[])])).expect("no value is no attribute");
}
