//! Queries made to hurt, and resolvers that are silent, confused or not who they say they are.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};

use super::*;

/// A resolver in the network of node-2 that does as it is told.
struct Rogue {
    at: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Rogue {
    /// Hands every packet to `answer`.
    fn start(bed: &Bed, answer: impl Fn(&UdpSocket, SocketAddr, &[u8]) + Send + 'static) -> Result<Self> {
        let node = bed.node("node-2")?;
        let [ip, _] = node.ips();
        let socket = node.run_in_netns(|| UdpSocket::bind((ip, 53)))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let over = Arc::<AtomicBool>::default();
        let told = over.clone();
        let thread = std::thread::spawn(move || {
            let mut packet = [0; 4096];
            while !told.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut packet) {
                    answer(&socket, from, &packet[..length]);
                }
            }
        });
        Ok(Self { at: SocketAddr::new(ip, 53), over, thread: Some(thread) })
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // A thread that panicked has said so already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The answer to a packet, with one address.
fn answered(packet: &[u8], address: [u8; 4]) -> Message {
    let mut message = Message::from_vec(packet).expect("a query");
    message.metadata.message_type = MessageType::Response;
    let name = message.queries[0].name().clone();
    let [a, b, c, d] = address;
    message.add_answer(Record::from_rdata(name, 60, RData::A(A::new(a, b, c, d))));
    message
}

fn count(bed: &Bed, name: &str, labels: &[(&str, &str)]) -> Result<i64> {
    Ok(Scrape::of(&bed.node("node-1")?)?.count(name, labels))
}

fn start_bed() -> Result<Bed> {
    start(Bed::builder().nodes(2).manifests(manifests()))
}

/// A resolver that says nothing: clients hear of it before they give up, a pod has no more than its share of queries under
/// way, and names of the mesh are answered all the while.
#[test]
fn a_silent_resolver() -> Result<()> {
    let bed = start_bed()?;
    let silent = Rogue::start(&bed, |_, _, _| {})?;
    let (client, near) = (bed.pod("mesh/client")?, bed.pod("mesh/near")?);
    let (server, at) = (format!("@{}", silent.at.ip()), silent.at.to_string());
    let started = Instant::now();
    let dug = dig(&client, &[&server, "www.out.test"])?;
    ensure!(dug.status() == "SERVFAIL", "{dug:?}");
    ensure!(started.elapsed() < Duration::from_millis(5500), "after {:?}", started.elapsed());

    let mut flood = client.command(&["netprobe", "flood", &at, "www.out.test", "--count", "700"])?;
    let flood = flood.stdout(std::process::Stdio::piped()).spawn()?;
    std::thread::sleep(Duration::from_millis(500));
    for pod in [&client, &near] {
        let started = Instant::now();
        let dug = dig(pod, &[&server, "far.mesh.svc.cluster.local"])?;
        ensure!(dug.answers().len() == 1 && started.elapsed() < Duration::from_secs(2), "{dug:?}");
    }
    let output = flood.wait_with_output()?;
    let codes: BTreeMap<String, usize> = serde_json::from_slice(&output.stdout)?;
    let refused = codes.get("Server Failure").copied().unwrap_or(0);
    ensure!((700 - 512..400).contains(&refused), "told at once: {codes:?}");
    ensure!(count(&bed, "mesh_dns_refused_total", &[("reason", "overload")])? >= 188);
    // All of them end.
    bed.wait("room for others", Duration::from_secs(10), |_| {
        let asked = dig(&client, &[&server, "+time=1", "www.out.test"]);
        asked.is_ok_and(|dug| dug.status() != "SERVFAIL")
    })?;
    Ok(())
}

/// Some programs ask all their resolvers at once, from one socket: one that answers is enough.
#[test]
fn one_resolver_of_several_is_enough() -> Result<()> {
    let bed = start_bed()?;
    let _silent = Rogue::start(&bed, |_, _, _| {})?;
    let [two, two6] = bed.node("node-2")?.ips();
    let [one, _] = bed.node("node-1")?.ips();
    let good = bed.node("node-1")?.run_in_netns(|| UdpSocket::bind((one, 53)))??;
    good.set_read_timeout(Some(Duration::from_secs(10)))?;
    let answers = std::thread::spawn(move || -> std::io::Result<()> {
        let mut packet = [0; 4096];
        let (length, from) = good.recv_from(&mut packet)?;
        let answer = answered(&packet[..length], [203, 0, 113, 9]).to_vec().expect("a message");
        good.send_to(&answer, from).map(drop)
    });
    let (good, silent) = (format!("{one}:53"), format!("{two}:53"));
    let words = [&*good, "www.out.test", "--also", &silent, "--timeout", "5000"];
    let seen = ask(&bed.pod("mesh/client")?, &words)?;
    ensure!(seen.answers == ["203.0.113.9"], "{seen:?}");
    answers.join().map_err(|_| anyhow::anyhow!("the resolver panicked"))??;
    // Nobody is there at all: the kernel says so, and no time is lost.
    let started = Instant::now();
    let dug = dig(&bed.pod("mesh/client")?, &[&format!("@{two6}"), "www.out.test"])?;
    ensure!(dug.status() == "SERVFAIL" && started.elapsed() < Duration::from_secs(3), "{dug:?}");
    Ok(())
}

/// Answers with another id, another question, or that are none; then the right one.
#[test]
fn forged_answers_are_not_believed() -> Result<()> {
    let bed = start_bed()?;
    let liar = Rogue::start(&bed, |socket, from, packet| {
        let forged = answered(packet, [192, 0, 2, 66]);
        let send = |message: &Message| socket.send_to(&message.to_vec().expect("a message"), from);
        for guess in 1..=100_u16 {
            let mut wrong = forged.clone();
            wrong.metadata.id = wrong.metadata.id.wrapping_add(guess);
            let _ = send(&wrong);
        }
        let mut other = packet.to_vec();
        other[13] = if other[13].eq_ignore_ascii_case(&b'x') { b'y' } else { b'x' };
        let _ = send(&answered(&other, [192, 0, 2, 66]));
        let mut query = forged;
        query.metadata.message_type = MessageType::Query;
        let _ = send(&query);
        let _ = send(&answered(packet, [203, 0, 113, 9]));
    })?;
    let client = bed.pod("mesh/client")?;
    for _ in 0..5 {
        let dug = dig(&client, &[&format!("@{}", liar.at.ip()), "www.out.test"])?;
        ensure!(dug.answers() == ["203.0.113.9"], "{dug:?}");
    }
    ensure!(count(&bed, "mesh_dns_refused_total", &[("reason", "stray_answer")])? >= 5 * 102);
    Ok(())
}

/// A resolver that does not keep the case of a name may be a forger: it is asked again where nobody can forge.
#[test]
fn answers_in_another_case_are_asked_for_again() -> Result<()> {
    let bed = start_bed()?;
    let lowered = |packet: &[u8], address| {
        let mut packet = packet.to_vec();
        packet[12..26].make_ascii_lowercase();
        answered(&packet, address).to_vec().expect("a message")
    };
    let rogue = Rogue::start(&bed, move |socket, from, packet| {
        let _ = socket.send_to(&lowered(packet, [192, 0, 2, 66]), from);
    })?;
    let (node, at) = (bed.node("node-2")?, rogue.at);
    let listener = node.run_in_netns(|| TcpListener::bind(at))??;
    let streams = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut packet = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut packet)?;
        let answer = lowered(&packet, [203, 0, 113, 9]);
        let length = u16::try_from(answer.len()).expect("a short answer");
        stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat())
    });
    let dug = dig(&bed.pod("mesh/client")?, &[&format!("@{}", at.ip()), "wwwwwwwwwwwwww.out.test"])?;
    ensure!(dug.answers() == ["203.0.113.9"], "{dug:?}");
    streams.join().map_err(|_| anyhow::anyhow!("the resolver panicked"))??;
    ensure!(count(&bed, "mesh_dns_refused_total", &[("reason", "other_case")])? == 1);
    Ok(())
}

