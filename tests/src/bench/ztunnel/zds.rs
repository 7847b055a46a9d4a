//! The protocol by which Istio's node agent hands pods to ztunnel, seen from the agent (`istio/ztunnel`,
//! `proto/zds.proto`): packets over a socket file, each a protobuf message. ztunnel says hello; the agent sends each
//! pod together with a descriptor of its network namespace, then says that this was all; ztunnel answers each with an
//! acknowledgement, which holds the reason if it could not.

use std::{
    fs::{self, File},
    io::{self, IoSlice, Read},
    os::fd::{AsRawFd, RawFd},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result};
use socket2::{Domain, MsgHdr, SockAddr, Socket, Type};

use crate::bed::PodHandle;

/// An agent that serves the pods of one node to whoever connects, each time anew. It lives as long as the process.
#[derive(Debug)]
pub(super) struct Agent {
    state: Arc<Mutex<State>>,
}

/// How far the last conversation has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting,
    Sending,
    Done,
    Failed(String),
}

/// One pod as it is handed over.
#[derive(Debug)]
struct Pod {
    message: Vec<u8>,
    netns: File,
}

impl Agent {
    /// Listens at `path` for the ztunnel of the node that `pods` are on.
    pub(super) fn listen(path: &Path, pods: &[PodHandle]) -> Result<Self> {
        let mut all = Vec::new();
        for pod in pods {
            let status = pod.status();
            let netns = File::open(pod.netns_path())
                .with_context(|| format!("cannot open {}", pod.netns_path().display()))?;
            all.push(Pod { message: add(&status.namespace, &status.name), netns });
        }
        // One may be left of another run.
        let _ = fs::remove_file(path);
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket
            .bind(&SockAddr::unix(path)?)
            .with_context(|| format!("cannot listen at {}", path.display()))?;
        socket.listen(8)?;
        let state = Arc::new(Mutex::new(State::Waiting));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            let tell = |now| *shared.lock().unwrap_or_else(PoisonError::into_inner) = now;
            while let Ok((ztunnel, _)) = socket.accept() {
                tell(State::Sending);
                let handed = hand_over(&ztunnel, &all);
                tell(handed.map_or_else(|error| State::Failed(error.to_string()), |()| State::Done));
                // It keeps the connection for news, of which there are none. Its end is all there is to come.
                let _ = receive(&ztunnel);
                tell(State::Waiting);
            }
        });
        Ok(Self { state })
    }

    /// Whether the ztunnel that is connected has taken all pods.
    pub(super) fn all_taken(&self) -> bool {
        self.current() == State::Done
    }

    /// How it is, for the text of an error.
    pub(super) fn state(&self) -> String {
        match self.current() {
            State::Waiting => "it has not asked for pods".to_owned(),
            State::Sending => "it does not answer to a pod".to_owned(),
            State::Done => "it has all pods".to_owned(),
            State::Failed(reason) => format!("it refuses a pod: {reason}"),
        }
    }

    fn current(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The name of a pod that its workload's `uid` in the configuration has as well.
pub(super) fn uid(namespace: &str, name: &str) -> String {
    format!("Kubernetes//Pod/{namespace}/{name}")
}

fn hand_over(ztunnel: &Socket, pods: &[Pod]) -> io::Result<()> {
    receive(ztunnel)?;
    for Pod { message, netns } in pods {
        send(ztunnel, message, Some(netns.as_raw_fd()))?;
        acknowledged(&receive(ztunnel)?)?;
    }
    send(ztunnel, &field(SNAPSHOT_SENT, &[]), None)?;
    acknowledged(&receive(ztunnel)?)
}

fn receive(mut socket: &Socket) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4096];
    let length = socket.read(&mut packet)?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    packet.truncate(length);
    Ok(packet)
}

