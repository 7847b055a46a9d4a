//! The messages of gRPC's health protocol (`grpc.health.v1.Health/Check`), which are a text and a number.

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// `SERVING`.
    Yes,
    /// Another status, as its number.
    No(u64),
}

/// The body of a call that asks about a service; empty for the server as a whole.
pub fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(service.len() + 4);
    // Field 1, with a length. An empty text is not sent, as protobuf has it.
    if !service.is_empty() {
        message.push(TEXT);
        varint(service.len(), &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut body = vec![0];
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(&message);
    body
}

/// Reads the body of an answer; `None` for what is none. Fields that are not known are skipped.
pub fn serving(body: &[u8]) -> Option<Serving> {
    let (prefix, message) = body.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes(prefix.get(1..)?.try_into().ok()?);
    if prefix.first() != Some(&0) || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    // An answer without the field says UNKNOWN, which is 0.
    let mut status = 0;
    let mut rest = message;
    while !rest.is_empty() {
        let (tag, after) = read_varint(rest)?;
        rest = match tag & 7 {
            0 => {
                let (value, after) = read_varint(after)?;
                if tag == NUMBER {
                    status = value;
                }
                after
            }
            1 => after.get(8..)?,
            2 => {
                let (length, after) = read_varint(after)?;
                after.get(usize::try_from(length).ok()?..)?
            }
            5 => after.get(4..)?,
            _ => return None,
        };
    }
    Some(if status == 1 { Serving::Yes } else { Serving::No(status) })
}

fn varint(value: usize, out: &mut Vec<u8>) {
    let mut value = value;
    loop {
        let low = u8::try_from(value & 0x7F).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(MOST_BYTES) {
        value |= u64::from(byte & 0x7F).checked_shl(u32::try_from(at).ok()? * 7)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}

/// The flag of compression and the length before each message of gRPC.
const PREFIX: usize = 5;
/// Field 1 as a text.
const TEXT: u8 = 0x0A;
/// Field 1 as a number.
const NUMBER: u64 = 0x08;
/// Bytes of a 64-bit number in base 128.
const MOST_BYTES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_as_the_protocol_has_them() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("a.B"), [0, 0, 0, 0, 5, 0x0A, 3, b'a', b'.', b'B']);
        let long = question(&"x".repeat(300));
        assert_eq!((&long[1..5], &long[5..8]), (&[0, 0, 1, 47][..], &[0x0A, 0xAC, 2][..]));
    }

    #[test]
    fn answers_are_read_and_nothing_else_is() {
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(Serving::Yes));
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 2]), Some(Serving::No(2)));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(Serving::No(0)));
        // A text, four bytes and eight of fields nobody knows come before it.
        let known = [0x12, 1, b'x', 0x1D, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 8, 1];
        let mut body = vec![0, 0, 0, 0, 19];
        body.extend(known);
        assert_eq!(serving(&body), Some(Serving::Yes));
        for wrong in [
            &[][..],
            &[0, 0, 0, 0],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 3, 8, 1],
            &[0, 0, 0, 0, 1, 8],
            &[0, 0, 0, 0, 2, 0x0B, 1],
            &[0, 0, 0, 0, 2, 0x12, 9],
            &[0, 0, 0, 0, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
        ] {
            assert_eq!(serving(wrong), None, "{wrong:?}");
        }
    }
}
