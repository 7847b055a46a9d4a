use super::*;

fn answer(raw: &'static [u8]) -> io::Result<Response> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        // In two pieces: a reader must not rely on where packets end.
        let (a, b) = raw.split_at(raw.len() / 2);
        stream.write_all(a).unwrap();
        thread::sleep(Duration::from_millis(5));
        stream.write_all(b).unwrap();
    });
    fetch(addr, &Request::get("/"), Duration::from_secs(5))
}

#[test]
fn reads_every_kind_of_body() {
    for raw in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhellorest"[..],
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nA: b\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    ] {
        assert_eq!(answer(raw).unwrap().text(), "hello");
    }
    assert_eq!(answer(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().body, b"");
}

#[test]
fn refuses_what_is_no_message() {
    for raw in [
        &b"SSH-2.0-OpenSSH\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ] {
        assert!(answer(raw).is_err(), "{}", String::from_utf8_lossy(raw));
    }
}

#[test]
fn keeps_a_connection_for_several_requests() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || serve(&listener, |r| Response::new(200, "text/plain", r.body.clone())));
    let mut stream = TcpStream::connect(addr).unwrap();
    let one = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n";
    for byte in [b'a', b'b'] {
        stream.write_all(&[&one[..], &[byte]].concat()).unwrap();
        let mut wire = Wire::new(stream.try_clone().unwrap(), None);
        let (start, headers) = wire.head().unwrap().unwrap();
        assert_eq!((start.as_str(), wire.body(&headers, false).unwrap()), ("HTTP/1.1 200 OK", vec![byte]));
    }
}

#[test]
fn gives_up_on_a_silent_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let started = Instant::now();
    let error = fetch(addr, &Request::get("/"), Duration::from_millis(100)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(started.elapsed() < Duration::from_secs(2));
}
