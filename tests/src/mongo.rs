//! A server that real clients of `MongoDB` talk to: it says hello, takes documents and gives none back. Nothing of it is
//! shared with the code that it tests.

use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Serves until the process ends.
///
/// # Errors
/// If no connection can be accepted any more.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        thread::spawn(move || {
            // Clients end their connections when they like.
            let _ = converse(&stream);
        });
    }
}

fn converse(stream: &TcpStream) -> io::Result<()> {
    let (mut reader, mut out, mut replies) = (BufReader::new(stream), stream, 0);
    loop {
        let mut header = [0; 16];
        reader.read_exact(&mut header)?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = usize::try_from(word(0)).unwrap_or(usize::MAX);
        let length =
            length.checked_sub(16).filter(|length| *length < LARGEST).ok_or(io::ErrorKind::InvalidData)?;
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        replies += 1;
        let reply = match word(12) {
            OP_MSG => [&[0; 5][..], &answer(first_key(body.get(5..).unwrap_or_default()))].concat(),
            OP_QUERY => {
                // After the collection's name and two numbers.
                let name = body.iter().skip(4).position(|byte| *byte == 0).unwrap_or(length);
                let document = body.get(4 + name + 1 + 8..).unwrap_or_default();
                let one = 1_u32.to_le_bytes();
                [&8_u32.to_le_bytes()[..], &[0; 12], &one, &answer(first_key(document))].concat()
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let kind = if word(12) == OP_MSG { OP_MSG } else { OP_REPLY };
        let whole = u32::try_from(reply.len() + 16).map_err(|_| io::ErrorKind::InvalidData)?;
        let head = [whole, replies, word(4), kind].map(u32::to_le_bytes).concat();
        out.write_all(&[head, reply].concat())?;
    }
}

/// The first key of a document, which is the command.
fn first_key(document: &[u8]) -> &[u8] {
    let key = document.get(5..).unwrap_or_default();
    key.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn answer(command: &[u8]) -> Vec<u8> {
    let mut fields = vec![number("ok", 1)];
    match command {
        b"isMaster" | b"ismaster" | b"hello" => fields.extend([
            truth("ismaster"),
            number("maxBsonObjectSize", 16 << 20),
            number("maxMessageSizeBytes", 48_000_000),
            number("maxWriteBatchSize", 100_000),
            number("minWireVersion", 0),
            number("maxWireVersion", 8),
        ]),
        b"insert" => fields.push(number("n", 1)),
        b"find" | b"aggregate" => {
            let cursor = [long("id", 0), text("ns", "shop.orders"), nested(4, "firstBatch", &[])];
            fields.push(nested(3, "cursor", &cursor));
        }
        _ => {}
    }
    document(&fields)
}

fn document(fields: &[Vec<u8>]) -> Vec<u8> {
    let fields = fields.concat();
    [&size(fields.len() + 5), &fields[..], &[0]].concat()
}

fn field(kind: u8, name: &str, value: &[u8]) -> Vec<u8> {
    [&[kind][..], name.as_bytes(), &[0], value].concat()
}

fn number(name: &str, value: i32) -> Vec<u8> {
    field(0x10, name, &value.to_le_bytes())
}

fn long(name: &str, value: i64) -> Vec<u8> {
    field(0x12, name, &value.to_le_bytes())
}

fn truth(name: &str) -> Vec<u8> {
    field(8, name, &[1])
}

fn text(name: &str, value: &str) -> Vec<u8> {
    field(2, name, &[&size(value.len() + 1), value.as_bytes(), &[0]].concat())
}

fn nested(kind: u8, name: &str, fields: &[Vec<u8>]) -> Vec<u8> {
    field(kind, name, &document(fields))
}

fn size(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

const OP_REPLY: u32 = 1;
const OP_QUERY: u32 = 2004;
const OP_MSG: u32 = 2013;
/// More than tests send.
const LARGEST: usize = 4 << 20;
