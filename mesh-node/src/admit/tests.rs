use std::cell::RefCell;
use std::collections::VecDeque;

use tokio::io::AsyncReadExt;

use super::*;
use crate::tls::testkit::on_data_thread;

#[test]
fn accepts_and_prepares() {
    on_data_thread(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        for (mode, reset) in [(CloseMode::Reset, true), (CloseMode::Fin, false)] {
            let counters = AcceptCounters::default();
            let accepted = RefCell::new(Vec::new());
            let mut client = tokio::select! {
                _ = accept_loop(&listener, mode, &counters, |socket, peer| accepted.borrow_mut().push((socket, peer))) =>
                    unreachable!("it never ends"),
                client = async {
                    let client = TcpStream::connect(address).await.expect("connect");
                    while accepted.borrow().is_empty() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    client
                } => client,
            };
            let (socket, peer) = accepted.borrow_mut().pop().expect("one");
            assert_eq!(peer, client.local_addr().expect("address"));
            assert!(socket.nodelay().expect("option"));
            drop(socket);
            let end = client.read(&mut [0]).await;
            assert_eq!(end.is_err(), reset, "{mode:?}: {end:?}");
            assert_eq!(counters.accepted.load(Ordering::Relaxed), 1);
        }
    });
}

#[test]
fn errors_neither_end_nor_spin_the_loop() {
    on_data_thread(async {
        let os = |code| Err(io::Error::from_raw_os_error(code));
        let mut script: VecDeque<io::Result<u8>> = VecDeque::new();
        script.extend([Ok(1), os(libc::ECONNABORTED), os(libc::EPERM), os(libc::EPROTO), Ok(2)]);
        script.extend((0..6).map(|_| os(libc::EMFILE)));
        script.extend([Ok(3), os(libc::ENFILE), os(libc::ENOMEM), os(libc::ENOBUFS), Ok(4)]);
        let script = RefCell::new(script);
        let accept = async || match script.borrow_mut().pop_front() {
            Some(result) => result,
            None => Err(io::Error::from_raw_os_error(libc::EMFILE)),
        };
        let counters = AcceptCounters::default();
        let seen = RefCell::new(Vec::new());
        let begin = Instant::now();
        let all = async {
            while seen.borrow().len() < 4 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = run(accept, &counters, |n| seen.borrow_mut().push(n)) => unreachable!("it never ends"),
            () = all => {}
        }
        assert_eq!(*seen.borrow(), [1, 2, 3, 4]);
        // 10 + 20 + 40 + 80 + 100 + 100, then from 10 again.
        assert!(begin.elapsed() >= Duration::from_millis(350 + 70));
        assert_eq!(counters.accepted.load(Ordering::Relaxed), 4);

        // Nothing but errors for half a second: ten attempts a second or so, not millions.
        let before = counters.errors.load(Ordering::Relaxed);
        let run = run(accept, &counters, |_| ());
        let _ = tokio::time::timeout(Duration::from_millis(500), run).await;
        assert!(counters.errors.load(Ordering::Relaxed) - before < 12);
    });
}

#[test]
fn one_line_a_second() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
    runtime.block_on(async {
        let mut gate = LogGate::default();
        assert_eq!(gate.pass(), Some(0));
        assert_eq!(gate.pass(), None);
        assert_eq!(gate.pass(), None);
        gate.last = gate.last.map(|last| last.checked_sub(LOG_INTERVAL).expect("uptime"));
        assert_eq!(gate.pass(), Some(2));
    });
}

#[test]
fn a_cap_turns_the_newest_away() {
    let cap = Cap::new(2);
    let (a, b) = (cap.enter().expect("first"), cap.enter().expect("second"));
    assert!(cap.enter().is_none());
    assert!(cap.clone().enter().is_none(), "clones share it");
    assert_eq!((cap.in_use(), cap.refused()), (2, 2));
    drop(a);
    let c = cap.enter().expect("free again");
    drop((b, c));
    assert_eq!(cap.in_use(), 0);
}