fn send(socket: &Socket, message: &[u8], descriptor: Option<RawFd>) -> io::Result<()> {
    let buffers = [IoSlice::new(message)];
    let control = descriptor.map(rights).unwrap_or_default();
    let packet = MsgHdr::new().with_buffers(&buffers);
    let packet = if control.is_empty() { packet } else { packet.with_control(&control) };
    socket.sendmsg(&packet, 0).map(drop)
}

/// The control message that passes one descriptor: a `cmsghdr` and the descriptor, padded to the size of a word.
fn rights(descriptor: RawFd) -> Vec<u8> {
    let length = size_of::<usize>() + 3 * size_of::<i32>();
    let mut bytes = length.to_ne_bytes().to_vec();
    for value in [libc::SOL_SOCKET, libc::SCM_RIGHTS, descriptor] {
        bytes.extend(value.to_ne_bytes());
    }
    bytes.resize(length.next_multiple_of(size_of::<usize>()), 0);
    bytes
}

/// `WorkloadRequest.add` of a pod whose service account has its name.
fn add(namespace: &str, name: &str) -> Vec<u8> {
    let text = |number, text: &str| field(number, text.as_bytes());
    let info = [text(1, name), text(2, namespace), text(3, name)].concat();
    field(ADD, &[text(1, &uid(namespace, name)), field(2, &info)].concat())
}

/// A protobuf field of bytes, text or a message.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    const LENGTH_DELIMITED: u8 = 2;
    let mut encoded = vec![number << 3 | LENGTH_DELIMITED];
    let mut length = bytes.len();
    while length > 0x7f {
        encoded.push(0x80 | u8::try_from(length & 0x7f).unwrap_or(0));
        length >>= 7;
    }
    encoded.push(u8::try_from(length).unwrap_or(0));
    encoded.extend_from_slice(bytes);
    encoded
}

/// `WorkloadResponse`: an `ack` without a text is a yes.
fn acknowledged(response: &[u8]) -> io::Result<()> {
    match response {
        [] | [ACK, 0] => Ok(()),
        // Two fields' heads stand before the text; their lengths may take more than a byte each.
        other => {
            Err(io::Error::other(String::from_utf8_lossy(other).trim_matches(|c: char| c < ' ').to_owned()))
        }
    }
}

/// Fields of `WorkloadRequest`.
const ADD: u8 = 1;
const SNAPSHOT_SENT: u8 = 3;

/// The head of the field `WorkloadResponse.ack`.
const ACK: u8 = 0x0a;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(field(3, &[]), [0x1a, 0]);
        assert_eq!(&field(1, &[7; 300])[..4], [0x0a, 0xac, 0x02, 7]);
        let message = add("ns", "pod");
        assert_eq!(message[..4], [0x0a, 0x28, 0x0a, 0x16], "{message:x?}");
        assert!(message.ends_with(b"\x12\x0e\x0a\x03pod\x12\x02ns\x1a\x03pod"), "{message:x?}");
    }

    #[test]
    fn acknowledgements() {
        assert!(acknowledged(&[]).is_ok() && acknowledged(&[ACK, 0]).is_ok());
        let refusal = field(1, &field(1, b"no such namespace"));
        assert_eq!(acknowledged(&refusal).unwrap_err().to_string(), "no such namespace");
    }

    #[test]
    fn a_descriptor_arrives() {
        let path = std::env::temp_dir().join(format!("zds-test-{}", std::process::id()));
        let (here, there) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        fs::write(&path, "yes").unwrap();
        let file = File::open(&path).unwrap();
        send(&here, b"x", Some(file.as_raw_fd())).unwrap();
        let mut control = [std::mem::MaybeUninit::<u8>::uninit(); 64];
        let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); 8];
        let mut buffers = [socket2::MaybeUninitSlice::new(&mut buffer)];
        let mut message = socket2::MsgHdrMut::new().with_buffers(&mut buffers).with_control(&mut control);
        assert_eq!(there.recvmsg(&mut message, 0).unwrap(), 1);
        // A header of a word and two integers, then the descriptor.
        assert_eq!(message.control_len(), rights(0).len());
        fs::remove_file(path).unwrap();
    }
}
