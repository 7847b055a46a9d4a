use super::*;

fn written(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame.write(&mut out);
    out
}

fn all() -> Vec<Frame<'static>> {
    vec![
        Frame::Open(1, b"open"),
        Frame::Accept(1),
        Frame::Refuse(u32::MAX, Refusal::NotTaken),
        Frame::Refuse(2, Refusal::Status(503)),
        Frame::Data { stream: 7, bytes: b"bytes", fin: false },
        Frame::Data { stream: 7, bytes: b"last", fin: true },
        Frame::Data { stream: 7, bytes: b"", fin: true },
        Frame::Data { stream: 7, bytes: &[9; MAX_PAYLOAD], fin: false },
        Frame::Credit(7, 1),
        Frame::Reset(7),
        Frame::Ping(*b"whoisit?"),
        Frame::Pong(*b"whoisit?"),
        Frame::Leave(0),
        Frame::Leave(9),
    ]
}

#[test]
fn what_was_written_is_read_again() {
    let stream: Vec<u8> = all().iter().flat_map(written).collect();
    let mut rest = &stream[..];
    for frame in all() {
        let (read, length) = first(rest).expect("good").expect("complete");
        assert_eq!(read, frame);
        rest = &rest[length..];
    }
    assert!(rest.is_empty());
}

#[test]
fn a_frame_is_not_there_before_its_last_byte() {
    for frame in all() {
        let bytes = written(&frame);
        for end in 0..bytes.len() {
            assert_eq!(first(&bytes[..end]), Ok(None), "{frame:?} cut at {end}");
        }
    }
}

#[test]
fn what_is_no_frame_is_said_so() {
    let long = (MAX_PAYLOAD + 1).to_be_bytes();
    let [.., l0, l1] = long;
    let cases: [(&[u8], FrameError); 15] = [
        (&[0, 0, 0, 0, 0, 0, 0, 1], FrameError::Kind(0)),
        (&[10, 0, 0, 0, 0, 0, 0, 1], FrameError::Kind(10)),
        (&[255, 0, 0, 0, 0, 0, 0, 1], FrameError::Kind(255)),
        (&[4, 0, l0, l1, 0, 0, 0, 1], FrameError::Length(MAX_PAYLOAD + 1)),
        (&[4, 3, 0, 1, 0, 0, 0, 1, 0], FrameError::Flags { kind: 4, flags: 3 }),
        (&[2, 1, 0, 0, 0, 0, 0, 1], FrameError::Flags { kind: 2, flags: 1 }),
        (&[4, 1, 0, 0, 0, 0, 0, 0], FrameError::Stream(4)),
        (&[1, 0, 0, 0, 0, 0, 0, 0], FrameError::Stream(1)),
        (&[7, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], FrameError::Stream(7)),
        (&[4, 0, 0, 0, 0, 0, 0, 1], FrameError::Payload { kind: 4, length: 0 }),
        (&[5, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0], FrameError::Payload { kind: 5, length: 4 }),
        (&[5, 0, 0, 3, 0, 0, 0, 1, 0, 0, 1], FrameError::Payload { kind: 5, length: 3 }),
        (&[3, 0, 0, 2, 0, 0, 0, 1, 0, 200], FrameError::Payload { kind: 3, length: 2 }),
        (&[6, 0, 0, 1, 0, 0, 0, 1, 0], FrameError::Payload { kind: 6, length: 1 }),
        (&[8, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], FrameError::Payload { kind: 8, length: 7 }),
    ];
    for (bytes, error) in cases {
        assert_eq!(first(bytes), Err(error), "{bytes:?}");
    }
}

#[test]
fn no_bytes_hurt() {
    let mut state = 88_172_645_463_325_252_u64;
    for _ in 0..100_000 {
        let bytes: Vec<u8> = (0..24)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Small numbers, so that many are frames.
                u8::try_from(state % 12).expect("small")
            })
            .collect();
        if let Ok(Some((frame, length))) = first(&bytes) {
            assert_eq!(written(&frame), bytes[..length], "{frame:?}");
        }
    }
}
