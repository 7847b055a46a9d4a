//! Clients that take their time: each is given up, and its origin is told nothing that is not so.

use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::edge::process::HTTPS;

use crate::h2;
use crate::stand::{Stand, Wire};

/// A head that never ends, a byte each half second.
pub(crate) fn head(stand: &Stand) -> Result<()> {
    let begun = Instant::now();
    let mut wire = stand.wire()?;
    let mut dripping = wire.0.try_clone()?;
    let drip = thread::spawn(move || {
        // Until it is closed.
        let endless =
            b"GET /a HTTP/1.1\r\nHost: slow-head.test\r\nX-A: ".iter().chain(std::iter::repeat(&b'b'));
        for byte in endless.take(120) {
            if dripping.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(500));
        }
    });
    let said = wire.rest();
    let took = begun.elapsed();
    drop(drip);
    let said = String::from_utf8_lossy(&said?).into_owned();
    ensure!(said.starts_with("HTTP/1.1 408 "), "{said:?}");
    ensure!(took < Duration::from_secs(13), "after {took:?}");
    ensure!(stand.seen("slow-head.test").is_empty(), "the origin has seen it");
    Ok(())
}

/// Nothing at all, and half a hello of TLS.
pub(crate) fn silence(stand: &Stand) -> Result<()> {
    let mut wire = stand.wire()?;
    is_given_up(&mut wire, Duration::from_secs(13)).context("nothing at all")?;
    let mut wire = stand.wire_to(HTTPS)?;
    is_given_up(&mut wire, Duration::from_secs(8)).context("no hello")?;
    let mut wire = stand.wire_to(HTTPS)?;
    wire.send(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3])?;
    is_given_up(&mut wire, Duration::from_secs(8)).context("half a hello")
}

fn is_given_up(wire: &mut Wire, patience: Duration) -> Result<()> {
    let begun = Instant::now();
    wire.rest()?;
    let took = begun.elapsed();
    ensure!(took < patience, "after {took:?}");
    Ok(())
}

/// The beginning of what every client of HTTP/2 says.
pub(crate) fn preface(stand: &Stand) -> Result<()> {
    let took = h2::half_a_preface(stand)?;
    ensure!(took < Duration::from_secs(13), "after {took:?}");
    Ok(())
}

/// A body of a byte a second, which would keep its place for a week.
pub(crate) fn body(stand: &Stand) -> Result<()> {
    let begun = Instant::now();
    let mut wire = stand.wire()?;
    wire.0.set_read_timeout(Some(Duration::from_secs(100)))?;
    wire.send(b"POST /a HTTP/1.1\r\nHost: slow-body.test\r\nContent-Length: 600000\r\n\r\n")?;
    let mut dripping = wire.0.try_clone()?;
    let drip = thread::spawn(move || {
        while begun.elapsed() < Duration::from_secs(100) && dripping.write_all(b"b").is_ok() {
            thread::sleep(Duration::from_secs(1));
        }
    });
    let said = wire.rest();
    let took = begun.elapsed();
    drop(drip);
    let said = String::from_utf8_lossy(&said?).into_owned();
    ensure!(!said.contains(" 200 "), "{said:?}");
    ensure!(took < Duration::from_secs(80), "after {took:?}");
    let whole = stand.seen("slow-body.test").iter().any(|seen| seen.complete);
    ensure!(!whole, "the origin takes it for whole");
    Ok(())
}
