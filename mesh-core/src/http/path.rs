//! Paths in the one form that rules are matched against, and that is sent on.
//!
//! `/public/../admin` reaches `/admin` on most servers, and so do `/%61dmin`, `/\admin` and, on some, `//admin`. A rule
//! about `/admin` holds only if it sees what the server will make of the path. How far that goes is for the mesh to
//! say, since it changes what arrives: `MeshConfig.pathNormalization`.

use std::borrow::Cow;

/// How paths are normalised. The values of `MeshConfig.pathNormalization.normalization`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Normalization {
    /// Not at all, and nothing is refused.
    None,
    /// Dot segments are resolved, backslashes become slashes, and unreserved characters lose their escapes: RFC 3986,
    /// sections 6.2.2.2 and 6.2.2.3. Other escapes stay as they are written. `DEFAULT` means this one.
    #[default]
    Base,
    /// As [`Normalization::Base`], and afterwards several slashes in a row become one.
    MergeSlashes,
    /// `%2F` and `%5C` become slashes before all that.
    DecodeAndMergeSlashes,
}

/// What happens to `%2F` and `%5C` in paths that are normalised without decoding them. Some servers take them for
/// slashes, so a rule about `/admin` may or may not be one about `/x/..%2Fadmin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EscapedSlashes {
    /// They are refused: nobody has said what they mean.
    #[default]
    Refuse,
    /// They stay as they are, as Istio has it.
    Keep,
}

/// Why a path is refused: with 400, before any rule is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not start with a slash.
    #[error("does not start with a slash")]
    NotAbsolute,
    /// It holds a byte that belongs into no path: a space, a control character, `?`, `#`, or one outside ASCII.
    #[error("holds a character that has no place in a path")]
    Character,
    /// A `%` without two hexadecimal digits behind it.
    #[error("holds a percent sign that escapes nothing")]
    Escape,
    /// An escaped control character. Nobody means `%00`, and programs in C end the path there.
    #[error("holds an escaped control character")]
    Control,
    /// `%2F` or `%5C`, where they are refused.
    #[error("holds an escaped slash or backslash")]
    EscapedSlash,
}

impl PathError {
    /// Stable token for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAbsolute => "path_not_absolute",
            Self::Character => "path_character",
            Self::Escape => "path_escape",
            Self::Control => "path_control",
            Self::EscapedSlash => "path_escaped_slash",
        }
    }
}

/// The path, which has no query, in normal form. It is borrowed if it was in that form already. What comes out
/// normalises to itself.
pub fn normalize(
    path: &str,
    normalization: Normalization,
    slashes: EscapedSlashes,
) -> Result<Cow<'_, str>, PathError> {
    if normalization == Normalization::None {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let merge = normalization != Normalization::Base;
    if is_normal(path, merge)? {
        return Ok(Cow::Borrowed(path));
    }
    let decode = normalization == Normalization::DecodeAndMergeSlashes;
    let unescaped = unescape(path, decode, slashes)?;
    let mut normal = remove_dot_segments(&unescaped);
    if merge {
        merge_slashes(&mut normal);
    }
    Ok(if normal == path { Cow::Borrowed(path) } else { Cow::Owned(normal) })
}

/// Whether nothing in the path is worth a second look. Most paths pass here.
fn is_normal(path: &str, merge: bool) -> Result<bool, PathError> {
    let mut previous = b' ';
    let mut normal = true;
    for byte in path.bytes() {
        match byte {
            b'%' | b'\\' => normal = false,
            b'.' if previous == b'/' => normal = false,
            b'/' if merge && previous == b'/' => normal = false,
            b'?' | b'#' => return Err(PathError::Character),
            b'!'..=b'~' => {}
            _ => return Err(PathError::Character),
        }
        previous = byte;
    }
    Ok(normal)
}

/// Takes the escapes off what needs none, and turns backslashes round.
fn unescape(path: &str, decode: bool, slashes: EscapedSlashes) -> Result<String, PathError> {
    let mut unescaped = String::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'\\' => unescaped.push('/'),
            b'%' => {
                let [high, low, after @ ..] = after else { return Err(PathError::Escape) };
                rest = after;
                match escaped(*high, *low)? {
                    b'/' | b'\\' if decode => unescaped.push('/'),
                    b'/' | b'\\' if slashes == EscapedSlashes::Refuse => return Err(PathError::EscapedSlash),
                    control if control.is_ascii_control() => return Err(PathError::Control),
                    byte if is_unreserved(byte) => unescaped.push(char::from(byte)),
                    _ => unescaped.extend(['%', char::from(*high), char::from(*low)]),
                }
            }
            byte => unescaped.push(char::from(*byte)),
        }
    }
    Ok(unescaped)
}

fn escaped(high: u8, low: u8) -> Result<u8, PathError> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (high, low) = digit(high).zip(digit(low)).ok_or(PathError::Escape)?;
    Ok(high << 4 | low)
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986, section 5.2.4, for a path that starts with a slash.
fn remove_dot_segments(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    out.truncate(out.rfind('/').unwrap_or(0));
                }
                if is_last {
                    out.push('/');
                }
            }
            _ => {
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    out
}

fn merge_slashes(path: &mut String) {
    let mut previous = ' ';
    path.retain(|c| {
        let again = c == '/' && previous == '/';
        previous = c;
        !again
    });
}

#[cfg(test)]
mod tests;
