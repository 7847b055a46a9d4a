use std::cell::RefCell;
use std::collections::VecDeque;

use tokio::io::AsyncReadExt;

use super::*;
use crate::sys::sockopt::{self, Close};
use crate::tls::testkit::on_data_thread;

#[test]
fn accepts_and_prepares() {
    on_data_thread(async {
        for (mode, reset) in [(Close::Reset, true), (Close::Fin, false)] {
            let listener = sockopt::listen(([127, 0, 0, 1], 0).into(), 8, mode).expect("listen");
            let listener = TcpListener::from_std(listener).expect("registered");
            let address = listener.local_addr().expect("address");
            let accepted = RefCell::new(Vec::new());
            let mut client = tokio::select! {
                _ = accept_loop(&listener, |_| (), |socket, peer| accepted.borrow_mut().push((socket, peer))) =>
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
            assert!(accepted.borrow().is_empty());
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
        let seen = RefCell::new(Vec::new());
        let errors = Cell::new(0);
        let failed = |_: &io::Error| errors.set(errors.get() + 1);
        let begin = Instant::now();
        let all = async {
            while seen.borrow().len() < 4 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = run(accept, failed, |n| seen.borrow_mut().push(n)) => unreachable!("it never ends"),
            () = all => {}
        }
        assert_eq!(*seen.borrow(), [1, 2, 3, 4]);
        // 10 + 20 + 40 + 80 + 100 + 100, then from 10 again.
        assert!(begin.elapsed() >= Duration::from_millis(350 + 70));
        // And what came of the endless rest before the script was seen to be over.
        let before = errors.get();
        assert!((6 + 3 + 1..6 + 3 + 6).contains(&before), "{before}");

        // Nothing but errors for half a second: ten attempts a second or so, not millions.
        let run = run(accept, failed, |_| ());
        let _ = tokio::time::timeout(Duration::from_millis(500), run).await;
        assert!(errors.get() - before < 12, "{}", errors.get());
    });
}

#[test]
fn a_full_cap_gives_up_the_oldest() {
    on_data_thread(async {
        let cap = Cap::new(2);
        let (a, b) = (cap.enter(), cap.enter());
        let c = cap.clone().enter();
        assert_eq!(cap.in_use(), 2, "clones share it");
        a.lost().await;
        let still = tokio::time::timeout(Duration::from_millis(10), async {
            tokio::select! {
                () = b.lost() => {}
                () = c.lost() => {}
            }
        });
        assert!(still.await.is_err(), "only the oldest is lost");
        drop(a);
        assert_eq!(cap.in_use(), 2, "its place had gone already");
        drop(b);
        let d = cap.enter();
        assert_eq!(cap.in_use(), 2);
        drop((c, d));
        assert_eq!(cap.in_use(), 0);
    });
}

#[test]
fn the_last_descriptors_are_kept_back() {
    struct Numbered(RawFd);
    impl AsRawFd for Numbered {
        fn as_raw_fd(&self) -> RawFd {
            self.0
        }
    }
    for (limit, accepted, dialled) in [(400, 320, 360), (20_000, 18_976, 19_488), (256, 176, 216)] {
        let descriptors = Descriptors::under(limit);
        assert!(descriptors.allow_accepted(&Numbered(accepted - 1)), "{limit}");
        assert!(!descriptors.allow_accepted(&Numbered(accepted)), "{limit}");
        assert!(descriptors.allow_dial(Numbered(dialled - 1)).is_ok(), "{limit}");
        let refused = descriptors.allow_dial(Numbered(dialled)).map(drop);
        assert_eq!(refused.map_err(|e| e.raw_os_error()), Err(Some(libc::EMFILE)), "{limit}");
    }
    assert!(Descriptors::under(u64::MAX).allow_accepted(&Numbered(1 << 20)));
}
