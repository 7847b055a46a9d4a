//! The fields of a head, in one pass: into the map they go, and what frames the message is noted on the way.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use mesh_core::trace::TraceWord;

use super::hop::{self, Connection};
use super::names;
use super::{Framing, Limits, Reason, Underscores, Upgrade, Version};

/// What the fields of a head say.
pub(super) struct Fields {
    pub(super) headers: HeaderMap,
    /// The value of Host. Requests only; it is not in the map, since the target may overrule it.
    pub(super) host: Option<Bytes>,
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) connection: Connection,
    /// Whether any field is there that must not be sent on.
    pub(super) hop_by_hop: bool,
    /// What they say of a trace. Requests only.
    pub(super) trace: TraceWord,
    expects: Expects,
    upgrades: usize,
    underscores: bool,
}

/// What the Expect fields ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expects {
    Nothing,
    Continue,
    Other,
}

/// Whose head it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    Request,
    Response,
}

impl Fields {
    /// Takes the fields out of `head`, of which `parsed` are the slices. Their map is made of `spare`.
    pub(super) fn collect(
        head: &Bytes,
        parsed: &[httparse::Header<'_>],
        message: Message,
        spare: &mut HeaderMap,
    ) -> Result<Self, Reason> {
        let mut headers = std::mem::take(spare);
        headers.clear();
        headers.reserve(parsed.len());
        let mut fields = Self {
            headers,
            host: None,
            length: None,
            chunked: false,
            connection: Connection::default(),
            hop_by_hop: false,
            trace: TraceWord::Nothing,
            expects: Expects::Nothing,
            upgrades: 0,
            underscores: false,
        };
        for field in parsed {
            fields.add(head, field, message)?;
        }
        if fields.hop_by_hop || fields.underscores {
            // Connection may say that it goes no further, and a field may look like it to an application.
            fields.put_back()?;
        }
        Ok(fields)
    }

    /// What follows the head, by RFC 9112, section 6.3, without its tolerance. `None` is for the message to decide.
    pub(super) fn framing(&self, version: Version) -> Result<Option<Framing>, Reason> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Reason::LengthAndEncoding),
            (true, None) if version == Version::Http10 => Err(Reason::TransferEncodingVersion),
            (true, None) => Ok(Some(Framing::Chunked)),
            (false, Some(length)) => Ok(Some(Framing::Length(length))),
            (false, None) => Ok(None),
        }
    }

    /// Whether the connection stays open after the message.
    pub(super) const fn keep_alive(&self, version: Version) -> bool {
        !self.connection.close
            && match version {
                Version::Http11 => true,
                Version::Http10 => self.connection.keep_alive,
            }
    }

    /// Whether `100-continue` is expected.
    pub(super) fn expects_continue(&self) -> Result<bool, Reason> {
        match self.expects {
            Expects::Nothing => Ok(false),
            Expects::Continue => Ok(true),
            Expects::Other => Err(Reason::Expectation),
        }
    }

    /// The one protocol that the connection could switch to. Anything else is no upgrade, and its fields are dropped
    /// with the other hop-by-hop ones: RFC 9110, section 7.8, lets a server ignore them.
    pub(super) fn upgrade(&self, version: Version) -> Option<Upgrade> {
        if !self.connection.upgrade || self.upgrades != 1 || version == Version::Http10 {
            return None;
        }
        Upgrade::parse(self.headers.get(header::UPGRADE)?)
    }

    /// [`judge_underscores`], if there are any.
    pub(super) fn judge_underscores(&mut self, limits: &Limits) -> Result<(), Reason> {
        if self.underscores { judge_underscores(&mut self.headers, limits.underscores) } else { Ok(()) }
    }

    fn add(&mut self, head: &Bytes, field: &httparse::Header<'_>, message: Message) -> Result<(), Reason> {
        if message == Message::Request && self.trace == TraceWord::Nothing && names::says_untraced(field) {
            // Nearly every request of the mesh says so, and a place in the map costs more than all else that there is to it.
            self.trace = TraceWord::Untraced;
            return Ok(());
        }
        let name = names::of(field.name).ok_or(Reason::FieldName)?;
        let raw = head.slice_ref(field.value);
        if message == Message::Request {
            self.underscores |= field.name.contains('_');
            if names::may_be_of_trace(field.name) {
                self.put_back()?;
                self.trace = TraceWord::Any;
            }
            if name == header::HOST {
                return if self.host.replace(raw).is_none() { Ok(()) } else { Err(Reason::HostRepeated) };
            }
        }
        let keep = self.note(&name, &raw)?;
        if keep {
            let value = HeaderValue::from_maybe_shared(raw).map_err(|_| Reason::FieldValue)?;
            self.headers.try_append(name, value).map_err(|_| Reason::TooManyFields)?;
        }
        Ok(())
    }

    /// Puts what says that a request is not traced where the other fields are.
    fn put_back(&mut self) -> Result<(), Reason> {
        if self.trace == TraceWord::Untraced {
            self.trace = TraceWord::Any;
            let (name, value) = (names::X_B3_SAMPLED, HeaderValue::from_static("0"));
            self.headers.try_append(name, value).map_err(|_| Reason::TooManyFields)?;
        }
        Ok(())
    }

    /// Notes what concerns the message itself; `false` keeps the field out of the map.
    fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<bool, Reason> {
        match *name {
            header::CONTENT_LENGTH => {
                if self.length.replace(content_length(value)?).is_some() {
                    return Err(Reason::ContentLengthRepeated);
                }
            }
            header::TRANSFER_ENCODING => {
                if std::mem::replace(&mut self.chunked, true) {
                    return Err(Reason::TransferEncoding);
                }
                only_chunked(value)?;
                return Ok(false);
            }
            header::CONNECTION => {
                self.connection.add(value)?;
                if hop::names_nothing(value) {
                    // Nearly every head has such a one: what it says is noted, and nothing has to be taken out for it.
                    return Ok(false);
                }
                self.hop_by_hop = true;
            }
            header::UPGRADE => {
                self.upgrades += 1;
                self.hop_by_hop = true;
            }
            header::EXPECT => {
                let first = self.expects == Expects::Nothing;
                let known = first && value.eq_ignore_ascii_case(b"100-continue");
                self.expects = if known { Expects::Continue } else { Expects::Other };
            }
            _ => self.hop_by_hop |= hop::is_hop_by_hop(name),
        }
        Ok(true)
    }
}

