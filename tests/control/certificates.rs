//! Who gets which certificate, over the wire; and what the audit log says of it.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use tonic::Code;

use crate::caller::{Svid, Wish, ask, certify, join, plain, tls};
use crate::discovery::app;
use crate::plane::{Plane, until};

const HOUR: Duration = Duration::from_secs(3600);

fn start() -> Result<Plane> {
    let (a, b) = (app("a", "n1", "10.1.0.1", 80), app("b", "n2", "10.2.0.2", 80));
    Plane::start(&[("a.yaml", &a), ("b.yaml", &b)], &["--max-svid-lifetime", "1h"])
}

fn account(namespace: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{namespace}")
}

/// Asks without a certificate; the code of the refusal.
async fn refused(plane: &Plane, wish: &Wish<'_>) -> Result<Code> {
    match certify(tls(plane, None).await?, wish).await {
        Ok(svid) => anyhow::bail!("granted: {:?}", svid.leaf()?),
        Err(status) => Ok(status.code()),
    }
}

/// The lines of the audit log about requests of clients.
fn asked(plane: &Plane) -> Vec<String> {
    let own = |line: &String| line.contains("the control plane itself");
    plane.audit().into_iter().filter(|line| line.contains("Certificate") && !own(line)).collect()
}

#[tokio::test]
async fn join_tokens_let_in_whom_they_name_and_as_often_as_they_say() -> Result<()> {
    let plane = start()?;
    for uses in 1..=2_u8 {
        let token = plane.token("n1", &["--uses", &uses.to_string()])?;
        let wish = Wish { token: Some(&token), ..Wish::default() };
        for _ in 0..uses {
            let svid = certify(tls(&plane, None).await?, &wish).await?;
            let (names, _) = svid.leaf()?;
            ensure!(names.len() == 1 && names[0].ends_with("/n1"), "{names:?}");
        }
        ensure!(refused(&plane, &wish).await? == Code::Unauthenticated, "the use after the last");
    }
    let good = plane.token("n1", &[])?;
    let (head, last) = good.split_at(good.len() - 1);
    let wrong = format!("{head}{}", if last == "0" { "1" } else { "0" });
    ensure!(
        refused(&plane, &Wish { token: Some(&wrong), ..Wish::default() }).await? == Code::Unauthenticated,
        "guessed"
    );

    let short = plane.token("n1", &["--lifetime", "1s"])?;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    ensure!(
        refused(&plane, &Wish { token: Some(&short), ..Wish::default() }).await? == Code::Unauthenticated,
        "expired"
    );

    // A request that cannot be read does not cost a use; a wish that nobody grants does.
    let wish = Wish { token: Some(&good), ..Wish::default() };
    let garbage = ask(tls(&plane, None).await?, "garbage".to_owned(), &wish).await;
    ensure!(garbage.is_err_and(|status| status.code() == Code::InvalidArgument), "no request");
    certify(tls(&plane, None).await?, &wish).await.context("the token is still good")?;

    // Two who race for one use: one has it.
    let token = plane.token("n1", &[])?;
    let wish = Wish { token: Some(&token), ..Wish::default() };
    let channels = [tls(&plane, None).await?, tls(&plane, None).await?, tls(&plane, None).await?];
    let [a, b, c] = channels;
    let (a, b, c) = tokio::join!(certify(a, &wish), certify(b, &wish), certify(c, &wish));
    let won = [a.is_ok(), b.is_ok(), c.is_ok()].into_iter().filter(|won| *won).count();
    ensure!(won == 1, "{won} have joined with a token for one");
    Ok(())
}

