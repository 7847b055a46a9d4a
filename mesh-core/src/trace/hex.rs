//! Numbers of traces in hexadecimal digits. Every traced request has half a dozen of them, read and written: a digit at a time out of a number of
//! 128 bits is slow.

/// The digits of a number, all of them.
pub fn of_64(number: u64) -> [u8; 16] {
    let mut text = [0; 16];
    let mut rest = number;
    for place in text.iter_mut().rev() {
        let digit = u8::try_from(rest & 0xf).unwrap_or_default();
        *place = if digit < 10 { b'0' + digit } else { b'a' - 10 + digit };
        rest >>= 4;
    }
    text
}

/// The same of a number twice as long.
pub fn of_128(number: u128) -> [u8; 32] {
    let mut text = [0; 32];
    let (high, low) = text.split_at_mut(16);
    let [upper, lower] = halves(number);
    high.copy_from_slice(&of_64(upper));
    low.copy_from_slice(&of_64(lower));
    text
}

/// The number of up to 32 digits, in lower case or, if `upper`, in either.
pub fn read(digits: &[u8], upper: bool) -> Option<u128> {
    let (high, low) = digits.split_at(digits.len().saturating_sub(16));
    if high.len() > 16 {
        return None;
    }
    Some(u128::from(read_64(high, upper)?) << 64 | u128::from(read_64(low, upper)?))
}

fn read_64(digits: &[u8], upper: bool) -> Option<u64> {
    digits.iter().try_fold(0, |number: u64, digit| Some(number << 4 | u64::from(value(*digit, upper)?)))
}

const fn value(digit: u8, upper: bool) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' if upper => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn halves(number: u128) -> [u64; 2] {
    [number >> 64, number].map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_their_digits_say() {
        for number in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            assert_eq!(std::str::from_utf8(&of_64(number)).unwrap(), format!("{number:016x}"));
            let long = u128::from(number) << 64 | u128::from(!number);
            assert_eq!(std::str::from_utf8(&of_128(long)).unwrap(), format!("{long:032x}"));
            assert_eq!(read(&of_128(long), false), Some(long));
            assert_eq!(read(&of_64(number), false), Some(number.into()));
        }
    }

    #[test]
    fn what_is_no_digit_is_no_number() {
        assert_eq!(read(b"aF", true), Some(0xaf));
        for (text, upper) in [(&b"aF"[..], false), (b"g", true), (b"+1", true), (&[b'0'; 33], true)] {
            assert_eq!(read(text, upper), None, "{text:?}");
        }
    }
}