/// Refuses or drops what applications could take for another field, in a head with underscores in its names.
pub fn judge_underscores(headers: &mut HeaderMap, underscores: Underscores) -> Result<(), Reason> {
    if underscores == Underscores::Refuse {
        return Err(Reason::Underscore);
    }
    let is_twin = |name: &&HeaderName| {
        let dashed = name.as_str().replace('_', "-");
        name.as_str().contains('_') && (headers.contains_key(&*dashed) || hop::is_relied_on(&dashed))
    };
    let twins: Vec<HeaderName> = headers.keys().filter(is_twin).cloned().collect();
    for name in twins {
        headers.remove(name);
    }
    Ok(())
}

/// A plain decimal number, without sign, space, list or leading zero. RFC 9110, section 8.6, lets a recipient take
/// `5, 5` for 5; whoever sends that has lost track of what it frames, and is refused.
pub fn content_length(value: &[u8]) -> Result<u64, Reason> {
    if value.is_empty() || (value.len() > 1 && value.first() == Some(&b'0')) {
        return Err(Reason::ContentLength);
    }
    let mut length: u64 = 0;
    for &digit in value {
        if !digit.is_ascii_digit() {
            return Err(Reason::ContentLength);
        }
        let next = length.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit - b'0')));
        length = next.ok_or(Reason::ContentLength)?;
    }
    Ok(length)
}

/// `chunked` and nothing else. Codings below it are transfer codings that nobody speaks any more: RFC 9112, section
/// 6.1, answers them with 501, and everything that leaves the end of the body open with 400.
fn only_chunked(value: &[u8]) -> Result<(), Reason> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = value.rsplit(|&b| b == b',').map(<[u8]>::trim_ascii);
    let last_is_chunked = codings.next().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"));
    let is_other = |coding: &[u8]| {
        !coding.is_empty()
            && coding.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && !coding.eq_ignore_ascii_case(b"chunked")
            && !coding.eq_ignore_ascii_case(b"identity")
    };
    if last_is_chunked && codings.all(is_other) {
        Err(Reason::TransferCoding)
    } else {
        Err(Reason::TransferEncoding)
    }
}

/// The fields after a body. Those that frame, route or authenticate came too late to be judged with the head, and are
/// refused: RFC 9110, section 6.5.1.
pub(super) fn trailers(section: &Bytes, parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, Reason> {
    let mut map = HeaderMap::with_capacity(parsed.len());
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Reason::FieldName)?;
        if !may_trail(&name) {
            return Err(Reason::TrailerField);
        }
        let value = HeaderValue::from_maybe_shared(section.slice_ref(field.value));
        map.try_append(name, value.map_err(|_| Reason::FieldValue)?).map_err(|_| Reason::TrailersTooLarge)?;
    }
    Ok(map)
}

/// Whether a field may stand after the body. What applications could take for one that may not, may not either.
pub fn may_trail(name: &HeaderName) -> bool {
    let is_twin = || name.as_str().contains('_') && hop::is_relied_on(&name.as_str().replace('_', "-"));
    !hop::is_hop_by_hop(name) && !hop::is_relied_on(name.as_str()) && !is_twin()
}