/// Whatever a process of the pod sends to the resolver itself.
#[test]
fn garbage_ends_in_silence_or_a_format_error() -> Result<()> {
    let bed = start_bed()?;
    let client = bed.pod("mesh/client")?;
    let outcome = client.run_in_netns(|| -> Result<()> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect("127.0.0.1:15053")?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        let answer = |packet: &[u8]| -> Option<Vec<u8>> {
            socket.send(packet).ok()?;
            let mut answer = vec![0; 4096];
            let length = socket.recv(&mut answer).ok()?;
            answer.truncate(length);
            Some(answer)
        };
        let question = b"\x03www\x03out\x04test\0\0\x01\0\x01";
        let query = [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", &question[..]].concat();
        // Nobody has been asked who could know.
        ensure!(answer(&query).is_some_and(|it| it[3] & 15 == 5), "not refused");
        let response = [b"\x12\x34\x81\0\0\x01\0\0\0\0\0\0", &question[..]].concat();
        for silent in [&b""[..], b"x", &query[..11], &response] {
            ensure!(answer(silent).is_none(), "an answer to {silent:?}");
        }
        for bad in [
            &query[..20],
            b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01",
            b"\x12\x34\x01\0\0\x02\0\0\0\0\0\0\x01a\0\0\x01\0\x01\x01a\0\0\x01\0\x01",
            b"\x12\x34\x01\0\xff\xff\xff\xff\xff\xff\xff\xff\x01a\0\0\x01\0\x01",
        ] {
            ensure!(answer(bad).is_some_and(|it| it[..2] == [0x12, 0x34] && it[3] & 15 == 1), "{bad:?}");
        }
        // Bytes that mean nothing, the same in every run.
        let mut state = 1_u64;
        for length in 0..2000_usize {
            let bytes: Vec<u8> = (0..length % 600)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    state.to_be_bytes()[0]
                })
                .collect();
            socket.send(&bytes)?;
        }
        let mut stream = std::net::TcpStream::connect("127.0.0.1:15053")?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"\xff\xffGET / HTTP/1.1\r\n\r\n")?;
        let ended = stream.read(&mut [0; 16]);
        ensure!(!matches!(ended, Ok(1..)), "an answer to a message that is too long: {ended:?}");
        Ok(())
    })?;
    outcome?;
    let dug = dig(&client, &[&format!("@{CLUSTER_DNS}"), "near.mesh.svc.cluster.local"])?;
    ensure!(dug.answers().len() == 1, "{dug:?}");
    ensure!(count(&bed, "mesh_dns_refused_total", &[("reason", "malformed")])? >= 1000);
    ensure!(count(&bed, "mesh_panics_total", &[])? == 0);
    Ok(())
}
