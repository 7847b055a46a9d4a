use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

fn pings(count: usize) -> Vec<u8> {
    PING.repeat(count)
}

#[tokio::test(flavor = "current_thread")]
async fn a_server_reads_no_more_than_it_may_and_says_so() {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let (mut far, watch) = Guarded::server(far);
    near.write_all(&[0; 24]).await.expect("the preface");
    near.write_all(&pings(999)).await.expect("room");
    let mut all = vec![0; 24 + PING.len() * 999];
    far.read_exact(&mut all).await.expect("they are fine");
    assert!(!watch.is_enough());
    near.write_all(&pings(50)).await.expect("room");
    far.read_exact(&mut all[..PING.len() * 2]).await.expect("one read more");
    tokio::time::timeout(Duration::from_secs(5), watch.enough()).await.expect("it is enough");
    let more = tokio::time::timeout(Duration::from_millis(50), far.read(&mut all)).await;
    assert!(more.is_err(), "nothing more is read");
}

#[tokio::test(flavor = "current_thread")]
async fn a_client_takes_too_much_for_an_error() {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let (mut far, watch) = Guarded::client(far);
    near.write_all(&pings(2_000)).await.expect("room");
    let mut all = Vec::new();
    let error = far.read_to_end(&mut all).await.expect_err("too much");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(watch.is_enough() && all.len() < PING.len() * 2_000);
}

#[tokio::test(flavor = "current_thread")]
async fn what_goes_out_pays_for_what_comes() {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let (mut far, watch) = Guarded::client(far);
    far.write_all(&[0; 24]).await.expect("the preface");
    far.flush().await.expect("out");
    near.read_exact(&mut [0; 24]).await.expect("it is there");
    let headers = [0, 0, 1, 1, 5, 0, 0, 0, 7, 0x88];
    let mut all = [0; PING.len() * 10];
    for _ in 0..500 {
        // In two parts, of which the head of the frame is not whole in the first.
        far.write_all(&headers[..4]).await.expect("room");
        far.write_all(&headers[4..]).await.expect("room");
        far.flush().await.expect("out");
        near.read_exact(&mut [0; 10]).await.expect("it is there");
        near.write_all(&pings(10)).await.expect("room");
        far.read_exact(&mut all).await.expect("they are fine");
    }
    assert!(!watch.is_enough());
    tokio::time::timeout(Duration::from_secs(5), watch.opened(7)).await.expect("it went out");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn whoever_was_told_to_go_gets_to_read_it() {
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
    for told in [true, false] {
        let (mut near, far) = tokio::io::duplex(64);
        let (mut far, _) = Guarded::server(far);
        if told {
            far.write_all(&goaway).await.expect("room");
        }
        let begun = tokio::time::Instant::now();
        far.shutdown().await.expect("closed");
        assert_eq!(begun.elapsed() >= LINGER, told);
        // One that hangs up is not waited for.
        near.shutdown().await.expect("closed");
        let begun = tokio::time::Instant::now();
        far.shutdown().await.expect("closed");
        assert!(begun.elapsed() < LINGER);
    }
}
