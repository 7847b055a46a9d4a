use std::future::poll_fn;
use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::*;
use crate::l7::message::Broken;
use crate::tls::testkit::tcp_pair;

const TIMEOUTS: Timeouts = Timeouts {
    head: Duration::from_secs(5),
    idle: Duration::from_secs(5),
    body: Duration::from_millis(300),
    enough: 100,
    answer: Duration::from_millis(400),
};

/// A client that has sent the head of a request with a body of so many bytes.
async fn client(length: usize) -> (TcpStream, H1Downstream) {
    let (mut far, near) = tcp_pair().await;
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    far.write_all(head.as_bytes()).await.unwrap();
    let mut client = H1Downstream::new(near.into(), BytesMut::new(), false, Limits::default(), TIMEOUTS);
    poll_fn(|cx| client.poll_request(cx)).await.unwrap().unwrap();
    (far, client)
}

/// Reads the body to its end, with a pause after each piece; how it ended, and how long it took.
async fn read(client: &mut H1Downstream, pause: Duration) -> (Result<(), Broken>, Duration) {
    let begun = Instant::now();
    loop {
        match poll_fn(|cx| client.poll_piece(cx)).await {
            Ok(Piece::Data(_)) => tokio::time::sleep(pause).await,
            Ok(Piece::End(_)) => return (Ok(()), begun.elapsed()),
            Err(broken) => return (Err(broken), begun.elapsed()),
        }
    }
}

async fn drip(far: &mut TcpStream, pieces: usize, bytes: usize) {
    for _ in 0..pieces {
        far.write_all(&vec![b'x'; bytes]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_body_that_drips_is_given_up_however_often_a_byte_comes() {
    let (mut far, mut client) = client(1000).await;
    let ((ended, took), ()) = tokio::join!(read(&mut client, Duration::ZERO), drip(&mut far, 10, 1));
    assert!(matches!(ended, Err(Broken::TimedOut(_))), "{ended:?}");
    assert!((250..450).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn a_body_that_comes_slowly_but_comes_is_read_to_its_end() {
    let (mut far, mut client) = client(1000).await;
    let ((ended, took), ()) = tokio::join!(read(&mut client, Duration::ZERO), drip(&mut far, 20, 50));
    assert!(ended.is_ok() && took > Duration::from_millis(800), "{ended:?} after {took:?}");
}

#[tokio::test]
async fn that_the_server_is_slow_is_not_the_clients_fault() {
    let (mut far, mut client) = client(60).await;
    let slow = Duration::from_millis(200);
    let ((ended, _), ()) = tokio::join!(read(&mut client, slow), drip(&mut far, 6, 10));
    assert!(ended.is_ok(), "{ended:?}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    let (mut far, mut client) = client(10).await;
    let ((ended, _), ()) = tokio::join!(read(&mut client, Duration::ZERO), drip(&mut far, 1, 10));
    assert!(ended.is_ok(), "{ended:?}");
    let begun = Instant::now();
    let broken = poll_fn(|cx| client.poll_gone(cx)).await;
    assert!(
        matches!(broken, Broken::TimedOut(_)) && begun.elapsed() > Duration::from_millis(250),
        "{broken:?}"
    );
}
