use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::authorize::NodeName;
use crate::testkit::{DAY, HOUR, MemoryVault, id, now};
use crate::vault::FileVault;

fn tokens() -> (Arc<MemoryVault>, JoinTokens) {
    let vault = Arc::new(MemoryVault::default());
    (vault.clone(), JoinTokens::new(vault))
}

fn node(name: &str) -> Binding {
    Binding::Node(NodeName::parse(name).expect("a node's name"))
}

fn terms(uses: u32) -> Terms {
    Terms { binding: node("n1"), uses, lifetime: HOUR }
}

#[tokio::test]
async fn a_token_lets_in_as_often_as_it_says() {
    let (_, tokens) = tokens();
    for uses in [1, 3] {
        let token = tokens.create(terms(uses), now()).await.expect("a token");
        for left in (0..uses).rev() {
            let caller = tokens.redeem(&token.text(), now()).await.expect("in");
            assert_eq!(caller, Caller::JoinToken(node("n1")));
            let listed = tokens.list(now()).await.expect("list");
            assert_eq!(listed.first().map_or(0, |token| token.uses_left), left);
        }
        let error = tokens.redeem(&token.text(), now()).await.expect_err("used up");
        assert_eq!(error.reason(), "join_unknown");
    }
}

#[tokio::test]
async fn a_token_has_its_time() {
    let (vault, tokens) = tokens();
    let token = tokens.create(terms(9), now()).await.expect("a token");
    tokens.redeem(&token.text(), now() + HOUR - Duration::from_secs(1)).await.expect("in");
    let error = tokens.redeem(&token.text(), now() + HOUR).await.expect_err("too late");
    assert_eq!(error.reason(), "join_expired");
    assert!(tokens.list(now() + HOUR).await.expect("list").is_empty());
    tokens.create(terms(1), now() + DAY).await.expect("another");
    let text = String::from_utf8(vault.contents().get(ENTRY).expect("tokens").to_vec()).expect("text");
    assert!(!text.contains(&token.id_hex()), "expired ones are forgotten");
}

#[tokio::test]
async fn revoked_is_revoked() {
    let (_, tokens) = tokens();
    let binding = Binding::Identity(id("kiosk"));
    let first = Terms { binding: binding.clone(), uses: 2, lifetime: HOUR };
    let first = tokens.create(first, now()).await.expect("a token");
    let second = tokens.create(terms(1), now()).await.expect("a token");
    let listed = tokens.list(now()).await.expect("list");
    let of = |id: &str| listed.iter().find(|token| token.id == id).expect("listed").clone();
    assert_eq!(of(&first.id_hex()).binding, binding);
    assert_eq!(of(&second.id_hex()).expires, now() + HOUR);
    tokens.revoke(&first.id_hex(), now()).await.expect("revoked");
    assert_eq!(tokens.redeem(&first.text(), now()).await.expect_err("out").reason(), "join_unknown");
    assert_eq!(tokens.revoke(&first.id_hex(), now()).await.expect_err("gone").reason(), "join_unknown");
    tokens.redeem(&second.text(), now()).await.expect("the other is as good as before");
}

#[tokio::test]
async fn secrets_are_compared_and_not_kept() {
    let state = tempfile::tempdir().expect("directory");
    let tokens = JoinTokens::new(Arc::new(FileVault::join(state.path())));
    let token = tokens.create(terms(1), now()).await.expect("a token");
    let path = state.path().join("join").join(ENTRY);
    let kept = std::fs::read_to_string(&path).expect("tokens");
    let (_, secret) =
        token.text().rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("parts");
    assert!(!kept.contains(&secret) && !format!("{token:?} {tokens:?}").contains(&secret));
    assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);

    let other = tokens.create(terms(1), now()).await.expect("a token");
    let text = token.text();
    let (_, other_secret) =
        other.text().rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("parts");
    let mixed = text.replace(&secret, &other_secret);
    for (wrong, reason) in [
        (mixed.as_str(), "join_unknown"),
        (&text.replace(&secret, &"0".repeat(64)), "join_unknown"),
        (&text.replace(&token.id_hex(), &"0".repeat(16)), "join_unknown"),
        (&text[..text.len() - 1], "join_malformed"),
        (&format!("{text}0"), "join_malformed"),
        (&format!("{text} "), "join_malformed"),
        (&text.to_uppercase(), "join_malformed"),
        (
            &text.replace(&secret, &secret.to_uppercase().replace(|c: char| c.is_ascii_digit(), "A")),
            "join_malformed",
        ),
        (&text.replace("mesh-join.", ""), "join_malformed"),
        (&kept, "join_malformed"),
        ("", "join_malformed"),
        ("mesh-join..", "join_malformed"),
        ("mesh-join.é.é", "join_malformed"),
    ] {
        assert_eq!(tokens.redeem(wrong, now()).await.expect_err(wrong).reason(), reason, "{wrong}");
    }
    tokens.redeem(&text, now()).await.expect("none of these has used it up");
}

