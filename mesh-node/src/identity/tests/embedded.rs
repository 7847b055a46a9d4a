//! The CA of a state directory at the side of the node: real handshakes between certificates of all its ages.

use std::fs;
use std::path::Path;

use mesh_ca::rotation::{self, Dwell};
use mesh_ca::{Ca, FileVault, Limits, Material};

use super::*;
use crate::tls::testkit::{HOUR, issue};
use crate::tls::{Trust, accept, connect};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn open(state: &Path, now: SystemTime) -> Ca {
    Ca::open(Arc::new(FileVault::ca(state)), &domain(), Limits::default(), now).await.expect("a CA")
}

/// Lays a CA out as a user would.
fn plug_in(state: &Path, ca: &TestCa) {
    let dir = state.join("ca");
    fs::create_dir_all(&dir).expect("directory");
    for name in ["root-cert.pem", "ca-cert.pem", "cert-chain.pem"] {
        fs::write(dir.join(name), ca.pem()).expect("certificate");
    }
    fs::write(dir.join("ca-key.pem"), ca.key_pem()).expect("key");
}

/// One handshake; the reasons of client and server, `ok` where there is none.
async fn shake(client: &Svid, server: &Svid) -> [&'static str; 2] {
    let (near, far) = tcp_pair().await;
    let (near, far) = tokio::join!(connect(near, client, server.id()), accept(far, server));
    [near.map_or_else(|e| e.reason(), |_| "ok"), far.map_or_else(|e| e.reason(), |_| "ok")]
}

/// A node: its view of the CA, its trust, and the certificates that its pods may still have.
struct Node {
    ca: Ca,
    trust: Arc<Trust>,
    account: &'static str,
    svids: Vec<Svid>,
}

impl Node {
    async fn new(state: &Path, account: &'static str, now: SystemTime) -> Self {
        let ca = open(state, now).await;
        let trust = Arc::new(Trust::new(Sign::bundle(&ca), vec![domain()]));
        let mut node = Self { ca, trust, account, svids: Vec::new() };
        node.issue();
        node
    }

    fn issue(&mut self) {
        self.svids.push(issue(&self.ca, &id(self.account), HOUR, &self.trust).expect("a certificate"));
    }

    /// Hears of what has changed, and gets one more certificate.
    async fn look(&mut self) {
        Sign::refresh(&self.ca).await.expect("a good CA");
        self.trust.set_bundle(Sign::bundle(&self.ca));
        self.issue();
    }
}

/// All certificates of one with all of the other, both ways.
async fn all_shake(a: &Node, b: &Node, when: &str) {
    for (i, x) in a.svids.iter().enumerate() {
        for (j, y) in b.svids.iter().enumerate() {
            assert_eq!(shake(x, y).await, ["ok"; 2], "{when}: {i} to {j}");
            assert_eq!(shake(y, x).await, ["ok"; 2], "{when}: {j} back to {i}");
        }
    }
}

#[test]
fn no_handshake_fails_while_the_root_changes() {
    on_data_thread(async {
        let state = tempfile::tempdir().expect("directory");
        let (vault, domain) = (FileVault::ca(state.path()), domain());
        let dwell = Dwell::of(DAY);
        let now = SystemTime::now();
        let mut quick = Node::new(state.path(), "quick", now - DAY * 9).await;
        let mut slow = Node::new(state.path(), "slow", now - DAY * 9).await;
        let old_root = slow.trust.bundle();
        all_shake(&quick, &slow, "before").await;

        let next = Material::self_made(&domain, now - DAY * 8).expect("a root");
        for phase in ["added", "switched", "removed"] {
            match phase {
                "added" => rotation::begin(&vault, &domain, &next, dwell, now - DAY * 6).await,
                "switched" => rotation::switch(&vault, &domain, dwell, now - DAY * 3).await,
                _ => rotation::finish(&vault, &domain, dwell, now).await,
            }
            .expect(phase);
            // What is older than the phase before has expired in the dwell.
            for node in [&mut quick, &mut slow] {
                let older = node.svids.len().saturating_sub(1);
                node.svids.drain(..older);
            }
            quick.look().await;
            all_shake(&quick, &slow, &format!("{phase}, one node knows")).await;
            slow.look().await;
            all_shake(&quick, &slow, &format!("{phase}, both know")).await;
        }

        // What has happened is a change of the root indeed: who has slept through it, is out.
        let late = Arc::new(Trust::new(old_root, vec![domain.clone()]));
        let sleeper = issue(&quick.ca, &id("sleeper"), HOUR, &late).expect("a certificate");
        let [client, server] = shake(&quick.svids[1], &sleeper).await;
        assert_eq!((client, server), ("ok", "untrusted_chain"));
    });
}