#[tokio::test]
async fn a_node_may_be_its_pods_and_nobody_elses() -> Result<()> {
    let plane = start()?;
    let (first, second) = (join(&plane, "n1").await?, join(&plane, "n2").await?);
    let own = first.leaf()?.0.remove(0);
    let renewed = certify(tls(&plane, Some(&first)).await?, &Wish::default()).await?;
    ensure!(renewed.leaf()?.0 == [own.clone()], "it renews its own");
    ensure!(renewed.chain[0] != first.chain[0], "which is another certificate");

    let (a, b) = (account("a"), account("b"));
    let other = second.leaf()?.0.remove(0);
    let pod = impersonate(&plane, &first, &a).await?.context("its own pod")?;
    ensure!(pod.leaf()?.0 == [a.clone()], "{:?}", pod.leaf()?);
    let nobody = "spiffe://cluster.local/ns/a/sa/nobody";
    let foreign = "spiffe://elsewhere/ns/a/sa/a";
    let table = [
        (&first, &*a, true),
        (&first, &*b, false),
        (&second, &*b, true),
        (&second, &*a, false),
        (&first, &*other, false),
        (&first, nobody, false),
        (&first, foreign, false),
        (&first, "spiffe://cluster.local/ns/istio-system/sa/mesh-control", false),
        // A pod is itself and no other, not even one on its own node.
        (&pod, &*a, true),
        (&pod, &*b, false),
        (&pod, &*own, false),
    ];
    let mut lines = asked(&plane).len();
    for (caller, wanted, granted) in table {
        let who = caller.leaf()?.0;
        match (impersonate(&plane, caller, wanted).await?, granted) {
            (Some(svid), true) => {
                ensure!(svid.leaf()?.0 == [wanted], "{who:?} as {wanted} is {:?}", svid.leaf()?);
            }
            (None, false) => {}
            (svid, _) => anyhow::bail!("{who:?} as {wanted}: granted {}", svid.is_some()),
        }
        lines += 1;
        until(Duration::from_secs(1), || asked(&plane).len() >= lines)
            .await
            .context("a line in the audit log")?;
        let log = asked(&plane);
        ensure!(log.len() == lines, "one line each: {log:#?}");
        let last = log.last().context("a line")?;
        ensure!(
            last.contains("svid") && last.contains(wanted) && last.contains(&who[0]),
            "{who:?} as {wanted}: {last}"
        );
        ensure!(last.contains("signed") == granted, "{last}");
    }

    // Where a pod runs is what counts now, not what counted before.
    plane.write("a.yaml", &app("a", "n2", "10.2.0.1", 80))?;
    let mut moved = false;
    for _ in 0..30 {
        moved = impersonate(&plane, &first, &a).await?.is_none();
        if moved {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(moved, "the pod has left the node");
    ensure!(impersonate(&plane, &second, &a).await?.is_some(), "and is on the other");
    Ok(())
}

/// The certificate, or `None` if it is refused for whose it is.
async fn impersonate(plane: &Plane, caller: &Svid, id: &str) -> Result<Option<Svid>> {
    let wish = Wish { impersonated: Some(id), ..Wish::default() };
    match certify(tls(plane, Some(caller)).await?, &wish).await {
        Ok(svid) => Ok(Some(svid)),
        Err(status) if status.code() == Code::PermissionDenied => Ok(None),
        Err(status) => Err(status.into()),
    }
}

#[tokio::test]
async fn a_request_says_nothing_but_its_key() -> Result<()> {
    let plane = start()?;
    let node = join(&plane, "n1").await?;
    let b = account("b");
    let wish = Wish { names: vec![&b, "spiffe://cluster.local/ns/kube-system/sa/admin"], ..Wish::default() };
    let svid = certify(tls(&plane, Some(&node)).await?, &wish).await?;
    ensure!(svid.leaf()?.0 == node.leaf()?.0, "names of the request: {:?}", svid.leaf()?);

    let now = SystemTime::now();
    for (seconds, most) in [(0, HOUR), (i64::MAX, HOUR), (1_000_000_000, HOUR), (60, Duration::from_secs(60))]
    {
        let wish = Wish { seconds, ..Wish::default() };
        let (_, end) = certify(tls(&plane, Some(&node)).await?, &wish).await?.leaf()?;
        let life = end.duration_since(now)?;
        let slack = Duration::from_secs(5);
        ensure!(life <= most + slack && life + slack >= most, "{seconds} s: lives for {life:?}");
    }
    let wish = Wish { seconds: -1, ..Wish::default() };
    let status = certify(tls(&plane, Some(&node)).await?, &wish).await.err().context("granted")?;
    ensure!(status.code() == Code::InvalidArgument, "{status:?}");
    Ok(())
}

/// Whoever is turned away has a line in the audit log with how they tried and where they came from.
#[tokio::test]
async fn who_proves_nothing_gets_nothing() -> Result<()> {
    let plane = start()?;
    let headers: [(Option<&[u8]>, &str); 9] = [
        (None, "none"),
        (Some(b""), "token"),
        (Some(b"Bearer"), "token"),
        (Some(b"Bearer "), "token"),
        (Some(b"Basic dXNlcjpwYXNz"), "token"),
        (Some(b"Bearer eyJhbGciOiJub25lIn0.e30."), "token"),
        (Some(b"Bearer mesh-join.zz.zz"), "token"),
        (Some(b"Bearer \xff\xfe\xfd"), "token"),
        (Some(b"bearer mesh-join.0000000000000000.0000"), "token"),
    ];
    for (authorization, method) in headers {
        let before = asked(&plane).len();
        let wish = Wish { authorization, ..Wish::default() };
        let code = refused(&plane, &wish).await?;
        ensure!(code == Code::Unauthenticated, "{authorization:?}: {code:?}");
        until(Duration::from_secs(1), || asked(&plane).len() > before)
            .await
            .context("a line in the audit log")?;
        let log = asked(&plane);
        let last = log.last().context("a line")?;
        ensure!(log.len() == before + 1, "one line each: {log:#?}");
        let parts = [format!("method=\"{method}\""), "unauthenticated".to_owned(), "peer=127.".to_owned()];
        ensure!(parts.iter().all(|part| last.contains(part)), "{last}");
        ensure!(!last.contains("eyJ") && !last.contains("mesh-join."), "what was shown is a secret: {last}");
    }
    // Longer than any: HTTP itself refuses it.
    let long = [b"Bearer ".to_vec(), vec![b'x'; 20_000]].concat();
    let long =
        certify(tls(&plane, None).await?, &Wish { authorization: Some(&long), ..Wish::default() }).await;
    ensure!(long.is_err(), "a token of 20,000 bytes");

    // The plain port gives certificates to nobody, and a token that is shown there is not used up.
    let token = plane.token("n1", &[])?;
    let wish = Wish { token: Some(&token), ..Wish::default() };
    for wish in [&Wish::default(), &wish] {
        let status =
            certify(plain(&plane, Ipv4Addr::LOCALHOST).await?, wish).await.err().context("granted")?;
        ensure!(status.code() == Code::Unauthenticated, "{status:?}");
    }
    certify(tls(&plane, None).await?, &wish).await.context("the token is still good")?;

    // A certificate of somebody else's CA is nobody's.
    let other = start()?;
    let stranger = join(&other, "n1").await?;
    let outcome = match tls(&plane, Some(&stranger)).await {
        Err(_) => None,
        Ok(channel) => certify(channel, &Wish::default()).await.ok(),
    };
    ensure!(outcome.is_none(), "another mesh's node is none of ours");
    Ok(())
}