#[test]
fn a_race_has_as_many_winners_as_uses() {
    let state = tempfile::tempdir().expect("directory");
    let tokens = JoinTokens::new(Arc::new(FileVault::join(state.path())));
    let token = block(tokens.create(terms(3), now())).expect("a token").text();
    let wins: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let tokens = JoinTokens::new(Arc::new(FileVault::join(state.path())));
                    usize::from(block(tokens.redeem(&token, now())).is_ok())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("thread")).sum()
    });
    assert_eq!(wins, 3);
}

#[tokio::test]
async fn a_use_counts_only_once_it_is_written_down() {
    let (vault, tokens) = tokens();
    let token = tokens.create(terms(1), now()).await.expect("a token");
    vault.state.lock().expect("vault").conflicts = 3;
    tokens.redeem(&token.text(), now()).await.expect("tried again after others were faster");
    let token = tokens.create(terms(1), now()).await.expect("a token");
    vault.state.lock().expect("vault").dies_after = Some(0);
    assert_eq!(
        tokens.redeem(&token.text(), now()).await.expect_err("no vault").reason(),
        "ca_vault_unavailable"
    );
    vault.state.lock().expect("vault").dies_after = None;
    vault.state.lock().expect("vault").conflicts = usize::MAX;
    assert_eq!(tokens.redeem(&token.text(), now()).await.expect_err("no end").reason(), "ca_conflict");
}

#[tokio::test]
async fn there_are_limits() {
    let (vault, tokens) = tokens();
    let refused = |terms: Terms| {
        let tokens = &tokens;
        async move { tokens.create(terms, now()).await.expect_err("refused").reason() }
    };
    assert_eq!(refused(terms(0)).await, "join_terms");
    assert_eq!(refused(terms(MAX_USES + 1)).await, "join_terms");
    assert_eq!(refused(Terms { lifetime: Duration::ZERO, ..terms(1) }).await, "join_terms");
    assert_eq!(refused(Terms { lifetime: MAX_LIFETIME + HOUR, ..terms(1) }).await, "join_terms");
    let node = SpiffeId::parse("spiffe://cluster.local/ns/nodes.mesh/sa/n1").expect("identity");
    assert_eq!(refused(Terms { binding: Binding::Identity(node), ..terms(1) }).await, "node_identity");
    let mut ledger = Ledger::default();
    for _ in 1..MAX_TOKENS {
        let token = JoinToken { id: random(), secret: random() };
        ledger.insert(token.id_hex(), Record::new(&token, &terms(1), now())).expect("room");
    }
    vault.state.lock().expect("vault").entries.insert(ENTRY.into(), ledger.to_text());
    tokens.create(terms(1), now()).await.expect("the last that fits");
    assert_eq!(refused(terms(1)).await, "join_too_many");
    let size = vault.contents().get(ENTRY).expect("tokens").len() as u64;
    assert!(size < crate::vault::MAX_ENTRY, "{size}");
    tokens.create(terms(1), now() + DAY).await.expect("those that have expired make room");
}

#[tokio::test]
async fn what_was_tampered_with_lets_nobody_in() {
    let (vault, tokens) = tokens();
    let token = tokens.create(terms(1), now()).await.expect("a token");
    let good = String::from_utf8(vault.contents().get(ENTRY).expect("tokens").to_vec()).expect("text");
    let changes = [
        ("\"usesLeft\": 1", "\"usesLeft\": 0"),
        ("n1", "N 1"),
        ("\"hash\": \"", "\"hash\": \"0"),
        ("usesLeft", "uses"),
        ("{", ""),
    ];
    for (from, to) in changes {
        assert!(good.contains(from), "{good}");
        let bad = good.replacen(from, to, 1);
        vault.state.lock().expect("vault").entries.insert(ENTRY.into(), bad.into_bytes());
        let error = tokens.redeem(&token.text(), now()).await.expect_err(to);
        assert_eq!(error.reason(), "join_corrupt");
        assert!(error.to_string().contains(ENTRY), "{error}");
    }
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(future)
}