#[test]
fn a_root_that_is_not_announced_breaks_handshakes() {
    on_data_thread(async {
        let [one, other] = [(); 2].map(|()| tempfile::tempdir().expect("directory"));
        let a = Node::new(one.path(), "a", SystemTime::now()).await;
        let b = Node::new(other.path(), "b", SystemTime::now()).await;
        assert_eq!(shake(&a.svids[0], &b.svids[0]).await[0], "untrusted_chain");
    });
}

#[test]
fn what_is_revoked_is_refused_and_a_bad_list_changes_nothing() {
    on_data_thread(async {
        let (ours, forger) = (TestCa::new("root"), TestCa::new("root"));
        let state = tempfile::tempdir().expect("directory");
        plug_in(state.path(), &ours);
        let list = state.path().join("ca/ca-crl.pem");
        let mut node = Node::new(state.path(), "good", SystemTime::now()).await;
        node.issue();
        let [good, bad] = &*node.svids else { unreachable!("two were issued") };
        assert_eq!(shake(bad, good).await, ["ok"; 2], "not yet");

        fs::write(&list, ours.crl(&[bad.serial()])).expect("list");
        Sign::refresh(&node.ca).await.expect("a good list");
        node.trust.set_bundle(Sign::bundle(&node.ca));
        assert_eq!(shake(bad, good).await[1], "certificate_revoked", "as a client");
        assert_eq!(shake(good, bad).await[0], "certificate_revoked", "as a server");
        assert_eq!(shake(good, good).await, ["ok"; 2], "others are as before");

        let whole = ours.crl(&[]);
        let cut = &whole[..whole.len() / 2];
        let bads = [("garbage", "not a list"), ("cut", cut), ("forged", &*forger.crl(&[]))];
        for (name, text) in bads {
            fs::write(&list, text).expect("list");
            for _ in 0..2 {
                let error = Sign::refresh(&node.ca).await.expect_err(name);
                assert_eq!(error.reason(), "ca_file_malformed", "{name}: {error}");
                assert!(error.to_string().contains("ca-crl.pem"), "{error}");
            }
            node.trust.set_bundle(Sign::bundle(&node.ca));
            assert_eq!(shake(bad, good).await[1], "certificate_revoked", "{name}: the last good list stays");
        }
        fs::write(&list, &whole).expect("list");
        Sign::refresh(&node.ca).await.expect("a good list");
        node.trust.set_bundle(Sign::bundle(&node.ca));
        assert_eq!(shake(bad, good).await, ["ok"; 2], "a newer list no longer has it");

        fs::write(&list, "garbage").expect("list");
        let vault = Arc::new(FileVault::ca(state.path()));
        Ca::open(vault, &domain(), Limits::default(), SystemTime::now())
            .await
            .expect_err("a start has no last good list to fall back on");
    });
}

#[test]
fn an_intermediate_can_be_revoked() {
    on_data_thread(async {
        let root = TestCa::new("root");
        let (spoilt, sound) = (root.intermediate("spoilt"), root.intermediate("sound"));
        let (victim, server) = (spoilt.svid("victim"), sound.svid("server"));
        assert_eq!(shake(&victim, &server).await, ["ok"; 2]);
        let list = root.crl(&[&spoilt.serial()]);
        let bundle = Bundle::parse(root.pem().as_bytes(), list.as_bytes()).expect("a bundle");
        let trust = Arc::new(Trust::new(Arc::new(bundle), vec![domain()]));
        let server = issue(&sound, &id("server"), HOUR, &trust).expect("a certificate");
        assert_eq!(shake(&victim, &server).await[1], "certificate_revoked");
        assert_eq!(shake(&sound.svid("client"), &server).await, ["ok"; 2]);
    });
}
